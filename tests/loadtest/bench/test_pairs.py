"""loadtest.bench.pairs: the driver against small servers that keep, lose, double or refuse messages."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtest.bench import pairs as driver
from loadtest.bench.dialect import Seat
from loadtest.bench.pairs import CANNOT_KEEP_UP, DRIVER_LATE, Measured, Pairs, PeerError
from loadtest.bench.process import Unavailable
from loadtest.peers.dialects import PlainJson
from server.protocol import websocket
from tests.loadtest.bench.talking import Replies, chat_server, number_of, plain, whole

pytestmark = [pytest.mark.services, pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")]
SEATS = [(Seat("0", "0"), Seat("1", "0")), (Seat("2", "1"), Seat("3", "1"))]


@contextmanager
def talking(port: int) -> Iterator[Pairs]:
    pairs = Pairs(port, PlainJson(), SEATS)
    try:
        yield pairs
    finally:
        pairs.close()


def sound(number: int, text: bytes) -> Replies:
    return plain(text)


def test_both_workloads_count_and_time_what_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed loop ends with everything answered; an open loop sends exactly its rate, each delivered."""
    monkeypatch.setattr(driver, "HOPELESS", 60)  # whatever the machine does meanwhile
    with chat_server(sound) as port, talking(port) as pairs:
        full = pairs.saturate(0.2)
        paced = pairs.paced(100, 0.3)
        again = pairs.saturate(0.1)
    assert full.sent == full.delays.count > 10
    assert paced.sent == paced.delays.count == 30
    assert again.sent == again.delays.count >= 2
    assert paced.delays.percentile(50) > 0
    assert 0 < full.client_cpu <= full.seconds * 1.1


def test_messages_are_what_a_client_sends() -> None:
    """Each has a number and a UUID of its own; both senders talk, in their own conversations."""
    texts: list[bytes] = []

    def note(number: int, text: bytes) -> Replies:
        texts.append(text)
        return plain(text)

    with chat_server(note) as port, talking(port) as pairs:
        sent = pairs.saturate(0.05).sent
    found = [json.loads(text) for text in texts]
    assert len({each["clientMessageId"] for each in found}) == len({each["ack"] for each in found}) == sent
    assert all(each["ack"] == number_of(text) for each, text in zip(found, texts, strict=True))
    assert {each["conversationId"] for each in found} == {0, 1}
    assert all(len(each["content"]) == 99 for each in found)


def refused(text: bytes) -> Replies:
    return Replies([b'{"type": "error"}'])


def silent(text: bytes) -> Replies:
    return Replies()


def lost(text: bytes) -> Replies:
    own, each, _ = plain(text)
    return Replies([*own, *each])


def answered_only(text: bytes) -> Replies:
    return Replies(plain(text).own)


def doubled_to_other(text: bytes) -> Replies:
    own, each, _ = plain(text)
    return Replies(own, each, each)


def answered_twice(text: bytes) -> Replies:
    own, each, _ = plain(text)
    return Replies([*own, *own], each)


def somebody_elses(text: bytes) -> Replies:
    return Replies([b'{"type": "ack", "ack": 9999999990}'])


def without_number(text: bytes) -> Replies:
    return Replies([b'{"type": "ack"}'])


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (refused, "refused"),
        (silent, "1 messages were not answered, 1 not delivered"),
        (lost, "0 messages were not answered, 1 not delivered"),
        (answered_only, "0 messages were not answered, 1 not delivered"),
        (doubled_to_other, "delivered twice"),
        (answered_twice, "answered twice"),
        (somebody_elses, "not sent in that conversation"),
        (without_number, "no number"),
    ],
)
def test_a_broken_server_ends_its_turn(
    wrong: Callable[[bytes], Replies], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error as answer, none, one too many, a delivery that is missing or doubled: there is no figure, and the
    reason is reported."""
    monkeypatch.setattr(driver, "PATIENCE", 0.5)
    with chat_server(lambda number, text: wrong(text) if number == 5 else plain(text)) as port:
        with talking(port) as pairs, pytest.raises(PeerError, match=why):
            pairs.saturate(0.3)


def in_parts(text: bytes) -> list[bytes]:
    """A ping, and a message of two frames with another ping between, each cut up."""
    half = len(text) // 2
    first, last = websocket.encode(websocket.TEXT, text[:half]), websocket.encode(websocket.CONT, text[half:])
    ping = websocket.encode(websocket.PING, b"are you there")
    wire = ping + bytes([first[0] & 0x7F]) + first[1:] + ping + last
    return [wire[:3], wire[3:40], wire[40:]]


def large(text: bytes) -> list[bytes]:
    return whole(text + b" " * 70_000)


@pytest.mark.parametrize("frames", [in_parts, large])
def test_frames_of_every_form_are_read(frames: Callable[[bytes], list[bytes]]) -> None:
    """In parts, with pings between, cut anywhere, and with a length of eight bytes: counted all the same."""
    with chat_server(sound, frames) as port, talking(port) as pairs:
        full = pairs.saturate(0.1)
    assert full.sent == full.delays.count >= 2


def test_a_server_that_cannot_keep_a_rate_has_no_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is still under way at the end is waited for, so that it is not taken for the answers of the next rate."""
    hold, late = threading.Event(), 0.5

    def slow(number: int, text: bytes) -> Replies:
        if number >= 10:
            hold.wait(60)
        return plain(text)

    release = threading.Timer(late, hold.set)
    with chat_server(slow) as port, talking(port) as pairs:
        monkeypatch.setattr(driver, "HOPELESS", 0.1)
        release.start()
        behind = pairs.paced(10_000, 1)
        monkeypatch.setattr(driver, "HOPELESS", 60)
        after = pairs.paced(100, 0.2)
    release.join()
    assert behind.why in (CANNOT_KEEP_UP, DRIVER_LATE)
    assert behind.sent == behind.delays.count < 10_000
    assert after.sent == after.delays.count == 20


def test_a_driver_that_is_late_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own delay is not shown as the server's: it is stopped for longer than a server may be behind."""
    monkeypatch.setattr(driver, "HOPELESS", 0.5)
    begun = threading.Event()

    def note(number: int, text: bytes) -> Replies:
        if number > 5:
            begun.set()
        return plain(text)

    found: list[Measured] = []
    with chat_server(note) as port, talking(port) as pairs:
        pairs.saturate(0)
        assert pairs.driver is not None
        measuring = threading.Thread(target=lambda: found.append(pairs.paced(100, 600)))
        measuring.start()
        assert begun.wait(60)
        os.kill(pairs.driver.pid, signal.SIGSTOP)
        time.sleep(1.5)  # how long it is stopped
        os.kill(pairs.driver.pid, signal.SIGCONT)
        measuring.join(60)
    assert found[0].why in (DRIVER_LATE, CANNOT_KEEP_UP)
    assert found[0].sent < 60_000


def test_without_a_compiler_there_is_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, before any connection is opened."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(Unavailable, match="no C compiler"):
        Pairs(1, PlainJson(), SEATS)
