"""loadtest.peers: the driver against small servers that keep, lose or refuse messages; and the table.

The real contestants are not installed here: `parley loadtest peers` is the test of them.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner
from trio_websocket import ConnectionClosed, serve_websocket

from loadtest.peers import contestants
from loadtest.peers.command import Comparison, Round, Score, as_markdown, at_peer, check_kept, peers, rows, started
from loadtest.peers.contestants import CONTESTANTS, Unavailable
from loadtest.peers.dialects import Answers, Hub, PlainJson, Refused, Seat, SocketIo
from loadtest.peers.driver import Pairs, PeerError
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


def test_both_workloads_count_and_time_what_is_delivered() -> None:
    """A closed loop ends with everything answered; an open loop sends exactly its rate, each delivered."""
    with server(lambda number: {"type": "ack"}) as port:
        pairs = Pairs(port, PlainJson(), SEATS)
        full = pairs.saturate(0.2)
        paced = pairs.paced(100, 0.3)
        pairs.close()
    assert full.sent == full.delays.count > 10
    assert paced.sent == paced.delays.count == 30
    assert paced.delays.percentile(50) > 0


def test_a_contestant_keeps_what_it_answers(services: Services) -> None:
    """One of the servers, on a real PostgreSQL: as many rows as answers; and a row too few is noticed."""
    command = [sys.executable, str(contestants.SERVERS / "trio_psycopg.py")]
    ready = at_peer(CONTESTANTS[2], command, services.data_dir, 3)
    assert ready.command is not None
    with started(ready.command, services.data_dir, 3) as server:
        pairs = Pairs(server.port, ready.dialect, ready.seats)
        full = pairs.saturate(0.2)
        pairs.close()
    assert full.sent >= 3
    check_kept(services.data_dir, [full])
    with pytest.raises(PeerError, match="are in the database"):
        check_kept(services.data_dir, [full._replace(sent=full.sent + 1)])


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
    for dialect, refusal in [
        (Hub(), b'{"type":3,"invocationId":"1","error":"forbidden: no"}\x1e'),
        (SocketIo(), b'431[{"error":"forbidden"}]'),
        (PlainJson(), b'{"type": "error"}'),
    ]:
        with pytest.raises(Refused):
            dialect.answers(refusal)  # type: ignore[attr-defined]  # a list of three kinds is a list of objects


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


def test_the_table_has_medians_and_their_ratios() -> None:
    """The middle round counts; a server that failed or was skipped is said to have."""
    ours = Score("Parley", "Trio", [Round(100, 50, 4000, 1, 2), Round(50, 9, 9000, 1, 2), Round(110, 60, 3900, 1, 2)])
    other = Score("Socket.IO", "Socket.IO + node-postgres", [Round(250, 90, 2000, 3, 4)])
    broken = Score("FastAPI", "FastAPI + asyncpg", [], "a message was refused")
    found = Comparison(1000, 50, 5, MACHINE, {}, [ours, other, broken], {"trio-websocket": "no pip"})
    table = rows(found)
    assert table[0][:6] == ("Parley", "100 µs", "", "50 µs", "4,000", "")
    assert table[1][:6] == ("Socket.IO + node-postgres", "250 µs", "2.50 ×", "90 µs", "2,000", "0.50 ×")
    assert table[2][:2] == ("FastAPI + asyncpg", "failed: a message was refused")
    assert "trio-websocket is left out: no pip." in as_markdown(found)
