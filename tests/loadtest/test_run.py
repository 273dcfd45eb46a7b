"""Whole runs of the suite, from the making of people to the audit, against a real server."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest import results
from loadtest.conductor import Conductor, Options
from loadtest.parameters import make
from loadtest.results import Process, Result, Sample
from loadtest.scenarios import SCENARIOS
from loadtest.targets import Target
from tests.running import JWT_KEY, running


class Silent:
    """A view for nobody."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.samples: list[Sample] = []

    def update(self, sample: Sample, processes: Sequence[Process] = ()) -> None:
        self.samples.append(sample)

    def note(self, text: str) -> None:
        self.notes.append(text)


async def play(
    url: str, name: str, *, workers: int = 1, client: str = "lean", key: str = JWT_KEY, **given: object
) -> Result:
    kind = SCENARIOS[name]
    scenario = kind(make(kind.Parameters, {"warmup": 0.5, "seconds": 1.5, **given}))
    options = Options(workers=workers, client=client, settle=10.0)
    return await Conductor(scenario, Target(url, key=key), options, Silent()).run()


async def test_direct_messages_by_two_workers(database: str, redis_url: str) -> None:
    """What was due was sent, acknowledged and delivered, the oracle looked at all of it and found nothing wrong."""
    async with running(database, redis_url) as server:
        result = await play(server.url, "direct", workers=2, key="", pairs=4, rate=100, arrivals="fixed")
    assert result.oracle.holds, result.oracle.breaches
    whole = sum(sample.counters.get(results.ACKNOWLEDGED, 0) for sample in result.samples)
    assert abs(whole - 200) <= 2
    assert result.oracle.checked["missing"] == whole
    assert result.oracle.checked["stored messages"] >= 2 * whole  # by each worker that has one of the two
    assert abs(result.histogram("deliver").count - 150) <= 2  # without the warm-up
    assert not result.errors


def test_the_command_starts_a_server_and_writes_a_result(tmp_path: Path) -> None:
    """`run direct --dev` ends with 0 and leaves a result, which `audit` accepts."""
    out = tmp_path / "run.json"
    command = [sys.executable, "-m", "loadtest", "run", "direct", "--dev", "--rate", "50", "--seconds", "1"]
    command += ["--warmup", "0", "--pairs", "2", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert "every promise held" in done.stdout
    assert json.loads(out.read_bytes())["scenario"] == "direct"
    assert {process.role for process in results.read(out).processes} >= {"server", "generator", "database", "redis"}
    audit = subprocess.run(
        [sys.executable, "-m", "loadtest", "audit", str(out)], capture_output=True, text=True, check=False
    )
    assert audit.returncode == 0, audit.stdout
