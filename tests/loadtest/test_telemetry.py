"""loadtest.telemetry: what is made of servers' metrics pages."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.processes import Watch
from loadtest.telemetry import Telemetry, page_url
from tests.loadtest.runs import sample

PAGE = """# TYPE parley_inbox_delay_seconds histogram
parley_inbox_delay_seconds_count {count}
parley_inbox_delay_seconds_sum {sum}
parley_publisher_queued_changes 2
parley_receipts_queued_entries 7
process_cpu_seconds_total {cpu}
process_resident_memory_bytes 1e8
parley_build_info{{version="{version}",python="3.11.7"}} 1.0
"""


class Page(http.server.BaseHTTPRequestHandler):
    said = ""

    def do_GET(self) -> None:  # the library's name
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(self.said.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


async def test_lag_queues_and_use_are_read_from_a_named_page(address: str) -> None:
    """The lag is the mean since the last reading; a process that began anew is not negative."""
    telemetry, watch = Telemetry([address]), Watch()
    for at, count, total, cpu in ((1, 100, 0.5, 1.0), (3, 300, 1.5, 2.0), (5, 10, 0.2, 0.1)):
        Page.said = PAGE.format(count=count, sum=total, cpu=cpu, version=f"0.{at}")
        await telemetry.read(at, watch)
    assert [telemetry.gauges[at]["stream_lag_ms"] for at in (1, 3, 5)] == [5.0, 5.0, 20.0]
    assert telemetry.gauges[3]["publisher_queue"] == 2 and telemetry.gauges[3]["receipts_queue"] == 7
    assert telemetry.versions == {"server": "0.1, 0.3, 0.5", "server's python": "3.11.7"}
    (process,) = watch.processes()
    assert process.name == address
    assert [each.cpu_seconds for each in process.samples] == [1.0, 2.0, 0.1]
    samples = telemetry.added([sample(3), sample(4)])
    assert samples[0].gauges["publisher_queue"] == 2 and "publisher_queue" not in samples[1].gauges
    assert samples[0].gauges["connections"] == 100


async def test_a_page_that_does_not_answer_is_no_trouble(tmp_path: Path) -> None:
    """Nothing listens; a socket's file that no process has open any more."""
    (tmp_path / "dead.sock").touch()
    telemetry, watch = Telemetry(["127.0.0.1:1"], tmp_path), Watch()
    await telemetry.read(1, watch)
    assert telemetry.gauges == {}
    assert watch.processes() == []


def test_pages_may_be_named_in_short() -> None:
    """A page of metrics can be named by its host and port alone."""
    for text in ("h:1", "http://h:1", "http://h:1/", "h:1/metrics"):
        assert page_url(text) == "http://h:1/metrics"
