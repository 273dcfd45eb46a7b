"""loadtest.bench.talk: how long a direct message takes at the server, whatever the client does meanwhile."""

import time

import pytest

from loadtest.bench import talk
from loadtest.bench.people import User
from loadtest.bench.talk import STAMP, STAMPED, Talk, stamp
from tests.loadtest.bench.hub import hub

PAIRS = [(User(f"{number}a", "token"), User(f"{number}b", "token"), f"conversation {number}") for number in range(3)]


def test_a_client_that_reads_late_makes_no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came while it did something else has the time at which it came."""
    late = 0.5
    monkeypatch.setattr(talk, "RATE", 1 / late)
    with hub() as port:
        people = Talk(port, PAIRS)
        known = people._receive

        def receive(timeout: float) -> bool:
            time.sleep(late)  # it is late
            return known(timeout)

        people._receive = receive  # type: ignore[method-assign]
        delays = people.run(lambda passed: passed > 4 * late)
        people.close()
    assert len(delays) >= 3 and sorted(delays)[len(delays) // 2] < 1000 * late


def test_each_message_is_timed_once() -> None:
    """As many as were sent have a delay, and one after the other has its own."""
    with hub() as port:
        people = Talk(port, PAIRS)
        for _ in range(2):
            asked: list[float] = []

            def is_over(passed: float, asked: list[float] = asked) -> bool:
                asked.append(passed)
                return len(asked) > 20

            delays = people.run(is_over)
            assert len(delays) == 20 and min(delays) >= 0
        people.close()


def test_a_stamp_is_the_kernels() -> None:
    """Without one it is now."""
    assert stamp([(1, STAMPED, STAMP.pack(12, 500_000_000))]) == 12.5
    before = time.time()
    assert before <= stamp([]) <= time.time()
    assert before <= stamp([(1, STAMPED + 1, STAMP.pack(12, 0))]) <= time.time()
