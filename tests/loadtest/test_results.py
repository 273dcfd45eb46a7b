from pathlib import Path

import msgspec
import pytest

from loadtest import results
from loadtest.histogram import Histogram
from loadtest.results import Chaos, ResultError, Sample
from tests.loadtest.runs import breached, later, run


def test_a_result_survives_json(tmp_path: Path) -> None:
    """What is written is read back equal, with a format number and camelCase names."""
    result = run(oracle=breached())
    path = tmp_path / "new" / "run.json"
    results.write(result, path)
    assert results.read(path) == result
    assert b'"format": 1' in path.read_bytes()
    assert b'"startedAt"' in path.read_bytes()


def test_what_is_no_result_is_refused_with_the_files_name(tmp_path: Path) -> None:
    """Missing, cut off, another thing, another format: one line that says which file and why."""
    whole = results.encode(run())
    for number, data in enumerate([b"", b"{}", b"[1]", whole[:-50], whole.replace(b'"format": 1', b'"format": 9')]):
        path = tmp_path / f"{number}.json"
        path.write_bytes(data)
        with pytest.raises(ResultError, match=f"{number}.json"):
            results.read(path)
    with pytest.raises(ResultError, match="No such file"):
        results.read(tmp_path / "none.json")
    with pytest.raises(ResultError, match="format 9"):
        results.read(tmp_path / "4.json")


def test_warm_up_is_not_measured() -> None:
    """Samples of the warm-up and the end count neither in figures nor in totals."""
    assert [sample.at for sample in run().measured()] == [3, 4, 5, 6, 7, 8, 9, 10]
    assert run().total("sent") == 8 * 200


def test_waiting_and_audit_after_the_load_are_not_measured() -> None:
    """However long they last: they would lower every rate."""
    waited = run(samples=[*run().samples, *(Sample(at=float(at), counters={"sent": 1}) for at in range(11, 30))])
    assert waited.measured() == run().measured()
    assert run(phases=[]).measured() == run().samples


def test_what_servers_say_is_not_added_up() -> None:
    """Two shards that watch one server see the same stream lag; their connections are different ones."""
    whole = results.merge([run(shard="1/2"), run(shard="2/2")])
    assert whole.samples[2].gauges == {"connections": 200, "stream_lag_ms": 3.0}


def test_workers_of_one_run_add_up() -> None:
    """Counters, gauges, rates and histograms add up second by second, whenever each worker began."""
    one = run(seed=1, shard="1/2", errors={"unavailable": 1, "timeout": 2})
    late = run(seed=1, shard="2/2", started_at=later(2.2), chaos=[Chaos(at=1.0, kind="cut", target="x", until=2.0)])
    whole = results.merge([late, one])
    assert whole.started_at == one.started_at
    assert whole.seconds == pytest.approx(12.2)
    assert (whole.workers, whole.shard) == (2, "2/2, 1/2")
    by_second = {sample.at: sample for sample in whole.samples}
    assert [by_second[at].counters["sent"] for at in (1, 2, 3, 10, 11, 12)] == [200, 200, 400, 400, 200, 200]
    assert by_second[5].gauges["connections"] == 200
    assert by_second[5].latencies["send"].count == 400
    assert whole.histogram("send").count == one.histogram("send").count + late.histogram("send").count
    assert whole.errors == {"unavailable": 2, "timeout": 2}
    assert [(phase.name, phase.rate) for phase in whole.phases] == [("warm-up", 0), ("hold", 400)]
    assert [(event.kind, event.at) for event in whole.chaos] == [("cut", pytest.approx(3.2)), ("kill", 6.0)]
    assert len(whole.processes) == 1


def test_a_worker_has_its_connections_once() -> None:
    """The last beat of a worker and the end of its run are often within one second: its connections do not add up
    there, and its rate is over both intervals; those of two workers add up, and so do their rates."""
    last = run().samples[-1]
    end = msgspec.structs.replace(last, at=10.4, seconds=0.4, counters={"sent": 20}, gauges={"connections": 90.0})
    one = run(seed=1, samples=[*run().samples, end])
    (whole,) = (sample for sample in results.merge([one]).samples if round(sample.at) == 10)
    assert whole.gauges["connections"] == 90
    assert (whole.counters["sent"], whole.seconds) == (220, 1.4)
    (both,) = (sample for sample in results.merge([one, one]).samples if round(sample.at) == 10)
    assert both.gauges["connections"] == 180
    assert both.counters["sent"] == 440


def test_a_run_without_operations_has_measured_nothing() -> None:
    """The generator's own lateness is no figure of the server; typing has no answer, and is seen by others."""
    late = {results.GENERATOR_LATE: run().histograms["send"]}
    assert run().has_measured
    assert not run(histograms=late).has_measured
    assert not run(histograms={}).has_measured
    typing = [Sample(at=5.0, counters={"typing_updates": 3})]
    assert run(histograms=late, samples=typing).has_measured


def test_a_part_that_was_interrupted_makes_the_whole_a_part() -> None:
    """The interruption counts from the start of the whole run."""
    whole = results.merge([run(shard="1/2"), run(shard="2/2", started_at=later(2.0), interrupted_at=3.0)])
    assert whole.interrupted_at == pytest.approx(5.0)
    assert results.merge([run()]).interrupted_at is None


def test_merged_percentiles_are_those_of_all_the_latencies() -> None:
    """Not the mean of the workers' percentiles: a slow worker's tail stays the tail."""
    fast, slow = run(millis=1), run(millis=100)
    merged = results.merge([fast, slow])
    both = Histogram.merged([fast.histogram("send"), slow.histogram("send")])
    assert merged.histogram("send").percentile(99) == both.percentile(99)
    assert merged.samples[4].latencies["send"].p99 > slow.samples[4].latencies["send"].p50


def test_the_first_breaches_of_all_workers_are_kept() -> None:
    """Merged runs count every breach, and keep the text of a bounded number."""
    merged = results.merge([run(oracle=breached()) for _ in range(20)])
    assert merged.oracle.breached == {"gap": 60}
    assert len(merged.oracle.breaches) == results.BREACHES_KEPT


def test_different_runs_do_not_merge() -> None:
    """Runs that are not parts of one are refused, with the difference."""
    with pytest.raises(ResultError, match="not parts of one run"):
        results.merge([run(), run(scenario="idle")])
    with pytest.raises(ResultError, match="parameters"):
        results.merge([run(), run(parameters={"rate": 5})])
    with pytest.raises(ResultError, match="shard 1/2 is there twice"):
        results.merge([run(shard="1/2"), run(shard="1/2")])
    with pytest.raises(ResultError):
        results.merge([])


def test_this_machine_is_described() -> None:
    """A result says on what machine and with which versions it was measured."""
    machine = results.this_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 2**28
    assert "python" in results.installed_versions()
