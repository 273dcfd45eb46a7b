"""loadtest.peers: the driver against small servers that keep, lose or refuse messages; and the table.

The real contestants are not installed here: `parley loadtest peers` is the test of them.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from click.testing import CliRunner
from trio_websocket import ConnectionClosed, serve_websocket

from loadtest.peers import contestants
from loadtest.peers.command import at_peer, check_kept, peers, started
from loadtest.peers.contestants import CONTESTANTS, Contestant, Unavailable, default_cache
from loadtest.peers.dialects import Answers, AspNet, Centrifugo, Dialect, Hub, PlainJson, Refused, Seat, SocketIo, Xmpp
from loadtest.peers.driver import CANNOT_KEEP_UP, DRIVER_LATE, PATIENCE, Pairs, PeerError, Person
from loadtest.peers.scores import Comparison, Latency, Round, Score, as_markdown, columns, rows
from loadtest.processes import family
from loadtest.results import Machine
from server.cli.dev.services import Services

SEATS = [(Seat("0", "0"), Seat("1", "0")), (Seat("2", "1"), Seat("3", "1"))]
MACHINE = Machine(cpu="a processor", cores=2, memory_bytes=1, system="Linux")


@contextmanager
def server(answer: Callable[[int], dict[str, object] | None]) -> Iterator[int]:
    """A chat server in memory on a free port; `answer(n)` is sent for the nth message, None: nothing at all."""
    rooms: dict[int, set[object]] = {}
    started, port, stop = threading.Event(), [0], [trio.CancelScope()]
    count = 0

    async def chat(request: object) -> None:
        nonlocal count
        socket = await request.accept()  # type: ignore[attr-defined]  # trio-websocket has no types
        room = rooms.setdefault(int(request.path.rpartition("=")[2]) // 2, set())  # type: ignore[attr-defined]
        room.add(socket)
        await socket.send_message('{"type": "ready"}')
        try:
            while True:
                await socket.get_message()
                count += 1
                said = answer(count)
                if said is not None:
                    await socket.send_message(json.dumps(said))
                    for other in list(room):
                        await other.send_message('{"type": "message"}')  # type: ignore[attr-defined]
        except ConnectionClosed:
            room.discard(socket)

    async def main() -> None:
        with stop[0]:
            async with trio.open_nursery() as nursery:
                running = await nursery.start(serve_websocket, chat, "127.0.0.1", 0, None)
                port[0] = running.port
                started.token = trio.lowlevel.current_trio_token()  # type: ignore[attr-defined]
                started.set()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert started.wait(60)
    try:
        yield port[0]
    finally:
        started.token.run_sync_soon(stop[0].cancel)  # type: ignore[attr-defined]
        thread.join(60)


def test_both_workloads_count_and_time_what_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed loop ends with everything answered; an open loop sends exactly its rate, each delivered."""
    monkeypatch.setattr("loadtest.peers.driver.HOPELESS", 60)  # whatever the machine does meanwhile
    with server(lambda number: {"type": "ack"}) as port:
        pairs = Pairs(port, PlainJson(), SEATS)
        full = pairs.saturate(0.2)
        paced = pairs.paced(100, 0.3)
        pairs.close()
    assert full.sent == full.delays.count > 10
    assert paced.sent == paced.delays.count == 30
    assert paced.delays.percentile(50) > 0


def contestant(name: str) -> Contestant:
    return next(each for each in CONTESTANTS if each.name == name)


CACHES = {"Socket.IO": "node", "FastAPI": "python", "Centrifugo": "centrifugo", "ASP.NET": "signalr"}
NAMES = [each.name for each in CONTESTANTS]


def installed(name: str) -> list[str]:
    """The command of a contestant that is here; skips the test where it is not. Nothing is installed for a test."""
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


@pytest.mark.parametrize(
    ("answer", "why"), [({"type": "error"}, "refused"), (None, "not answered")], ids=["refuses", "falls silent"]
)
def test_a_broken_server_ends_its_turn(
    answer: dict[str, object] | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error as answer, or none at all: there is no figure, and the reason is reported."""
    monkeypatch.setattr("loadtest.peers.driver.PATIENCE", 0.3)
    with server(lambda number: answer if number == 5 else {"type": "ack"}) as port:
        pairs = Pairs(port, PlainJson(), SEATS)
        with pytest.raises(PeerError, match=why):
            pairs.saturate(0.3)
        pairs.close()


def test_a_server_that_cannot_keep_a_rate_has_no_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is still under way at the end is waited for, so that it is not taken for the answers of the next rate."""
    hold = threading.Event()

    def slow(number: int) -> dict[str, object]:
        if number == 30:
            hold.wait(60)
        return {"type": "ack"}

    with server(slow) as port:
        pairs = Pairs(port, PlainJson(), SEATS)
        receive = pairs._receive

        def and_release(took: Callable[[Person, int, int], None], timeout: float) -> bool:
            if timeout == PATIENCE:  # all is sent
                hold.set()
            return receive(took, timeout)

        monkeypatch.setattr(pairs, "_receive", and_release)
        monkeypatch.setattr("loadtest.peers.driver.HOPELESS", 0.1)
        behind = pairs.paced(300, 1)
        monkeypatch.setattr("loadtest.peers.driver.HOPELESS", 60)
        after = pairs.paced(100, 0.2)
        pairs.close()
    assert behind.why == CANNOT_KEEP_UP
    assert behind.sent == behind.delays.count < 300
    assert after.sent == after.delays.count == 20


def test_a_driver_that_is_late_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own delay is not shown as the server's."""
    with server(lambda number: {"type": "ack"}) as port:
        pairs = Pairs(port, PlainJson(), SEATS)
        say = pairs._say

        def slowly(person: Person) -> None:
            time.sleep(0.02)  # the driver is slow itself
            say(person)

        monkeypatch.setattr(pairs, "_say", slowly)
        late = pairs.paced(1000, 0.1)
        pairs.close()
    assert late.why in (DRIVER_LATE, CANNOT_KEEP_UP)


def test_every_dialect_distinguishes_answers_deliveries_and_errors() -> None:
    """Each server's dialect counts answers and deliveries apart, and raises Refused for an error."""
    seat = Seat("1", "2")
    two = b'{"type":3,"invocationId":"1","result":{}}\x1e{"type":1,"target":"ReceiveMessage","arguments":[]}\x1e'
    assert Hub().answers(two) == Answers(1, 1)
    assert Hub().answers(b'{"type":6}\x1e{"type":1,"target":"UserStatusChanged"}\x1e') == Answers()
    assert SocketIo().answers(b'431[{"id":1}]') == Answers(acknowledged=1)
    assert SocketIo().answers(b'42["message",{}]') == Answers(delivered=1)
    assert SocketIo().message(7, seat, "x").startswith(b'427["send", {"conversationId": 2')
    assert PlainJson().answers(b'{"type": "message"}') == Answers(delivered=1)
    push = b'{"push":{"channel":"chat:2","pub":{"data":{"content":"\\"error\\":"}}}}'
    assert Centrifugo().answers(push + b'\n{"id":2,"publish":{}}\n') == Answers(1, 1)
    assert Centrifugo().answers(b"{}") == Answers()
    head = b"<message xmlns='jabber:client' from='c2@conference.localhost/u1' type='groupchat'"
    assert Xmpp().answers(head + b"><body>x</body></message>") == Answers(1, 1)
    assert Xmpp().answers(head + b"><subject/></message>") == Answers()
    assert Xmpp().answers(b"<presence type='groupchat'><body>") == Answers()
    assert Xmpp().message(7, seat, "x").startswith(b"<message xmlns='jabber:client' type='groupchat' to='c2@conf")
    refusals: list[tuple[Dialect, bytes]] = [
        (Hub(), b'{"type":3,"invocationId":"1","error":"forbidden: no"}\x1e'),
        (AspNet(), b'{"type":3,"invocationId":"1","error":"An unexpected error: HubException: forbidden"}\x1e'),
        (SocketIo(), b'431[{"error":"forbidden"}]'),
        (PlainJson(), b'{"type": "error"}'),
        (Centrifugo(), b'{"id":2,"error":{"code":403,"message":"forbidden"}}'),
        (Xmpp(), b"<message xmlns='jabber:client' type='error'><error type='modify'/></message>"),
    ]
    for dialect, refusal in refusals:
        with pytest.raises(Refused):
            dialect.answers(refusal)


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
        [Round(100, 50, 4000, paced(1, 2)), Round(50, 9, 9000, paced(3, 4)), Round(110, 60, 3900, paced(2, 3))],
    )
    other = Score("Socket.IO", "Socket.IO + node-postgres", [Round(250, 90, 2000, paced(3, 4))], "it fell silent")
    broken = Score("FastAPI", "FastAPI + asyncpg", [], "a message was refused")
    found = Comparison([500], 50, 5, MACHINE, {}, [ours, other, broken], {"trio-websocket": "no pip"})
    table = rows(found)
    assert table[0] == ["Parley", "100 µs", "", "50 µs", "4,000", "", "2.0 / 3.0 ms"]
    assert table[1][:6] == ["Socket.IO + node-postgres", "250 µs", "2.50 ×", "90 µs", "2,000", "0.50 ×"]
    assert table[2] == ["FastAPI + asyncpg", "failed: a message was refused", "", "", "", "", ""]
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
        return Round(1, 1, 1, latencies)

    score = Score("Parley", "Trio", [turn(1, 5), turn(None, None), turn(3, None)])
    found = Comparison([100, 2000], 50, 5, MACHINE, {}, [score], {})
    assert columns(found)[-2:] == ["p50 / p99 at 100/s", "p50 / p99 at 2,000/s"]
    assert rows(found)[0][-2:] == ["3.0 / 6.0 ms", "cannot keep up"]
    assert b"null" not in msgspec.json.encode(found)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Comparison) == found
