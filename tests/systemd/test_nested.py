"""The whole set of units under a systemd of its own: start, reload, restart, crash, hang, timer, stop."""

import json
import math
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from server.cli.dev.services import Services
from tests.proxy import Proxy
from tests.running import JWT_KEY, free_port
from tests.systemd import nested

ROLE = "nested"
LONGEST = 900.0  # seconds for all of it, on a machine that is busy
OK = "HTTP/1.1 200 "


@contextmanager
def password_wanted(services: Services) -> Iterator[None]:
    """A role that has to show its password, as none has to in these services."""
    rules = services.data_dir / "postgres" / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"local all {ROLE} scram-sha-256\n{before}")
    with psycopg.connect(services.database_url, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {ROLE} SUPERUSER LOGIN PASSWORD 'right'".encode())
        connection.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            rules.write_text(before)
            connection.execute("SELECT pg_reload_conf()")


async def spend_the_day(directory: Path, services: Services, database: str) -> dict[str, Any]:
    """Boot, run the scenario, and return its results."""
    port, postgres, valkey = free_port(), free_port(), free_port()
    parts = dict(part.split("=", 1) for part in database.split())
    credentials = {
        "jwt_key": JWT_KEY,
        "database_url": f"postgresql://{ROLE}:right@127.0.0.1:{postgres}/{parts['dbname']}",
        "redis_url": f"redis://127.0.0.1:{valkey}",
    }
    settings = 'drain_seconds = "0.5s"\nrate_limits = "off"\nregistration = "open"\n'
    nested.build(directory, port, settings, credentials)
    async with trio.open_nursery() as nursery:
        # Services under systemd run as users made for them, who may not use our Unix sockets.
        socket = Path(parts["host"], f".s.PGSQL.{parts.get('port', '5432')}")
        await nursery.start(Proxy(postgres, socket).run)
        await nursery.start(Proxy(valkey, Path(services.redis_url.removeprefix("unix://"))).run)
        with trio.move_on_after(LONGEST):
            await trio.run_process(
                nested.command(directory), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
            )
        nursery.cancel_scope.cancel()
    found = directory / "results/results.json"
    assert found.exists(), "it did not boot"
    seen: dict[str, Any] = json.loads(found.read_text())
    return seen


async def test_the_whole_set(tmp_path: Path, services: Services, database: str, redis_url: str) -> None:
    """An operator's day with two instances on one socket. No request is refused, whatever happens to one of them."""
    reason = nested.why_not()
    if reason:
        pytest.skip(reason)
    with password_wanted(services):
        seen = await spend_the_day(tmp_path / "root", services, database)
    text = json.dumps(seen, indent=1)
    print(text)  # noqa: T201
    journal = (tmp_path / "root/results/journal").read_text()
    assert "failed" not in [key for part in seen.values() for key in part], text

    start = seen["start"]
    assert start["code"] == 0 and set(start["active"].values()) == {"active"}, start
    assert start["migrate"] == {"Result": "success", "ExecMainStatus": "0"}
    assert start["status"].startswith("serving: ")

    sandbox = seen["sandbox"]
    assert sandbox["Uid"] != "0" and int(sandbox["CapEff"], 16) == 0
    assert (sandbox["NoNewPrivs"], sandbox["Seccomp"]) == ("1", "2")
    assert int(sandbox["files"]) == min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    assert {"parley_jwt_key", "parley_database_url"} <= set(sandbox["credentials"]) and not sandbox["in_environment"]

    visible = seen["visible"]
    assert visible["code"] == 0 and "-1" in visible["said"] and "-2" in visible["said"], visible
    assert min(visible["metrics"]) > 1000, visible

    check = seen["check"]
    assert check["code"] == 0, check["said"]
    assert (
        "open for its socket unit" in check["said"]
        and "PARLEY_REGISTRATION (/etc/parley/parley.toml:3)" in check["said"]
    )

    reload = seen["reload"]
    assert reload["code"] == 0 and reload["same_process"] and not math.isinf(reload["logged"])
    assert reload["status"].endswith("reloaded, changed: LOG_LEVEL; needs a restart: LANES")

    restart = seen["rolling_restart"]
    assert list(restart["answers"]) == [OK] and restart["answers"][OK] > 10 and restart["new"], restart

    wrong = seen["wrong_password"]
    assert wrong["code"] != 0 and wrong["tried"] == ["parley@1"] and wrong["same"], wrong
    assert "serving" not in wrong["state"]["StatusText"], wrong
    assert list(wrong["answers"]) == [OK] and not math.isinf(wrong["back"]), wrong
    assert (
        "PostgreSQL refuses the login: " in journal and f'password authentication failed for user "{ROLE}"' in journal
    )

    tenth = seen["tenth"]
    assert tenth["code"] == tenth["stop"] == 0 and tenth["status"].startswith("serving: "), tenth
    assert tenth["metrics"] > 1000, tenth

    # Each restart is a planned end: the others say so, and what became of the connections is the last line of each.
    assert '"event":"instance_left"' in journal and '"event":"stopped"' in journal
    dead = [line for line in journal.splitlines() if '"event":"instance_dead"' in line]
    assert len(dead) <= 2, dead  # the one that was killed, and the one that hung

    killed = seen["killed"]
    assert not math.isinf(killed["back"]) and killed["restarts"] == 1, killed
    # What the killed process had accepted is gone with it; no other request was affected.
    assert set(killed["answers"]) <= {OK, "ConnectionResetError", "closed without an answer"}, killed
    assert sum(count for said, count in killed["answers"].items() if said != OK) <= 4, killed

    hung = seen["hung"]
    assert not math.isinf(hung["back"]) and hung["new"] and "watchdog" in hung["results"], hung

    activation = seen["activation"]
    for state in activation["stopped"].values():
        assert state == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}, activation
    assert activation["answer"] == OK and activation["active"] == ["active", "inactive"], activation

    misconfigured = seen["misconfigured"]
    assert misconfigured["code"] != 0 and misconfigured["ExecMainStatus"] == "2", misconfigured
    assert misconfigured["NRestarts"] == "0" and misconfigured["ActiveState"] == "failed", misconfigured
    assert misconfigured["answer"] == OK and misconfigured["again"] == 0, misconfigured
    assert "log_leve: there is no such setting" in journal and "did you mean log_level?" in journal

    assert seen["purge"]["Result"] == "success" and not math.isinf(seen["purge"]["ran"]), seen["purge"]
    stop = seen["stop"]
    for state in stop["exits"].values():
        assert state == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}, stop
    assert stop["answer"] == "ConnectionRefusedError", stop
    assert "Traceback" not in journal and JWT_KEY not in journal
