"""server.transport.send_queue: bounded in bytes, flushed once per batch."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from server.transport.send_queue import FLUSH_CHUNK, Flusher, Outbox, Verdict


class Sink(Outbox):
    """Takes everything, and remembers each send."""

    def __init__(self, limit: int = 1000) -> None:
        super().__init__(limit)
        self.sends: list[bytes] = []

    def flush(self) -> None:
        frames = self.take()
        if frames:
            self.sends.append(b"".join(frames))


def test_the_limit_holds() -> None:
    """P8: what does not fit is LAGGING and leaves no trace; ephemera are shed from half of it on."""
    outbox = Sink(100)
    assert outbox.offer(b"x" * 60) is Verdict.QUEUED
    assert outbox.offer(b"e", ephemeral=True) is Verdict.SHED
    assert outbox.offer(b"x" * 41) is Verdict.LAGGING
    assert outbox.offer(b"x" * 40) is Verdict.QUEUED
    assert outbox.size == 100
    outbox.flush()
    assert outbox.sends == [b"x" * 100] and outbox.size == 0
    assert outbox.offer(b"e", ephemeral=True) is Verdict.QUEUED


def test_room_is_kept_for_answers() -> None:
    """What is reserved for completions is not given to events."""
    outbox = Sink(100)
    outbox.reserved = 50
    assert outbox.offer(b"x" * 51) is Verdict.LAGGING
    outbox.reserved = 0
    assert outbox.offer(b"x" * 51) is Verdict.QUEUED


@given(st.lists(st.one_of(st.integers(1, 60), st.none()), max_size=40))
def test_size_is_what_waits(steps: list[int | None]) -> None:
    """Whatever is offered and flushed, `size` is the sum of what waits, never past the limit, nothing lost."""
    outbox, accepted = Sink(100), b""
    for number, step in enumerate(steps):
        if step is None:
            outbox.flush()
        else:
            frame = bytes([number]) * step
            if outbox.offer(frame) is Verdict.QUEUED:
                accepted += frame
        waiting = len(accepted) - sum(map(len, outbox.sends))
        assert outbox.size == waiting <= 100
    outbox.flush()
    assert b"".join(outbox.sends) == accepted


async def test_a_burst_is_one_send_each(nursery: trio.Nursery) -> None:
    """Ten frames to each of many outboxes: one send each, and those past a chunk in later steps, all of them."""
    flusher, outboxes = Flusher(), [Sink() for _ in range(2 * FLUSH_CHUNK + 5)]
    await nursery.start(flusher.run)
    for _ in range(10):
        for outbox in outboxes:
            if outbox.first is None:
                flusher.mark(outbox)
            outbox.offer(b"frame")
    flusher.flush()
    assert sum(bool(outbox.sends) for outbox in outboxes) == FLUSH_CHUNK
    await trio.testing.wait_all_tasks_blocked()
    assert all(outbox.sends == [b"frame" * 10] for outbox in outboxes)


async def test_marked_is_flushed_without_being_asked(nursery: trio.Nursery) -> None:
    """A mark alone is enough: it goes out in the next scheduler step."""
    flusher, outbox = Flusher(), Sink()
    await nursery.start(flusher.run)
    flusher.mark(outbox)
    outbox.offer(b"x")
    await trio.testing.wait_all_tasks_blocked()
    assert outbox.sends == [b"x"]


def test_a_carrier_must_say_how_to_send() -> None:
    """The queue itself touches no socket."""
    with pytest.raises(NotImplementedError):
        Outbox(1).flush()
