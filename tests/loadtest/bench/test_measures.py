"""loadtest.bench.measures, against the reference in C: what is counted there is counted at Parley, too."""

import shutil
import time
from collections.abc import Iterator

import pytest

from loadtest.bench import measures
from loadtest.bench.measures import BURSTS, ONE_BY_ONE, TOGETHER
from loadtest.bench.process import Server, reference
from loadtest.bench.sockets import Sockets, frame
from server.protocol import websocket

pytestmark = [pytest.mark.services, pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")]


@pytest.fixture
def floor() -> Iterator[Server]:
    with reference("floor") as server:
        yield server


def test_the_floor_echoes_and_broadcasts_frames_of_all_sizes(floor: Server) -> None:
    """Of one byte and of thousands, in one piece and in two; one by one and together; each comes once, unchanged."""
    lean_client = Sockets(floor.port)
    lean_client.connect(3)
    sender, *others = lean_client.sockets
    for size in (1, 125, 126, 480, 5000):
        text = b"E" + b"y" * (size - 1)
        asked, answer = frame(text), websocket.encode(websocket.TEXT, text)
        sender.sendall(asked[:3])
        sender.sendall(asked[3:] + asked)
        assert received(lean_client, 2 * len(answer)) == {sender: answer * 2}
        for kind in (b"B", b"G"):
            text = kind + b"y" * (size - 1)
            answer = websocket.encode(websocket.TEXT, text)
            sender.sendall(frame(text) * 2)
            assert received(lean_client, 6 * len(answer)) == dict.fromkeys(lean_client.sockets, answer * 2)
    others[0].close()
    lean_client.close()


def received(lean_client: Sockets, expected: int) -> dict[object, bytes]:
    found: dict[object, bytes] = {}

    def note(sock: object, data: bytes) -> None:
        found[sock] = found.get(sock, b"") + data

    while sum(map(len, found.values())) < expected:
        assert lean_client.receive(note, 30)
    return found


def test_each_way_of_broadcasting_has_a_cost(floor: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processor time of the server, which is counted to the nanosecond: a short measure is not nothing."""
    monkeypatch.setattr(measures, "FAN", 20)
    costs = list(measures.fan_out(floor, 0.05, size=480, ways=[ONE_BY_ONE, BURSTS, TOGETHER]))
    assert len(costs) == 3 and min(costs) > 0
    assert measures.echo(floor, 0.05) > 0


def test_what_a_start_leaves_to_be_done_is_no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds in which a process still spends more than it does by itself are not taken off what pings cost."""
    spent = [0.0, 0.5, 0.5, 0.6, 0.6, 0.617, 0.617, 0.65, 0.65, 0.7]
    clock = [float(second) for second in (0, 1, 1, 2, 2, 3, 3, 4, 4, 5)]
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(time, "monotonic", iter(clock).__next__)
    assert measures.by_itself(iter(spent).__next__) == pytest.approx(0.017)
