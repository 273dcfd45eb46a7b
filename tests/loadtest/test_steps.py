"""loadtest.steps and loadtest.summary: the knee of a run, and that of the whole of its shards."""

from pathlib import Path

from click.testing import CliRunner

from loadtest import results, summary
from loadtest.commands import main
from loadtest.histogram import Histogram
from loadtest.results import Result
from loadtest.steps import Step, knee
from tests.loadtest.runs import run


def step(number: int, millis: float, left: int = 0) -> Step:
    histogram = Histogram()
    for _ in range(100):
        histogram.record(millis / 1000)
    return Step(f"step {number}", rate=100.0 * number, seconds=1, limit_ms=50, left=left, histogram=histogram.encode())


def shard(index: int, *millis: float) -> Result:
    """It played a step for each of these latencies."""
    played = [step(number, each) for number, each in enumerate(millis, 1)]
    return run(shard=f"{index}/2", steps=played, figures={"knee_per_second": knee(played)})


def test_the_knee_is_the_last_rate_that_held() -> None:
    """Before the first that did not: too slow, or with too much that had not ended."""
    assert knee([]) == 0
    assert knee([step(1, 60), step(2, 1)]) == 0
    assert knee([step(1, 1), step(2, 49), step(3, 60)]) == 200
    assert knee([step(1, 1, left=5), step(2, 1, left=11)]) == 100


def test_the_knee_of_shards_is_that_of_all(tmp_path: Path) -> None:
    """One shard's slow step does not hold for the whole, whichever is named first; rates of shards add up."""
    fast, slow = shard(1, 1, 1, 1, 60), shard(2, 1, 60)
    paths = [tmp_path / name for name in ("fast.json", "slow.json")]
    for part, path in zip((fast, slow), paths, strict=True):
        results.write(part, path)
    for order in (paths, paths[::-1]):
        out = tmp_path / "whole.json"
        done = CliRunner().invoke(main, ["merge", *map(str, order), "--out", str(out)])
        assert done.exit_code == 0, done.output
        whole = results.read(out)
        assert whole.figures["knee_per_second"] == 200
        assert [one.rate for one in whole.steps] == [200, 400]
        assert whole.notes == []


def test_what_the_shards_did_not_play_together_counts_for_nothing() -> None:
    """A shard that goes on alone has less load than the step's; the note says that there may be more to find."""
    short = shard(2, 1)
    whole = summary.merge([shard(1, 1, 1, 60), short])
    assert whole.figures["knee_per_second"] == 200 and whole.notes == [summary.HIGHER]
    assert "knee_per_second" not in summary.merge([shard(1, 1), run(shard="2/2")]).figures


def test_other_figures_are_of_the_whole_too() -> None:
    """What the generator cost counts every shard's messages."""
    watched = [
        results.Process(name="worker 1", pid=pid, role="generator", samples=run().processes[0].samples)
        for pid in (1, 2)
    ]
    one, other = (run(shard=f"{index}/2", processes=[process]) for index, process in enumerate(watched, 1))
    alone, whole = summary.of(one), summary.merge([one, other]).figures
    assert whole["generator_us_per_message"] == alone["generator_us_per_message"] > 0
    assert whole["generator_load"] == alone["generator_load"]
