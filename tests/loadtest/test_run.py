"""Whole runs of the suite, from the making of people to the audit, against a real server."""

import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from loadtest import results
from loadtest.commands import UNCOUNTED, main
from loadtest.history_checker.check import check
from server.observability.version import version
from tests.certificates import Authority
from tests.loadtest.playing import Silent, play
from tests.running import JWT_KEY, running


def counted(result: results.Result, counter: str) -> int:
    """With what came after the load had ended, as much of it does on a busy machine."""
    return int(sum(sample.counters.get(counter, 0) for sample in result.samples))


async def play_all(url: str, scenario: str, kinds: set[str], **given: Any) -> results.Result:
    """Play it for so long that each kind of act is there: on a slow machine the first seconds have few of them."""
    for seconds in (2, 10, 50):
        result = await play(url, scenario, seconds=seconds, **given)
        if kinds <= result.histograms.keys() or not result.oracle.holds:
            break
    return result


async def test_direct_messages_by_two_workers(database: str, redis_url: str, tmp_path: Path) -> None:
    """What was due was sent, acknowledged and delivered, the oracle looked at all of it and found nothing wrong; and
    neither does the history checker in the record of both workers."""
    record = tmp_path / "record"
    async with running(database, redis_url, admin_listen=str(tmp_path / "one.sock")) as server:
        result = await play(
            server.url,
            "direct",
            workers=2,
            key="",
            record=str(record),
            pairs=4,
            rate=100,
            warmup=0.5,
            arrivals="fixed",
        )
    verdict = check([record])
    assert verdict.holds, "\n".join(verdict.lines())
    assert sorted(path.name for path in record.iterdir()) == ["worker-0.jsonl", "worker-1.jsonl"]
    assert verdict.changes >= counted(result, results.ACKNOWLEDGED)
    assert [one for one in result.processes if one.role == "server" and one.samples], "it is on this machine"
    assert result.versions["server"] == version()
    assert "LISTEN" in result.settings and "JWT_KEY" not in result.settings
    assert not [value for value in result.settings.values() if JWT_KEY in value or database in value]
    assert result.oracle.holds, result.oracle.breaches
    whole = counted(result, results.ACKNOWLEDGED)
    assert abs(whole - 200) <= 2
    assert result.oracle.checked["missing"] == whole
    assert result.oracle.checked["stored messages"] >= 2 * whole  # by each worker that has one of the two
    assert abs(result.histogram("deliver").count - 150) <= 2  # without the warm-up
    assert not result.errors


@pytest.mark.services
def test_the_command_breaks_things_and_no_promise_is_broken(tmp_path: Path) -> None:
    """`run --dev --chaos`: a server of its own; kill -9, SIGSTOP, a restarted Redis and cut connections on schedule;
    a result that `audit` accepts, and a record that `check` does."""
    out = tmp_path / "run.json"
    command = [sys.executable, "-m", "loadtest", "run", "direct", "--dev", "--instances", "2", "--rate", "60"]
    command += ["--edits", "0.2", "--seconds", "3", "--warmup", "0", "--pairs", "6", "--out", str(out)]
    command += ["--record", str(tmp_path / "record"), "--chaos"]
    command += ["0.5 kill instance 1; 0.7 cut 0.5; 1 restart redis; 1.2 stop instance 2 for 0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode in (0, UNCOUNTED), done.stdout + done.stderr  # where the machine has no time for it
    assert "BREACHED" not in done.stdout
    result = results.read(out)
    assert max(sample.gauges["connections"] for sample in result.samples) == 12
    assert {process.role for process in result.processes} == {"server", "generator", "database", "redis"}
    assert sorted(event.kind for event in result.chaos) == ["cut", "kill", "restart", "stop"]
    assert all("not mended" not in event.detail for event in result.chaos)
    assert result.histogram("resume").count >= 6
    audit = CliRunner().invoke(main, ["audit", str(out)])
    assert audit.exit_code == 0, audit.output
    checked = CliRunner().invoke(main, ["check", str(tmp_path / "record")])
    assert checked.exit_code == 0, checked.output


async def test_a_stalled_server_shows_in_the_percentiles(database: str, redis_url: str) -> None:
    """Honest load: what was due while the server stood still waited for it, and counts with all of its waiting.

    The server is stopped for 0.8 of 2 seconds; a closed loop would see one slow answer for each connection.
    """
    async with running(database, redis_url) as server, trio.open_nursery() as nursery:
        view = Silent()

        async def stall() -> None:
            await view.connected.wait()
            await trio.sleep(1.0)  # into the run
            server.pause()
            try:
                await trio.sleep(0.8)  # the stall that is to be seen
            finally:
                server.resume()

        nursery.start_soon(stall)
        result = await play(server.url, "direct", pairs=4, rate=100, seconds=2, arrivals="fixed", view=view)
        nursery.cancel_scope.cancel()
    assert result.oracle.holds, result.oracle.breaches
    for operation in ("send", "deliver"):
        histogram = result.histogram(operation)
        assert abs(histogram.count - 200) <= 2
        assert histogram.over(0.2) >= 50, histogram.percentiles((50, 90, 99))
        assert histogram.percentile(99) > 0.6


async def test_a_server_that_dies_for_good_is_a_finding(database: str, redis_url: str) -> None:
    """What was measured until then is kept; what was acknowledged cannot be looked up, and is not held to be true."""
    async with running(database, redis_url, may_fail=True) as server, trio.open_nursery() as nursery:
        view = Silent()

        async def die() -> None:
            await view.acknowledged.wait()
            server.kill()

        nursery.start_soon(die)
        result = await play(server.url, "direct", pairs=2, rate=40, seconds=3, settle=0.5, view=view)
    assert result.oracle.breached == {"unanswered": 1}
    assert "cannot be read" in result.oracle.breaches[0].text
    assert result.histogram("send").count > 0
    assert result.errors["not_back"] == 4


@pytest.mark.parametrize(("client", "protocol"), [("reference", "json"), ("lean", "messagepack")])
async def test_other_codecs(client: str, protocol: str, database: str, redis_url: str) -> None:
    """The same scenario holds on trio-websocket, and in MessagePack: with edits, typing, receipts, history."""
    async with running(database, redis_url, objects="") as server:
        result = await play(server.url, "day", client=client, protocol=protocol, people=8, group=4, rate=120)
    assert result.oracle.holds, result.oracle.breaches
    assert result.client == client
    assert {"send", "deliver", "receipt", "connect"} & result.histograms.keys() >= {"send", "deliver", "receipt"}
    assert counted(result, results.DELIVERED) > counted(result, results.ACKNOWLEDGED) > 20


async def test_what_is_each_members_own(database: str, redis_url: str) -> None:
    """Mentions, pins, settings, receipts and searches among messages that are edited and deleted, by clients whose
    connections are cut: the oracle looks at all of it, and finds nothing wrong."""
    kinds = {"send", "edit", "delete", "pin", "settings", "receipt", "search"}
    given = {"members": 5, "groups": 2, "rate": 150, "pins": 15, "deletions": 15, "to_all": 0.3, "chaos": "1 cut 0.5"}
    async with running(database, redis_url) as server:
        result = await play_all(server.url, "mentions", kinds, **given)
    assert result.oracle.holds, result.oracle.breaches
    for promise in ("mention", "pin", "count", "settings", "search"):
        assert result.oracle.checked[promise] > 0, promise
    assert kinds <= result.histograms.keys()


async def test_groups_that_talk_in_threads(database: str, redis_url: str) -> None:
    """Replies, deletions of them, who follows and reads threads, and pages of the main history, by clients whose
    connections are cut: the oracle looks at all of it, and finds nothing wrong."""
    kinds = {"send", "delete", "follow", "read thread", "receipt", "history"}
    given = {"members": 5, "groups": 2, "rate": 150, "pages": 5, "deletions": 15, "by_name": 0.3, "chaos": "1 cut 0.5"}
    async with running(database, redis_url) as server:
        result = await play_all(server.url, "threads", kinds, **given)
    assert result.oracle.holds, result.oracle.breaches
    for promise in ("thread", "mention", "count"):
        assert result.oracle.checked[promise] > 0, promise
    assert kinds <= result.histograms.keys()


async def test_the_lean_client_over_tls(
    database: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handshakes, records that hold several messages, and messages of several records: nothing is left undecrypted."""
    authority = Authority()
    cert, key = authority.issue(tmp_path)
    root = tmp_path / "root.pem"
    root.write_text(ssl.DER_cert_to_PEM_cert(authority.client.get_ca_certs(binary_form=True)[0]))
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    async with running(database, redis_url, tls_cert=cert, tls_key=key) as server:
        url = server.url.replace("http://", "https://")
        result = await play(url, "group", groups=1, members=6, rate=60, size=20_000, seconds=1, chaos="0.5 cut 0.5")
    assert result.oracle.holds, result.oracle.breaches
    assert not result.errors
    assert result.histogram("deliver").count == 5 * result.histogram("send").count > 0
    assert result.histogram("resume").count == 3


async def test_shards_are_joined_into_one_run(database: str, redis_url: str) -> None:
    """Two shards, here one after the other, each play their half of the conversations at half of the rate; merged
    they are the whole."""
    async with running(database, redis_url) as server:
        parts = [
            await play(server.url, "group", shard=(index, 2), groups=4, members=3, rate=60, seconds=1, arrivals="fixed")
            for index in (1, 2)
        ]
    whole = results.merge(parts)
    assert [part.oracle.holds for part in parts] == [True, True]
    assert [part.shard for part in parts] == ["1/2", "2/2"]
    assert abs(whole.histogram("send").count - 60) <= 2
    assert whole.histogram("deliver").count == 2 * whole.histogram("send").count
    assert whole.phases[0].rate == pytest.approx(60)


async def test_steps_end_at_the_knee(database: str, redis_url: str) -> None:
    """Shape `step` ends with the first step that does not hold; the knee is the last rate that did. Faults for which
    it did not last long enough are left out, and not waited for."""
    async with running(database, redis_url) as server:
        found = await play(
            server.url,
            "direct",
            shape="step",
            pairs=2,
            rate=20,
            step_seconds=0.5,
            step_limit_ms=0.001,
            seconds=1,
            chaos="100000 cut",
        )
    assert found.chaos == []
    assert found.figures["knee_per_second"] == 0
    assert [phase.name for phase in found.phases] == ["step 1"]
