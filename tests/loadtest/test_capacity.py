"""loadtest.capacity: the arithmetic, the tables and the command. The measurement itself is `loadtest capacity`."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from click.testing import Result as Done

from loadtest.bench.process import environ_of, running
from loadtest.capacity.command import Capacity, capacity
from loadtest.capacity.measured import KEEPALIVE, LEAST, CostRecorder, TooFew
from loadtest.capacity.population import Cost, Costs, Population, needs
from loadtest.results import Machine
from server.config.loading import load
from tests.running import JWT_KEY

COSTS = Costs(
    connect=Cost(400, 100, 50),
    idle_second=Cost(1, 0, 0),
    message=Cost(100, 60, 10),
    across=Cost(20, 0, 15),
    delivery=Cost(8),
    receipt=Cost(30, 20, 10),
    history=Cost(1000, 300, 0),
    connection_kib=6,
    redis_connection_kib=0.5,
    process_mib=90,
    message_bytes=512,
)


@pytest.mark.parametrize("keepalive", [None, f"{KEEPALIVE:g}s"])
def test_servers_take_the_settings_with_which_they_are_measured(keepalive: str | None) -> None:
    """Those of the bench and of this command are within the ranges that settings have."""
    environ = environ_of() if keepalive is None else environ_of(keepalive)
    assert load(environ, None, jwt_key=JWT_KEY).keepalive > 0


def people(**changes: Any) -> Population:
    """A thousand who all talk: 1 message a second and user, no bursts, nothing but messages and idling."""
    quiet: dict[str, Any] = {
        "users": 1000, "online": 1.0, "devices": 1.0, "messages_per_user_day": 3600.0, "peak_hour": 1.0, "burst": 1.0,
        "deliveries": 2.0, "receipts": 0.0, "history_pages": 0.0, "session_minutes": 1e9, "utilisation": 0.5,
        "spare": 0,
    }  # fmt: skip
    return Population(**quiet | changes)


def invoked(path: Path, *options: str) -> Done:
    machine = Machine(cpu="a processor", cores=2, memory_bytes=1, system="Linux")
    path.write_bytes(msgspec.json.encode(Capacity(COSTS, 5000, 5.0, machine, {})))
    return CliRunner().invoke(capacity, ["--costs", str(path), *options])


def test_each_kind_of_work_costs_what_it_was_measured_to_cost() -> None:
    """1,000 messages/s of 100 us, 1,000 crossings of 20 us, 1,000 idle connections of 1 us/s: 0.121 cores."""
    found = needs(COSTS, people())
    assert found.messages_per_second == pytest.approx(1000)
    assert found.cores.server == pytest.approx(0.1 + 0.02 + 0.001)
    assert found.cores.database == pytest.approx(0.06)
    assert found.cores.redis == pytest.approx(0.01 + 0.015)
    more = needs(COSTS, people(deliveries=5.0, receipts=2.0))
    assert more.cores.server - found.cores.server == pytest.approx(3 * 0.02 + 3 * 0.008 + 2 * 0.03)


def test_connects_bring_their_history() -> None:
    """A thousand clients that come anew each minute, with two pages each."""
    found = needs(COSTS, people(session_minutes=1.0, history_pages=2.0, messages_per_user_day=0.0))
    assert found.cores.server == pytest.approx(1000 / 60 * (400 + 2 * 1000) / 1e6 + 0.001)


def test_processes_follow_whatever_is_scarcer() -> None:
    """Processor time at the given utilisation, or sockets; and the spare ones on top."""
    assert (needs(COSTS, people()).processes, needs(COSTS, people()).bound_by) == (1, "processor")
    assert needs(COSTS, people(users=20_000)).processes == 5  # 2.42 cores, half busy
    few = needs(COSTS, people(users=100_000, messages_per_user_day=1.0, spare=2))
    assert (few.processes, few.bound_by) == (7 + 2, "connections")


def test_memory_and_storage() -> None:
    """Memory follows from connections and processes, storage from a year of messages, a reconnect from the
    processes."""
    found = needs(COSTS, people(users=1_000_000, online=0.5, devices=2.0, messages_per_user_day=1.0, peak_hour=0.0))
    assert found.connections == 1_000_000
    assert found.memory_gib == pytest.approx((1_000_000 * 6 / 1024 + found.processes * 90) / 1024)
    assert found.redis_gib == pytest.approx(1_000_000 * 0.5 / 2**20)
    assert found.database_gib == pytest.approx(1_000_000 * 365 * 512 / 2**30)
    assert found.reconnect_seconds == pytest.approx(400 / found.processes)


def test_no_users_need_almost_nothing() -> None:
    """Without users one process and one core are needed: nothing is 0 that must run."""
    found = needs(COSTS, people(users=0))
    assert (found.processes, found.database_cores, found.connections) == (1, 1, 0)


def test_measured_inputs_stand_beside_what_is_computed(tmp_path: Path) -> None:
    """The costs, the work at the busiest moment, the needs; every assumption is said and can be changed."""
    done = invoked(tmp_path / "costs.json", "--markdown", "--users", "2000000")
    assert done.exit_code == 0, done.output
    for part in ("| durable message, acknowledged, 2 deliveries | 100 | 60.0 | 10.0 |", "2,000,000 users", "480,000"):
        assert part in done.output, part
    assert "20 messages a user and day" in done.output
    assert "7 messages a user" in invoked(tmp_path / "c.json", "--messages-per-user-day", "7").output.replace("\n", " ")
    assert "some minutes" in CliRunner().invoke(capacity, ["--help"]).output


@pytest.mark.parametrize("options", [["--utilisation", "0"], ["--session-minutes", "0"], ["--users", "-1"]])
def test_what_cannot_be_is_refused(tmp_path: Path, options: list[str]) -> None:
    """Options outside of their bounds are refused with exit code 2."""
    assert invoked(tmp_path / "costs.json", *options).exit_code == 2


def test_costs_of_too_few_operations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cost of five messages is that of whatever else was done meanwhile: exit code 4, and no table; what to give
    more of is said. A thousand are enough."""
    with running([sys.executable, "-c", "import time; time.sleep(600)"], port=1) as server:
        recorder = CostRecorder(server)
        recorder.each(LEAST["messages"], "messages")
        with pytest.raises(TooFew, match=r"999 messages .* 1,000: give it more --seconds"):
            recorder.each(LEAST["messages"] - 1, "messages")

    def few(*_: object) -> None:
        raise TooFew("5 messages were measured")

    monkeypatch.setattr("loadtest.capacity.command.measure", few)
    done = CliRunner().invoke(capacity, [])
    assert done.exit_code == 4
    assert done.output == "loadtest capacity: 5 messages were measured\n"
    assert CliRunner().invoke(capacity, ["--connections", "499"]).exit_code == 2


def test_costs_that_are_none_are_refused(tmp_path: Path) -> None:
    """A file of costs that is missing or has none is refused by its name."""
    (tmp_path / "bad.json").write_text("{}")
    for name in ("bad.json", "none.json"):
        done = CliRunner().invoke(capacity, ["--costs", str(tmp_path / name)])
        assert done.exit_code == 2 and name in done.output


def test_costs_are_not_begun_without_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a C compiler: exit code 1 and the reason, before a server is started."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = CliRunner().invoke(capacity, [])
    assert done.exit_code == 1
    assert done.output == "loadtest capacity: there is no C compiler (cc)\n"
