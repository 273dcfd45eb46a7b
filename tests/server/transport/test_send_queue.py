"""server.transport.send_queue: bounded in bytes, flushed once per batch."""

import time
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from server.hub.disconnect_reasons import slug_of
from server.transport.send_queue import (
    BUSY,
    BUSY_CHUNK,
    CROWD_CHUNK,
    FLUSH_CHUNK,
    Flusher,
    SendQueue,
    Verdict,
    end_if_stalled,
)


class Sink(SendQueue):
    """Accepts everything, and records each send."""

    def __init__(self, limit: int = 1000) -> None:
        super().__init__(limit)
        self.sends: list[bytes] = []

    def flush(self) -> None:
        frames = self.take()
        if frames:
            self.sends.append(b"".join(frames))

    def abort(self, why: str) -> None: ...


def test_the_limit_holds() -> None:
    """P8: a frame that does not fit is LAGGING, without effect; ephemeral ones are shed from half the limit on."""
    send_queue = Sink(100)
    assert send_queue.offer(b"x" * 60) is Verdict.QUEUED
    assert send_queue.offer(b"e", ephemeral=True) is Verdict.SHED
    assert send_queue.offer(b"x" * 41) is Verdict.LAGGING
    assert send_queue.offer(b"x" * 40) is Verdict.QUEUED
    assert send_queue.size == 100
    send_queue.flush()
    assert send_queue.sends == [b"x" * 100] and send_queue.size == 0
    assert send_queue.offer(b"e", ephemeral=True) is Verdict.QUEUED


def test_room_is_kept_for_answers() -> None:
    """Bytes reserved for completions are not available to events."""
    send_queue = Sink(100)
    send_queue.reserved = 50
    assert send_queue.offer(b"x" * 51) is Verdict.LAGGING
    send_queue.reserved = 0
    assert send_queue.offer(b"x" * 51) is Verdict.QUEUED


@given(st.lists(st.one_of(st.integers(1, 60), st.none()), max_size=40))
def test_size_is_what_waits(steps: list[int | None]) -> None:
    """`size` is the sum of the queued frames and never passes the limit, and no frame is lost."""
    send_queue, accepted = Sink(100), b""
    for number, step in enumerate(steps):
        if step is None:
            send_queue.flush()
        else:
            frame = bytes([number]) * step
            if send_queue.offer(frame) is Verdict.QUEUED:
                accepted += frame
        waiting = len(accepted) - sum(map(len, send_queue.sends))
        assert send_queue.size == waiting <= 100
    send_queue.flush()
    assert b"".join(send_queue.sends) == accepted


async def test_a_burst_is_one_send_each(nursery: trio.Nursery) -> None:
    """Ten frames to each of many send queues: one send each, and those past a chunk in later steps, all of them."""
    flusher, send_queues = Flusher(), [Sink() for _ in range(2 * FLUSH_CHUNK + 5)]
    await nursery.start(flusher.run)
    for _ in range(10):
        for send_queue in send_queues:
            if send_queue.first is None:
                flusher.mark(send_queue)
            send_queue.offer(b"frame")
    flusher.flush()
    assert sum(bool(send_queue.sends) for send_queue in send_queues) == FLUSH_CHUNK
    await trio.testing.wait_all_tasks_blocked()
    assert all(send_queue.sends == [b"frame" * 10] for send_queue in send_queues)


async def test_a_few_do_not_wait_for_a_crowd(nursery: trio.Nursery) -> None:
    """What goes to thousands is sent in small pieces; what comes for a few meanwhile goes before the rest of them, and
    none of the thousands is left out. A connection that is in both has its frames in order."""
    flusher, crowd, one = Flusher(), [Sink() for _ in range(3 * CROWD_CHUNK + 5)], Sink()
    await nursery.start(flusher.run)
    for send_queue in crowd:
        send_queue.offer(b"to all")
    flusher.crowd += crowd
    flusher.flush()
    assert sum(bool(send_queue.sends) for send_queue in crowd) == BUSY_CHUNK
    for send_queue in (one, crowd[-1]):
        if send_queue.first is None:
            flusher.dirty.append(send_queue)
        send_queue.offer(b", to few")
    flusher.flush()
    assert one.sends == [b", to few"]
    assert sum(bool(send_queue.sends) for send_queue in crowd) == BUSY_CHUNK
    for steps in range(1, 6):
        await trio.lowlevel.checkpoint()
        assert sum(bool(send_queue.sends) for send_queue in crowd) <= (1 + steps) * CROWD_CHUNK
    await trio.testing.wait_all_tasks_blocked()
    assert all(send_queue.sends == [b"to all"] for send_queue in crowd[:-1])
    assert crowd[-1].sends == [b"to all, to few"]


async def test_pieces_of_a_crowd_are_small_beside_work(nursery: trio.Nursery) -> None:
    """While others have work, only a few of a crowd are sent in each step between theirs; then all of it is."""
    flusher, crowd = Flusher(), [Sink() for _ in range(10 * CROWD_CHUNK)]
    await nursery.start(flusher.run)
    flusher.piece = CROWD_CHUNK  # nothing else was to be done until now
    for send_queue in crowd:
        send_queue.offer(b"to all")
    flusher.crowd += crowd
    flusher.flush()
    sent = [0]
    for _ in range(6):
        until = time.perf_counter() + 2 * BUSY
        while time.perf_counter() < until:
            pass  # the work of a step
        await trio.lowlevel.checkpoint()
        sent.append(sum(bool(send_queue.sends) for send_queue in crowd))
    assert max(after - before for before, after in pairwise(sent[3:])) <= 3 * BUSY_CHUNK  # two of its steps may meet
    await trio.testing.wait_all_tasks_blocked()
    assert all(send_queue.sends == [b"to all"] for send_queue in crowd)


async def test_what_a_failed_delivery_left_goes_with_what_is_marked_next(nursery: trio.Nursery) -> None:
    """Frames whose flush never came, as a defect ended what had queued them, do not keep later ones waiting."""
    flusher, left, send_queue = Flusher(), Sink(), Sink()
    await nursery.start(flusher.run)
    flusher.dirty.append(left)
    left.offer(b"left")
    flusher.mark(send_queue)
    send_queue.offer(b"x")
    await trio.testing.wait_all_tasks_blocked()
    assert (left.sends, send_queue.sends) == ([b"left"], [b"x"])


async def test_marked_is_flushed_without_being_asked(nursery: trio.Nursery) -> None:
    """A marked send queue is flushed in the next scheduler step."""
    flusher, send_queue = Flusher(), Sink()
    await nursery.start(flusher.run)
    flusher.mark(send_queue)
    send_queue.offer(b"x")
    await trio.testing.wait_all_tasks_blocked()
    assert send_queue.sends == [b"x"]


async def test_what_is_gathered_wakes_no_task(nursery: trio.Nursery) -> None:
    """What is marked within the flusher is flushed at its end, together; the task sleeps on."""
    flusher, send_queue, steps = Flusher(), Sink(), []
    await nursery.start(flusher.run)
    await trio.testing.wait_all_tasks_blocked()

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            steps.append(task.name)

    trio.lowlevel.add_instrument(Steps())
    with flusher:
        for _ in range(2):
            if send_queue.first is None:
                flusher.mark(send_queue)
            send_queue.offer(b"x")
        assert not send_queue.sends
    assert send_queue.sends == [b"xx"]
    await trio.testing.wait_all_tasks_blocked()
    assert not any("Flusher" in name for name in steps)


def test_a_transport_must_say_how_to_send() -> None:
    """The queue itself touches no socket."""
    with pytest.raises(TypeError, match=r"abort.*flush"):
        SendQueue(1)  # type: ignore[abstract]


class Taken:
    """What is being sent to a client, and how its connection ended."""

    def __init__(self, *, blocked: bool) -> None:
        self.blocked = blocked
        self.progress_at, self.stall_timeout = 100.0, 20.0
        self.ended: list[str] = []

    def abort(self, why: str) -> None:
        self.ended.append(why)


def test_a_client_that_takes_nothing_is_ended() -> None:
    """Not before its time is over, and not where nothing is being sent; what it is called is a known reason."""
    reading, idle = Taken(blocked=True), Taken(blocked=False)
    assert not end_if_stalled(reading, 119.9) and not end_if_stalled(idle, 1000.0)
    assert not reading.ended and not idle.ended
    assert end_if_stalled(reading, 120.0)
    assert [slug_of(why) for why in reading.ended] == ["stalled"]
