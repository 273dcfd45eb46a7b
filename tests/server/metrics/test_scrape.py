"""The metrics that Prometheus gets from a real server: correct, well named, bounded, and only on the admin side."""

import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import psycopg
import pytest
import structlog
import trio

from handlers.export import AT_ONCE as EXPORTS_AT_ONCE
from loadtest.client import ClientError, connect
from server.admin import app as admin_app
from server.admin.listener import MAX_SCRAPERS
from server.hub.disconnect_reasons import OTHER, SLUGS, slug_of
from server.observability import logs
from server.observability.log_limits import OF_ONE, Suppressor
from server.observability.version import version
from server.rest import turns
from store.errors import Damaged
from store.histogram import Histogram
from store.postgres.connection import Connection
from tests import plain_http
from tests.running import free_port
from tests.server.metrics.samples import Scrape, admin, scrape
from tests.server.rest.routes.test_moderation import administrator
from tests.site import Site, open_site
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
NAME = re.compile(r"parley_[a-z]+(_[a-z]+)*")
STANDARD = {"process", "python"}  # Prometheus' own
UNITS = ("_total", "_seconds", "_bytes", "_messages", "_connections", "_callers", "_changes", "_entries", "_info")
# What counts things that have no unit: connections by kind, tasks, rooms; or is 0 or 1.
UNITLESS = {
    "parley_hub_transports",
    "parley_hub_protocols",
    "parley_hub_streams",
    "parley_hub_draining",
    "parley_rooms_open",
    "parley_rooms_users",
    "parley_membership_up",
    "parley_search_rebuilding",
    "parley_webhooks_disabled",
    "parley_reactions_queued",
    "parley_threads_queued",
    "parley_reports_open",
    "parley_timeline_refused",
    "parley_postgres_full",
    "parley_files_failing",
    "parley_process_tasks",
    "parley_process_alive",
}


async def a_chat(site: Site) -> None:
    """Two users chat: one message, one error, one REST request, and both disconnect."""
    alice, alice_token = await site.user("alice")
    bob, his_token = await site.user("bob")
    made = await site.call(
        "POST", "/api/conversations", {"type": "Direct", "memberIds": [bob]}, token=alice_token, status=201
    )
    hub = f"{site.url}/hubs/chat"
    heard = trio.Event()
    async with (
        connect(hub, alice_token, on_event=lambda target, arguments: None) as alice_client,
        connect(hub, his_token, on_event=lambda target, arguments: heard.set(), protocol="messagepack") as bob_client,
    ):
        await alice_client.invoke("SendMessage", {"conversationId": made["id"], "content": "hello"})
        await alice_client.invoke("Ping")
        with pytest.raises(Exception, match="not_found"):
            await bob_client.invoke("NoSuchMethod")
        await bob_client.invoke("GetPresence", [alice])
        with trio.fail_after(60):
            await heard.wait()
        await site.call("GET", "/health")


async def test_what_happens_is_counted(database: str, redis_url: str, nursery: trio.Nursery, tmp_path: Path) -> None:
    """Every step in the path of a message is counted once."""
    socket = tmp_path / "admin.sock"
    async with open_site(database, redis_url, nursery, admin_listen=(str(socket),)) as site:
        await a_chat(site)

        async def settled() -> Scrape | None:
            found = await scrape(socket)
            return found if found.value("parley_hub_disconnects_total", reason="lost") >= 2 else None

        found = await wait_until(settled)
        value = found.value
        assert value("parley_hub_invocations_total", method="SendMessage") == 1
        assert value("parley_hub_invocation_seconds_count", method="SendMessage") == 1
        assert value("parley_hub_invocations_total", method="Ping") == 1
        assert value("parley_hub_invocation_seconds_count", method="GetPresence") == 1
        assert value("parley_hub_errors_total", code="not_found") == 1
        assert value("parley_lanes_messages_total", outcome="accepted") == 1
        assert value("parley_lanes_batch_messages_sum") == 1
        assert value("parley_pool_size_connections", pool="exports") == EXPORTS_AT_ONCE
        assert value("parley_lanes_commit_seconds_count") == 1
        assert value("parley_rooms_deliveries_total") == 2
        assert value("parley_listener_accepts_total") >= 3
        assert value("parley_hub_connections", condition="open") == 0
        assert value("parley_membership_up") == 1 and value("parley_process_alive") == 1
        assert value("parley_pool_size_connections", pool="main") == 8
        assert value("parley_rest_requests_total", status="2xx") >= 4
        assert value("parley_rest_request_seconds_count", route="conversations.create") == 1
        assert value("parley_receipts_queued_entries") == 0
        assert value("parley_transactions_total") >= 1
        assert value("process_open_fds") > 0
        check_conventions(found)
        check_with_promtool(found)
        check_documentation(found)
        await check_places(site, socket)


async def test_moderation_is_counted(database: str, redis_url: str, nursery: trio.Nursery, tmp_path: Path) -> None:
    """Acts of moderators by kind, blocks, connections of who is banned, and the reports that wait; what is refused, or
    changes nothing, is not."""
    socket = tmp_path / "admin.sock"
    async with open_site(database, redis_url, nursery, admin_listen=(str(socket),)) as site:
        root = await administrator(site)
        user, token = await site.user("user")
        other, others = await site.user("other")
        found = await scrape(socket)
        assert (found.value("parley_reports_open"), found.value("parley_reports_oldest_seconds")) == (0, 0)
        for status in (201, 200):  # the second is the first
            body = {"category": "Spam", "userId": user}
            report = await site.call("POST", "/api/reports", body, token=others, status=status)
        for method in ("PUT", "PUT", "DELETE"):
            await site.call(method, f"/api/users/me/blocks/{user}", token=others, status=204)
        await site.call("PUT", f"/api/users/{other}/ban", {}, token=token, status=403)
        async with connect(f"{site.url}/hubs/chat", token) as client:
            await client.invoke("Ping")
            await site.call("PUT", f"/api/users/{user}/ban", {}, token=root)
            with trio.fail_after(60):
                await client.closed.wait()

        async def settled() -> Scrape | None:
            found = await scrape(socket)
            return found if found.value("parley_hub_disconnects_total", reason="banned") else None

        found = await wait_until(settled)
        assert found.value("parley_hub_disconnects_total", reason="banned") == 1
        acts = {act: found.value("parley_moderation_acts_total", act=act) for act in ("userBanned", "reportResolved")}
        assert acts == {"userBanned": 1, "reportResolved": 0}
        written = [found.value("parley_blocks_written_total", act=act) for act in ("block", "unblock")]
        assert written == [1, 1]
        assert found.value("parley_reports_open") == 1 and found.value("parley_reports_oldest_seconds") > 0
        await site.call("PUT", f"/api/reports/{report['id']}/resolution", {}, token=root)
        found = await scrape(socket)
        assert found.value("parley_moderation_acts_total", act="reportResolved") == 1
        assert found.value("parley_reports_open") == 0


async def test_full_disks(
    database: str, redis_url: str, nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disks without room, under PostgreSQL and under the files, are metrics, until there is room; so is damage."""
    socket, full = tmp_path / "admin.sock", True

    async def require_room(conn: Connection) -> None:
        if full:
            raise psycopg.errors.DiskFull("no room")

    monkeypatch.setattr("store.postgres.disk.require_room", require_room)

    async def shown() -> tuple[float, ...]:
        found = await scrape(socket)
        return tuple(found.value(name) for name in ("parley_postgres_full", "parley_files_failing"))

    async with open_site(
        database, redis_url, nursery, admin_listen=(str(socket),), objects=f"file://{tmp_path}/files"
    ) as site:
        objects = site.process.objects
        assert objects is not None
        site.process.lanes.suspect_disk()
        objects.trouble.failed("no room")
        with pytest.raises(Damaged):
            async with site.process.pool.connection() as conn:
                await conn.execute("DO $$ BEGIN RAISE 'invalid page' USING ERRCODE = 'XX001'; END $$")
        await wait_until(_is(shown, (1, 1)))
        assert (await scrape(socket)).value("parley_postgres_faults_total") == 1
        full = False
        await site.http.get("/health")  # it looks whether a file can be stored
        await wait_until(_is(shown, (0, 0)))


def _is(look: Callable[[], Awaitable[object]], expected: object) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return await look() == expected

    return check


async def test_what_is_refused_is_counted(
    database: str, redis_url: str, nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusals by each bound are counted: rates, strangers, connections, answers, requests, log lines."""
    monkeypatch.setattr(logs, "_suppressor", Suppressor())
    monkeypatch.setattr(turns, "AT_ONCE", 1)
    monkeypatch.setattr(turns, "WAITING", 0)
    async with open_site(
        database,
        redis_url,
        nursery,
        admin_listen=(str(tmp_path / "admin.sock"),),
        rate_limits="on",
        rate_sends="1/1h",
        max_address_strangers=1,
        max_user_connections=1,
        max_user_answer_bytes=1,
    ) as site:
        _, token = await site.user("alice")
        group = (await site.call("POST", "/api/conversations", {"type": "Group"}, token=token, status=201))["id"]
        budget, hub = site.process.answers, f"{site.url}/hubs/chat"
        async with connect(hub, token):
            for status in (201, 429):
                body = {"conversationId": group, "content": "x"}
                await site.call("POST", "/api/messages", body, token=token, status=status)
            with pytest.raises(ClientError, match="429"):
                async with connect(hub, token):
                    pass
        user = next(iter(budget.turns._queues), "") or (await site.call("GET", "/api/users/me", token=token))["id"]
        scope: dict[str, object] = {}
        await budget.turns.take(scope, user)
        await site.call("GET", "/api/users/me", token=token, status=429)
        budget.turns.end(scope)
        budget._by_holder[user] += 1
        await site.call("GET", "/api/users/me", token=token, status=429)
        monkeypatch.setattr(budget, "_of_all", 1)
        del budget._by_holder[user]
        budget.held += 1
        await site.call("GET", "/api/users/me", token=token, status=503)
        budget.held -= 1
        await site.http.aclose()
        port = int(site.url.rpartition(":")[2])
        idle = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
        for stream in idle:
            await stream.send_all(b"GET")
        await wait_until(lambda: site.process.listener.strangers.refused)
        for _ in range(OF_ONE + 3):
            with suppress(structlog.DropEvent):
                logs._suppressor(None, "", {"event": "the same"})
        found = await scrape(tmp_path / "admin.sock")
        for stream in idle:
            await stream.aclose()
    value = found.value
    assert value("parley_limits_refusals_total", limit="sends") == 1
    assert value("parley_limits_refusals_total", limit="uploads") == 0
    assert value("parley_hub_crowding_total") == 1
    for waiting in ("requests", "answers", "all_answers"):
        assert value("parley_rest_refusals_total", waiting=waiting) == 1
    assert value("parley_listener_strangers_total") >= 1
    assert value("parley_logs_suppressed_total") == 3
    assert value("parley_rest_held_bytes") == 0


def check_conventions(found: Scrape) -> None:
    """Names, kinds, help and the number of series follow Prometheus' conventions; no label contains a user's text."""
    for family, kind in found.kinds.items():
        if family.partition("_")[0] in STANDARD:
            continue
        full = f"{family}_total" if kind == "counter" else family
        assert NAME.fullmatch(family), family
        assert full.endswith(UNITS) or family in UNITLESS, f"{full}: what is its unit?"
        assert len(found.helps[family]) > 10 and found.helps[family].endswith("."), family
    assert len(found.samples) < 900, "too many series for one instance"
    assert "NoSuchMethod" not in found.text and "alice" not in found.text


def check_with_promtool(found: Scrape) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        print("promtool is not installed: its check of the metrics is left out")  # noqa: T201
        return
    done = subprocess.run([promtool, "check", "metrics"], input=found.text, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def check_documentation(found: Scrape) -> None:
    """docs/monitoring.md has every metric of ours with its help text, and no other one."""
    page = (ROOT / "docs" / "monitoring.md").read_text()
    rows = dict(re.findall(r"^\| `(parley_\w+?)(?:{[^}]*})?` \| \w+ \| (.*) \|$", page, re.MULTILINE))
    named = {"counter": "_total", "info": "_info"}
    ours = {
        name.removesuffix(suffix) + suffix: help_text
        for name, help_text in found.helps.items()
        if name.partition("_")[0] not in STANDARD
        for suffix in [named.get(found.kinds[name], "")]
    }
    assert rows == ours


async def check_places(site: Site, socket: Path) -> None:
    """The public port serves neither metrics nor any other admin route."""
    for path in ("/metrics", "/status", "/connections", "/tree"):
        assert (await site.http.get(path)).status_code == 404
    for path in ("/drain", "/log-level/debug", "/users/alice/kill"):
        assert (await site.http.post(path)).status_code == 404
    async with admin(socket) as http:
        assert (await http.get("/status")).json()["version"] == version()
        assert (await http.get("/health")).json()["version"] == version()


async def test_a_port_serves_metrics_only(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Any process on the machine can reach the TCP port, so it serves metrics and no actions."""
    address = f"127.0.0.1:{free_port()}"
    async with open_site(database, redis_url, nursery, admin_listen=(address,)):
        async with plain_http.client(base_url=f"http://{address}", timeout=60) as http:
            lines = (await http.get("/metrics")).text.splitlines()
            [build] = [line for line in lines if line.startswith("parley_build_info{")]
            assert f'version="{version()}"' in build
            modern = await http.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
            assert modern.text.endswith("# EOF\n") and "openmetrics" in modern.headers["Content-Type"]
            assert (await http.get("/connections")).status_code == 404
            assert (await http.post("/drain")).status_code == 404


async def test_many_at_a_port(
    database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients of the TCP port cannot use up the process: few connections, one scrape at a time."""
    under_way: list[int] = []

    async def slowly(parts: object, accept: str) -> tuple[bytes, str]:
        under_way.append(1)
        assert sum(under_way) == 1
        for _ in range(10):
            await trio.sleep(0.001)  # the slow scrape that others wait for
        under_way.append(-1)
        return b"done", "text/plain"

    monkeypatch.setattr(admin_app, "scrape", slowly)
    address = f"127.0.0.1:{free_port()}"
    async with open_site(database, redis_url, nursery, admin_listen=(address,)), AsyncExitStack() as stack:
        scraper = await stack.enter_async_context(plain_http.client(base_url=f"http://{address}", timeout=60))
        assert (await scraper.get("/metrics")).text == "done"
        async with trio.open_nursery() as scrapes:
            for _ in range(10):
                scrapes.start_soon(scraper.get, "/metrics")
        await scraper.aclose()
        with structlog.testing.capture_logs() as lines:
            silent = [await stack.enter_async_context(await open_tcp(address)) for _ in range(3 * MAX_SCRAPERS)]
            with trio.fail_after(60):
                for stream in silent[: 2 * MAX_SCRAPERS]:  # the oldest make room, although they are all still open
                    assert await stream.receive_some(1) == b""
                async with plain_http.client(base_url=f"http://{address}", timeout=60) as http:
                    assert (await http.get("/metrics")).text == "done"
        assert "metrics_crowded" in {line["event"] for line in lines}


async def open_tcp(address: str) -> trio.SocketStream:
    host, _, port = address.partition(":")
    return await trio.open_tcp_stream(host, int(port))


def test_reasons_are_few() -> None:
    """Whatever reason a client gives for closing, the label is one of a fixed set."""
    assert slug_of("closed by client (1000)") == "client"
    assert slug_of("unauthenticated: The access token has expired.") == "unauthenticated"
    assert slug_of("unauthenticated: An operator has ended this connection.") == "operator"
    assert slug_of("protocol error: a reserved bit is set") == "protocol_error"
    assert slug_of("evil: <script>") == OTHER and slug_of("") == OTHER
    assert OTHER in SLUGS and all(re.fullmatch("[a-z_]+", slug) for slug in SLUGS)


def test_observing_is_cheap() -> None:
    """A histogram keeps one number for each bucket: no list grows with the traffic."""
    histogram = Histogram()
    for number in range(10_000):
        histogram.observe(number / 1000)
    assert len(histogram.counts) == len(histogram.bounds) + 1 and histogram.count == 10_000
