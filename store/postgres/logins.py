"""Why PostgreSQL did not let us in, in whatever language it says so.

Owns which refusals of a login need an operator, and how their SQLSTATE is found. libpq hands on only the words of a
login that failed, and they are in the server's language (lc_messages, which no client sets before it is in). But it can
write down what it was sent, with the SQLSTATE: so where the words are not known, we connect once more and read that.
What is written down stays in memory and is forgotten at once, as it has passwords in it.
"""

import os
import re
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg import pq

WAIT_R, WAIT_W = psycopg.waiting.Wait.R, psycopg.waiting.Wait.W
BAD, READING, WRITING = pq.ConnStatus.BAD, pq.PollingStatus.READING, pq.PollingStatus.WRITING
MOST_LOOKS = 64  # in the life of a process: libpq keeps some memory of each for ever
MAX_TRACE = 1 << 20  # bytes

# In English, as most servers say it; and as libpq and PgBouncer do, the latter with no SQLSTATE of its own for it.
_WORDS = re.compile(
    "password authentication failed|authentication failed for user|no password supplied|no pg_hba.conf entry"
    "|pg_hba.conf rejects|is not permitted to log in|permission denied for database"
    '|(?:role|database) ".*" does not exist'
)
# Classes 22, 28, 3D and 42: a value in the options of the URL, the password or role, the database, and rights. 55000 is
# a database that is closed to all. What comes right by itself is none of them: the server starts up or is a standby
# that is not open yet (57P03), or there are too many connections, of the server or of the role (53300).
_STATES = re.compile("22...|28...|3D...|42...|55000")
_SAID = re.compile(r'^B\t\d+\tErrorResponse\t(?: [A-Z] "[^"]*")*? C "([0-9A-Z]{5})"', re.MULTILINE)


class Refused(psycopg.OperationalError):
    """PostgreSQL will not let us in however often we ask."""


class Logins:
    """What is known of failed logins, by their words."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self.looks = 0

    def is_refusal(self, text: str) -> bool | None:
        """None: another look is needed, with `look`."""
        if _WORDS.search(text):
            return True
        state = self._states.get(text)
        if state is None and self.looks < MOST_LOOKS:
            return None
        return state is not None and _STATES.fullmatch(state) is not None

    def look(self, conninfo: str, text: str) -> Generator[tuple[int, Any], Any, bool]:
        """Try the login again that has failed with this text, and return whether it is refused. As psycopg's
        generators do, it yields a file descriptor and what to wait for there."""
        self.looks += 1
        found, state = yield from _trace(conninfo)
        if found == text:  # the server may have come to another answer meanwhile
            self._states[text] = state
        return _STATES.fullmatch(state) is not None


def _trace(conninfo: str) -> Generator[tuple[int, Any], Any, tuple[str, str]]:
    """Connect, and return the error's words and its SQLSTATE; empty where there is none."""
    trace = os.memfd_create("parley-login")
    try:
        conn = pq.PGconn.connect_start(conninfo.encode())
        try:
            conn.trace(trace)
            conn.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS)
            while conn.status != BAD and (status := conn.connect_poll()) in (READING, WRITING):
                wait = WAIT_R if status == READING else WAIT_W
                while not (yield conn.socket, wait):
                    pass
            text = conn.get_error_message("utf-8")
        finally:
            conn.untrace()  # which writes what libpq still holds of it, and so comes before the file is closed
            conn.finish()
        written = os.pread(trace, MAX_TRACE, 0).decode(errors="replace")
    finally:
        os.close(trace)
    states = _SAID.findall(written)
    return text, states[-1] if states else ""
