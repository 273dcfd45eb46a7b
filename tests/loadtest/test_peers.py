"""loadtest.peers: what each server says is understood, and the table.

The real contestants are not installed here: `parley loadtest peers` is the test of them.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from click.testing import CliRunner

from loadtest.bench.dialect import Dialect, Hub, Seat
from loadtest.bench.pairs import CANNOT_KEEP_UP, Pairs, PeerError
from loadtest.peers import contestants
from loadtest.peers.command import at_peer, check_kept, peers, started
from loadtest.peers.contestants import CONTESTANTS, Contestant, Unavailable, default_cache
from loadtest.peers.dialects import AspNet, Centrifugo, PlainJson, SocketIo, Xmpp
from loadtest.peers.scores import Comparison, Latency, Round, Score, as_markdown, columns, rows
from loadtest.processes import family
from loadtest.results import Machine
from server.cli.dev.services import Services
from tests.loadtest.bench.talking import Replies, chat_server, number_of

SEATS = [(Seat("0", "0"), Seat("1", "0")), (Seat("2", "1"), Seat("3", "1"))]
MACHINE = Machine(cpu="a processor", cores=2, memory_bytes=1, system="Linux")


def contestant(name: str) -> Contestant:
    return next(each for each in CONTESTANTS if each.name == name)


CACHES = {
    "Socket.IO": "node",
    contestants.SPREAD: "node",
    "FastAPI": "python",
    "Centrifugo": "centrifugo",
    "ASP.NET": "signalr",
}
NAMES = [each.name for each in CONTESTANTS]


def installed(name: str) -> list[str]:
    """The command of a contestant that is here; skips the test where it is not. Nothing is installed for a test."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    if name == "trio-websocket":
        return [sys.executable, str(contestants.SERVERS / "trio_psycopg.py")]
    if name in CACHES and not (default_cache() / CACHES[name] / ".pins").exists():
        pytest.skip(f"{name}: it is installed by `parley loadtest peers`, and has not been")
    try:
        return contestant(name).install(default_cache())
    except Unavailable as error:
        pytest.skip(f"{name}: {error}")


@pytest.mark.parametrize("name", NAMES)
def test_a_contestant_keeps_what_it_answers(name: str, services: Services) -> None:
    """A server on a real PostgreSQL: as many rows as answers, or it is noticed. All processes end with it."""
    this = contestant(name)
    ready = at_peer(this, installed(name), services.data_dir, 3)
    with started(ready, services.data_dir) as server:
        pairs = Pairs(server.port, ready.dialect, ready.seats)
        full = pairs.saturate(0.2)
        paced = pairs.paced(20, 0.5)
        processes = list(family(server.process.pid))
        pairs.close()
    assert full.sent >= 3
    assert paced.delays.count == paced.sent
    if name != "ejabberd":  # it delivers also what its archive did not take: on a slow machine that happens
        check_kept(services.data_dir, this, [full, paced])
    with pytest.raises(PeerError, match="are in the database"):
        check_kept(services.data_dir, this, [paced, *[full] * 2])
    assert not any(alive(pid) for pid in processes)


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("name", NAMES)
def test_a_contestant_refuses_who_is_no_member(name: str, services: Services) -> None:
    """All check membership: somebody else's message to a conversation is refused, and not kept."""
    this = contestant(name)
    ready = at_peer(this, installed(name), services.data_dir, 2)
    with started(ready, services.data_dir) as server:
        pairs = Pairs(server.port, ready.dialect, ready.seats)
        stranger = pairs.senders[0]
        stranger.seat = stranger.seat._replace(conversation="1")
        with pytest.raises(PeerError, match="refused"):
            pairs.saturate(1)
        pairs.close()


def test_a_server_that_does_not_start_is_a_failure_at_once(services: Services) -> None:
    """It is reported with its exit code, rather than waited for."""
    ready = at_peer(contestant("trio-websocket"), ["false"], services.data_dir, 1)
    with pytest.raises(PeerError, match="exit code 1"), started(ready, services.data_dir):
        pass


class Spoken(NamedTuple):
    """What a server says of message %d, in its dialect."""

    dialect: Dialect
    answer: bytes
    delivery: bytes
    refusal: bytes
    noise: Sequence[bytes] = ()


CONTENT = b"xxxxxxxxxx%d"
HEAD = b"<message xmlns='jabber:client' from='c2@conference.localhost/u1' "
SPOKEN = [
    Spoken(
        Hub(),
        b'{"type":3,"invocationId":"%d","result":{}}\x1e{"type":6}\x1e',
        b'{"type":1,"target":"ReceiveMessage","arguments":[{"content":"' + CONTENT + b'"}]}\x1e',
        b'{"type":3,"invocationId":"%d","error":"forbidden: no"}\x1e',
        [b'{"type":6}\x1e{"type":1,"target":"UserStatusChanged"}\x1e'],
    ),
    Spoken(
        AspNet(),
        b'{"type":3,"invocationId":"%d","result":{}}\x1e',
        b'{"type":1,"target":"ReceiveMessage","arguments":[{"content":"' + CONTENT + b'"}]}\x1e',
        b'{"type":3,"invocationId":"%d","error":"An unexpected error: HubException: forbidden"}\x1e',
    ),
    Spoken(
        SocketIo(),
        b'43%d[{"id":1}]',
        b'42["message",{"content":"' + CONTENT + b'"}]',
        b'43%d[{"error":"forbidden"}]',
        [b'42["other"]'],
    ),
    Spoken(
        PlainJson(),
        b'{"type": "ack", "ack": %d, "message": {}}',
        b'{"type": "message", "message": {"content": "' + CONTENT + b'"}}',
        b'{"type": "error", "ack": %d}',
    ),
    Spoken(
        Centrifugo(),
        b'{"id":%d,"publish":{}}\n{}',
        b'{"push":{"channel":"chat:2","pub":{"data":{"error":"no","content":"' + CONTENT + b'"}}}}',
        b'{"id":%d,"error":{"code":403,"message":"forbidden"}}',
        [b"{}", b'{"push":{"channel":"chat:2","join":{"error":1}}}'],
    ),
    Spoken(
        Xmpp(),
        b"<iq/>",
        HEAD + b"type='groupchat' id='1'><body>" + CONTENT + b"</body></message>",
        HEAD + b"type='error'><error type='modify'/><body>" + CONTENT + b"</body></message>",
        [HEAD + b"type='groupchat'><subject/></message>", b"<presence type='groupchat'><body>"],
    ),
]


class AtOnce:
    """The dialect, for a server that lets everybody take part at once."""

    def __init__(self, dialect: Dialect) -> None:
        self.separator, self.signs, self.message = dialect.separator, dialect.signs, dialect.message
        plain = PlainJson()
        self.target, self.headers, self.join = plain.target, plain.headers, plain.join


def about(text: bytes, number: int) -> bytes:
    return text.replace(b"%d", str(number).encode())


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("spoken", SPOKEN, ids=lambda spoken: type(spoken.dialect).__name__)
def test_every_dialect_distinguishes_answers_deliveries_and_errors(spoken: Spoken) -> None:
    """Answers and deliveries of each server are counted apart, what is neither is not, and an error ends the turn."""

    def replies(count: int, text: bytes) -> Replies:
        number = number_of(text)
        if count > 10:
            return Replies([about(spoken.refusal, number)])
        return Replies([about(spoken.answer, number)], [*spoken.noise, about(spoken.delivery, number)])

    with chat_server(replies) as port:
        pairs = Pairs(port, AtOnce(spoken.dialect), SEATS)
        try:
            once = pairs.saturate(0)
            assert once.sent == once.delays.count == len(SEATS)
            with pytest.raises(PeerError, match="a message was refused: "):
                pairs.saturate(60)
        finally:
            pairs.close()


def test_what_cannot_be_installed_is_left_out_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Node at all; an npm that fails: one line that says so. Nothing half installed is taken for whole."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="Node and npm are not installed"):
        CONTESTANTS[0].install(tmp_path / "cache")
    for name, text in (("node", "exit 0"), ("npm", "echo no such package >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be installed: no such package"):
            CONTESTANTS[0].install(tmp_path / "cache")
    (tmp_path / "npm").write_text("#!/bin/sh\nexit 0\n")
    command = CONTESTANTS[0].install(tmp_path / "cache")
    assert command == [str(tmp_path / "node"), str(tmp_path / "cache" / "node" / "socketio.js")]
    (tmp_path / "npm").write_text("#!/bin/sh\nexit 1\n")
    assert CONTESTANTS[0].install(tmp_path / "cache") == command  # it is there, with these pins


def test_what_has_no_toolchain_here_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each contestant without its programs says what is missing; nothing is tried."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, why in [("Centrifugo", "Go is not"), ("ejabberd", "apt-get install"), ("ASP.NET", "dotnet")]:
        with pytest.raises(Unavailable, match=why):
            contestant(name).install(tmp_path / "cache")


def test_go_and_dotnet_build_what_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once; again when the sources changed. A Centrifugo that is there is taken, and only its backend built."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CENTRIFUGO", raising=False)
    for name in ("go", "dotnet"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/{name}.said\n')
        (tmp_path / name).chmod(0o755)
    cache = tmp_path / "cache"
    for _ in range(2):
        backend, program = contestant("Centrifugo").install(cache)
        assert contestant("ASP.NET").install(cache)[1] == str(cache / "signalr" / "built" / "peer.dll")
    assert (backend, program) == (str(cache / "centrifugo" / "backend"), str(cache / "centrifugo" / "centrifugo"))
    monkeypatch.setenv("CENTRIFUGO", "/opt/centrifugo")
    assert contestant("Centrifugo").install(cache)[1] == "/opt/centrifugo"
    built = (tmp_path / "go.said").read_text().splitlines()
    assert [line.split()[-1] for line in built] == ["github.com/centrifugal/centrifugo/v6", "."]
    assert len((tmp_path / "dotnet.said").read_text().splitlines()) == 1


@pytest.mark.parametrize("rate", ["0", "100,x", "100,-5", "", "2e6", "nan"])
def test_rates_are_numbers_above_zero(rate: str) -> None:
    """Anything else is refused before a server is started, by the name of its option."""
    done = CliRunner().invoke(peers, ["--rate", rate])
    assert done.exit_code == 2
    assert "--rate" in done.output


def test_a_server_that_there_is_not_cannot_be_asked_for() -> None:
    """`--only` with a name that is none's: exit code 2 and the names, rather than a table of Parley alone."""
    done = CliRunner().invoke(peers, ["--only", "ejabbert"])
    assert done.exit_code == 2
    assert "--only" in done.output and "ejabbert" in done.output and "Socket.IO" in done.output


def test_nothing_is_compared_without_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a C compiler: exit code 1 and the reason, before a server is started or installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = CliRunner().invoke(peers, [])
    assert done.exit_code == 1
    assert "what drives all servers cannot be had: there is no C compiler" in done.output


def test_packages_are_pinned() -> None:
    """The servers compared with have exact versions, so that two comparisons compare the same."""
    lines = (contestants.SERVERS / "requirements.txt").read_text().split()
    assert all("==" in line for line in lines)
    versions = json.loads((contestants.SERVERS / "package.json").read_text())["dependencies"].values()
    assert all(version[0].isdigit() for version in versions)
    project = (contestants.SERVERS / "signalr" / "peer.csproj").read_text()
    assert project.count("<PackageReference") == project.count('Version="[') == 1


def paced(p50: float, p99: float) -> list[Latency]:
    return [Latency(500, p50, p99)]


def test_the_table_has_medians_and_their_ratios() -> None:
    """The middle round counts; a server that failed or was skipped is said to have, and has no figure."""
    ours = Score(
        "Parley",
        "Trio",
        [
            Round(100, 50, 20, 4000, paced(1, 2)),
            Round(50, 9, 9, 9000, paced(3, 4)),
            Round(110, 60, 30, 3900, paced(2, 3)),
        ],
    )
    other = Score("Socket.IO", "Socket.IO + node-postgres", [Round(250, 90, 25, 2000, paced(3, 4))], "it fell silent")
    broken = Score("FastAPI", "FastAPI + asyncpg", [], "a message was refused")
    found = Comparison([500], 50, 5, MACHINE, {}, [ours, other, broken], {"trio-websocket": "no pip"})
    table = rows(found)
    assert table[0] == ["Parley", "100 µs", "", "50 µs", "20 µs", "4,000", "", "2.0 / 3.0 ms"]
    assert table[1][:7] == ["Socket.IO + node-postgres", "250 µs", "2.50 ×", "90 µs", "25 µs", "2,000", "0.50 ×"]
    assert table[2] == ["FastAPI + asyncpg", "failed: a message was refused", "", "", "", "", "", ""]
    lines = as_markdown(found)
    assert "trio-websocket is left out: no pip." in lines
    assert "Socket.IO failed in a round: it fell silent." in lines


def test_the_table_has_every_rate() -> None:
    """Medians at each; a round in which it could not keep up is the slowest, and no figure when it is the middle."""

    def turn(slow: float | None, fast: float | None) -> Round:
        latencies = [
            Latency(rate, p50, p50 and 2 * p50, why="" if p50 else CANNOT_KEEP_UP)
            for rate, p50 in ((100, slow), (2000, fast))
        ]
        return Round(1, 1, 1, 1, latencies)

    score = Score("Parley", "Trio", [turn(1, 5), turn(None, None), turn(3, None)])
    found = Comparison([100, 2000], 50, 5, MACHINE, {}, [score], {})
    assert columns(found)[-2:] == ["p50 / p99 at 100/s", "p50 / p99 at 2,000/s"]
    assert rows(found)[0][-2:] == ["3.0 / 6.0 ms", "cannot keep up"]
    assert b"null" not in msgspec.json.encode(found)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Comparison) == found
