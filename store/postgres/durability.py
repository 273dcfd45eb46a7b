"""On how many machines a message is when it is accepted: whether commits wait for a standby.

Owns the words for it, in the log and for health. An accepted message that is on one machine only is lost with that
machine, although everything else was promised; with several servers configured, an operator may believe otherwise.
"""

import structlog
from psycopg._conninfo_utils import split_attempts
from psycopg.conninfo import conninfo_to_dict

from store.postgres.connection import Connection

TWO_MACHINES = "commits wait for a standby: an accepted message is on two machines"
ONE_MACHINE = "commits wait for no standby: an accepted message is on one machine, and is lost with it"
_ADVICE = (
    "set synchronous_standby_names in PostgreSQL (docs/operations.md), or know that the last messages before a "
    "failover may be lost"
)
# Writes a few bytes of log, which a standby has to confirm, where commits wait for one; nothing otherwise.
PROBE = """SELECT CASE WHEN current_setting('synchronous_standby_names') <> ''
    THEN pg_logical_emit_message(true, 'parley', 'is a standby there?') END"""

log = structlog.get_logger("parley.durability")


class Durability:
    """What was found with the last connection."""

    def __init__(self, conninfo: str) -> None:
        self._several = has_several_hosts(conninfo)
        self._waits: bool | None = None  # not known yet

    def observe(self, waits: bool) -> None:
        """Take note of whether commits wait for a standby; a change is said in the log."""
        if waits == self._waits:
            return
        if waits:
            log.info("commits_wait_for_standby")
        elif self._several or self._waits:
            log.warning("accepted_on_one_machine", reason=ONE_MACHINE, advice=_ADVICE)
        self._waits = waits


def describe(waits: bool) -> str:
    return TWO_MACHINES if waits else ONE_MACHINE


def has_several_hosts(conninfo: str) -> bool:
    return len(list(split_attempts(conninfo_to_dict(conninfo)))) > 1


async def fetch_waits(conn: Connection) -> bool:
    """Whether commits on this connection wait for a standby, as it is set now."""
    row = await (await conn.execute(WAITS)).fetchone()
    assert row is not None
    return bool(row[0])


WAITS = """SELECT current_setting('synchronous_standby_names') <> ''
    AND current_setting('synchronous_commit') <> 'local'"""
