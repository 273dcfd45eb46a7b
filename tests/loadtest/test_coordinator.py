"""What is made of a run before and after it: its shards, and the doubts about its figures."""

import msgspec
import pytest

from loadtest.coordinator import doubts, shard_of, uncounted, unseen
from loadtest.histogram import Histogram
from loadtest.recorder import LATE
from loadtest.results import Result
from loadtest.scenarios.base import Cast, pairs_of
from loadtest.targets import TargetError
from tests.loadtest.runs import MACHINE, START, run


def result(late: float, count: int) -> Result:
    histogram = Histogram()
    for _ in range(count):
        histogram.record(late)
    return Result(
        scenario="direct",
        started_at=START,
        seconds=1.0,
        target="here",
        seed=1,
        machine=MACHINE,
        histograms={LATE: histogram.encode()},
    )


def test_a_late_generator_is_doubted() -> None:
    """Figures that are the generator's own say so; a few late arrivals of a short run do not."""
    assert "late" in doubts(result(0.05, 1000))[0]
    assert doubts(result(0.001, 1000)) == []
    assert doubts(result(0.05, 5)) == []


def test_figures_that_are_the_generators_own_do_not_count() -> None:
    """A generator so late that most of what was measured is its own; and nothing that was measured at all. One that
    is late by a part of what others take is doubted, and counts."""
    late = result(0.1, 1000).histograms[LATE]
    send = run(millis=60).histograms["send"]
    assert "too late" in uncounted(run(histograms={"send": send, LATE: late}))
    assert "nothing was measured" in uncounted(result(0.001, 1000))
    slow = run(histograms={"send": run(millis=500).histograms["send"], LATE: late})
    assert (uncounted(slow), len(doubts(slow))) == ("", 1)
    assert uncounted(run()) == ""


def test_a_server_that_was_not_seen_is_said() -> None:
    """Otherwise its costs would be missing without a reason; the generator's own processes are none of it."""
    assert unseen(run()) == []
    generator = msgspec.structs.replace(run().processes[0], role="generator")
    assert "--metrics" in unseen(run(processes=[generator]))[0]


def test_an_interrupted_run_is_doubted() -> None:
    """It says when it was ended."""
    assert doubts(run(interrupted_at=4.25)) == ["interrupted after 4.2 s: this is a part of the run"]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_deal_out_every_conversation_once(count: int) -> None:
    """Together the shards have every conversation, each with all of its people, numbered from 0 without a gap."""
    whole = Cast(people=20, pairs=[(0, 1), (2, 3), (4, 5), (6, 7)], groups=[(8, 9, 10), (11, 12, 13, 14), (15, 16, 17)])
    parts = [shard_of(whole, index, count) for index in range(1, count + 1)]
    assert sum(len(part.pairs) + len(part.groups) for part in parts) == 7
    assert sum(part.people for part in parts) == 20
    for part in parts:
        members = [number for group in [*part.pairs, *part.groups] for number in group]
        assert all(0 <= number < part.people for number in members)
        assert len(set(members)) == len(members)
    assert sorted(len(group) for part in parts for group in part.groups) == [3, 3, 4]


def test_more_shards_than_conversations_are_refused() -> None:
    """A shard without conversations would measure nothing: it is refused."""
    with pytest.raises(TargetError):
        shard_of(pairs_of(4), 1, 3)
