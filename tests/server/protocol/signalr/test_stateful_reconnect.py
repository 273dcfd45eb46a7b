"""server.protocol.signalr.stateful_reconnect: the counters and the buffer (docs/hub-protocol.md 5)."""

import pytest

from server.protocol.signalr.encoding import BARE, FRAMED, Encoding
from server.protocol.signalr.stateful_reconnect import BUFFER, MessageBuffer, SequenceError, State, delivered

ENCODINGS = [FRAMED["json"], FRAMED["messagepack"], BARE["json"], BARE["messagepack"]]
MESSAGE = {"conversationId": "c", "senderId": "s", "seq": 7, "content": "x" * 200}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_is_counted(encoding: Encoding) -> None:
    """Types 1, 2 and 3 of ours; not pings, acks, sequences, closes, nor control frames."""
    counted = [
        encoding.event("X", ("y" * 70_000,)),
        encoding.event("X", ()),
        *encoding.stream_items("1", [2]),
        encoding.completion("1", None),
        encoding.error("1", "no"),
        encoding.stream_end("1"),
    ]
    others = [encoding.ping(), encoding.ack(3), encoding.sequence(3), encoding.close("x", allow_reconnect=True)]
    if encoding.framed:
        others += [b"\x8a\x00", b"\x88\x02\x03\xe8"]  # pong, close
    assert all(map(encoding.is_counted, counted)) and not any(map(encoding.is_counted, others))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_is_delivered(encoding: Encoding) -> None:
    """A ReceiveMessage says which message it is; nothing else does."""
    found = delivered(encoding, encoding.event("ReceiveMessage", (MESSAGE,)))
    assert found is not None and (found.conversation_id, found.sender_id, found.seq) == ("c", "s", 7)
    assert delivered(encoding, encoding.event("MessageChanged", (MESSAGE,))) is None
    assert delivered(encoding, encoding.completion("1", MESSAGE)) is None


def came_back(reliable: MessageBuffer, before: Encoding, after: Encoding | None = None) -> tuple[int, list[bytes]]:
    """What is said first on the new transport, when the old one is lost."""
    reliable.unframe(before)
    return reliable.replay(after or before)


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
def test_framing_is_the_transports(protocol: str) -> None:
    """What was sent on one transport and not acknowledged comes in the frames of the next one, whatever these are."""
    framed, bare = FRAMED[protocol], BARE[protocol]

    def said(encoding: Encoding) -> list[bytes]:
        return [encoding.event("X", ("y" * size,)) for size in (1, 200, 70_000)]

    for before, after in ((framed, bare), (bare, framed), (framed, framed)):
        reliable = MessageBuffer()
        reliable.record(before, said(before))
        assert came_back(reliable, before, after) == (1, said(after))
        assert reliable.size == sum(map(len, said(after)))
        assert reliable.acknowledge(1) == said(after)[:1]


def test_sequence_is_the_first_unacknowledged() -> None:
    """Ids start at 1; Sequence names the first message the peer may lack, or the next one when it lacks none."""
    encoding = FRAMED["json"]
    reliable = MessageBuffer()
    assert came_back(reliable, encoding) == (1, [])
    frames = [encoding.completion(str(n), n) for n in range(5)]
    reliable.record(encoding, [frames[0], encoding.ping(), *frames[1:]])
    assert came_back(reliable, encoding) == (1, frames)
    assert reliable.acknowledge(2) == frames[:2]
    assert reliable.acknowledge(2) == []
    assert came_back(reliable, encoding) == (3, frames[2:])
    assert reliable.acknowledge(99) == frames[2:]
    assert came_back(reliable, encoding) == (6, []) and reliable.size == 0


def test_the_buffer_is_bounded() -> None:
    """Full past its limit, and free again by an Ack."""
    encoding = FRAMED["json"]
    reliable = MessageBuffer()
    frame = encoding.event("X", ("y" * 1000,))
    while not reliable.full:
        reliable.record(encoding, [frame])
    assert BUFFER < reliable.size <= BUFFER + len(frame)
    reliable.acknowledge(1)
    assert not reliable.full


def test_repeated_messages_are_dropped() -> None:
    """After a reconnect the peer repeats what we had not acknowledged; what we had is worked on once."""
    reliable = MessageBuffer()
    assert [reliable.accept() for _ in range(5)] == [True] * 5
    reliable.state = State.RESUMING
    reliable.resume(3)
    assert [reliable.accept() for _ in range(4)] == [False, False, False, True]
    assert reliable.received == 6 and reliable.state is State.LIVE


@pytest.mark.parametrize("number", [7, 0, -1])
def test_a_sequence_from_the_future(number: int) -> None:
    """Messages that we never got cannot be skipped."""
    reliable = MessageBuffer()
    for _ in range(5):
        reliable.accept()
    reliable.resume(6)
    with pytest.raises(SequenceError):
        reliable.resume(number)
