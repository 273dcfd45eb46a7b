"""store.postgres.logins: refusals that do not come right by themselves are known as such in every language."""

import re
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import psycopg
import pytest
import trio

from store.errors import Unavailable, Unfit
from store.postgres import connection, logins
from store.postgres.logins import Logins, Refused
from store.postgres.sessions import Connector
from tests.running import free_port
from tests.store.cluster import Cluster

SECRET = "S3CRET"
GERMAN = "Passwort-Authentifizierung für Benutzer »parley« fehlgeschlagen"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Logins:
    made = Logins()
    monkeypatch.setattr(connection, "LOGINS", made)
    return made


@pytest.fixture
def speechless(fresh: Logins, monkeypatch: pytest.MonkeyPatch) -> Logins:
    """No words are known, as if the server spoke a language that was never heard."""
    monkeypatch.setattr(logins, "_WORDS", re.compile("(?!)"))
    return fresh


@pytest.fixture(scope="module")
def locked() -> Iterator[Cluster]:
    cluster = Cluster("127.0.0.1", port=free_port())
    (cluster.directory / "data/pg_hba.conf").write_text(
        "local all all trust\nhost postgres,closed,private all 127.0.0.1/32 scram-sha-256\n"
    )
    cluster.start()
    for statement in (
        f"CREATE ROLE parley LOGIN PASSWORD '{SECRET}'",
        f"CREATE ROLE nologin NOLOGIN PASSWORD '{SECRET}'",
        f"CREATE ROLE full_up LOGIN CONNECTION LIMIT 0 PASSWORD '{SECRET}'",
        "CREATE DATABASE closed ALLOW_CONNECTIONS false",
        "CREATE DATABASE private",
        "REVOKE CONNECT ON DATABASE private FROM public",
    ):
        cluster.execute(statement)
    yield cluster
    cluster.close()


@pytest.mark.parametrize(
    ("login", "database", "said"),
    [
        ("parley:wrong", "postgres", "password authentication failed"),
        (f"stranger:{SECRET}", "postgres", "password authentication failed"),
        (f"nologin:{SECRET}", "postgres", "is not permitted to log in"),
        (f"parley:{SECRET}", "nowhere", "no pg_hba.conf entry"),
        (f"parley:{SECRET}", "private", "permission denied for database"),
        (f"parley:{SECRET}", "closed", "is not currently accepting connections"),
        (f"parley:{SECRET}", "postgres?options=-c%20work_mem%3Dlots", "work_mem"),
    ],
)
async def test_known_by_the_state(locked: Cluster, speechless: Logins, login: str, database: str, said: str) -> None:
    """Whatever PostgreSQL says in words that are not known: an operator has to act."""
    url = f"postgresql://{login}@127.0.0.1:{locked.port}/{database}"
    for _ in range(2):
        with pytest.raises(Unfit, match=f"PostgreSQL refuses the login: .*{said}") as refused:
            await Connector(url, name="test").connect()
        assert SECRET not in str(refused.value)
    assert speechless.looks == 1  # what was found out holds for the same words


async def test_what_comes_right_by_itself(locked: Cluster, speechless: Logins) -> None:
    """A role that has too many connections, and a server that is not there, are waited for."""
    for url in (
        f"postgresql://full_up:{SECRET}@127.0.0.1:{locked.port}/postgres",
        f"host=127.0.0.1 port={free_port()}",
    ):
        for _ in range(2):
            with pytest.raises(Unavailable) as away:
                await Connector(url, name="test").connect()
            assert not isinstance(away.value, Unfit)
    assert speechless.looks == 2


def _error(state: str, text: str) -> bytes:
    """As PostgreSQL ends a login."""
    body = f"SFATAL\0VFATAL\0C{state}\0M{text}\0Fauth.c\0L326\0Rauth_failed\0\0".encode()
    return b"E" + struct.pack("!I", len(body) + 4) + body


@asynccontextmanager
async def speaking(*answers: bytes) -> AsyncIterator[tuple[str, list[None]]]:
    """A server that asks for the password and answers so, the last answer again and again; and who has come."""
    came: list[None] = []

    async def receive(stream: trio.SocketStream) -> None:
        size = 4
        data = b""
        while len(data) < size:
            data += await stream.receive_some() or b"\0" * size
            if len(data) >= 4:
                size = struct.unpack("!I", data[:4])[0]

    async def serve(stream: trio.SocketStream) -> None:
        came.append(None)
        await receive(stream)
        await stream.send_all(b"R" + struct.pack("!II", 8, 3))  # the password, in the clear
        await stream.receive_some()
        with suppress(trio.BrokenResourceError):  # a look that was broken off
            await stream.send_all(answers[min(len(came), len(answers)) - 1])
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), serve, 0)
        port = listener.socket.getsockname()[1]
        yield f"host=127.0.0.1 port={port} user=parley password={SECRET} dbname=x sslmode=disable", came
        nursery.cancel_scope.cancel()


def kept() -> list[str]:
    """Files of looks that are still open."""
    found = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [str(path) for path in found if "parley-login" in str(path)]


@pytest.mark.parametrize(
    ("state", "is_refused"), [("28P01", True), ("28000", True), ("57P03", False), ("53300", False)]
)
async def test_in_german(fresh: Logins, state: str, is_refused: bool) -> None:
    """The words are handed on as they are; what they mean is asked once, and leaves nothing open."""
    async with speaking(_error(state, GERMAN)) as (url, came):
        for visits in (2, 3):
            with pytest.raises(Unavailable, match=GERMAN) as refused:
                await Connector(url, name="test").connect()
            assert isinstance(refused.value, Unfit) is is_refused
            assert len(came) == visits
            assert not kept()


async def test_an_answer_that_changes_meanwhile(fresh: Logins) -> None:
    """It starts up, in German, and with the next look it is the password: nothing false is kept of the first words."""
    starting, wrong = _error("57P03", "das Datenbanksystem startet"), _error("28P01", GERMAN)
    async with speaking(starting, wrong, starting, starting) as (url, came):
        with pytest.raises(Unfit):
            await Connector(url, name="test").connect()
        with pytest.raises(Unavailable) as away:
            await Connector(url, name="test").connect()
        assert not isinstance(away.value, Unfit) and len(came) == 4


async def test_there_is_an_end_of_looks(fresh: Logins) -> None:
    """Each costs memory for good: when there were many, words that are not known count as out of reach."""
    fresh.looks = logins.MOST_LOOKS
    async with speaking(_error("28P01", GERMAN)) as (url, came):
        with pytest.raises(psycopg.OperationalError) as failed:
            await connection.Connection.open(url)
        assert not isinstance(failed.value, Refused) and len(came) == 1


NOTHING_ELSEWHERE = """
import os, select, sys
from store.postgres import logins
looking = logins.Logins().look(sys.argv[1], "")
fd, _ = next(looking)
for _ in range(2):
    select.select([], [fd], [])
    fd, _ = looking.send(True)
looking.close()
assert os.open(sys.argv[2], os.O_RDWR | os.O_CREAT) >= 0
"""


async def test_what_is_written_down_goes_nowhere_else(tmp_path: Path) -> None:
    """libpq keeps a stream on the file of a look that was broken off: at the end of the process, nothing of it gets
    into the file that has its number by then."""
    async with speaking(_error("28P01", GERMAN)) as (url, _):
        command = [sys.executable, "-c", NOTHING_ELSEWHERE, url, str(tmp_path / "other")]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "other").read_bytes() == b""
