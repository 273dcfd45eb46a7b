"""What the servers say of themselves while a run lasts: stream lag, queues, processes elsewhere.

Owns the reading of Prometheus pages: of admin listeners that were named (host:port or URL), and of the admin sockets
that a `parley dev` of our own puts into a directory. Read seldom, because making a page costs the server some 10 ms.
"""

import re
import ssl
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import msgspec
import trio

from loadtest import results
from loadtest.processes import Watch, metrics_usage, parse_metrics, unix_directories
from loadtest.results import Sample
from loadtest.targets import TargetUnfit

INTERVAL = 5.0  # seconds between readings
TIMEOUT = 2.0  # seconds
SUFFIX = ".sock"
LAG = "parley_inbox_delay_seconds"  # a histogram
GAUGES = {  # as the report names them, and the series
    "publisher_queue": "parley_publisher_queued_changes",
    "receipts_queue": "parley_receipts_queued_entries",
}
BUILD = re.compile(r'(\w+)="([^"]*)"')  # labels of parley_build_info
SAME_EVERYWHERE = {"receipts_queue"}  # every instance has the same value; the others add up


class Telemetry:
    """`read` now and then; `gauges` has what was found, by second."""

    def __init__(self, pages: Sequence[str] = (), directory: Path | None = None) -> None:
        self.gauges: dict[int, dict[str, float]] = {}
        self.versions: dict[str, str] = {}  # of the servers' parts; several where they differ
        self.settings: dict[str, str] = {}  # likewise, where they are not as by default
        self._sockets: set[Path] = set()  # admin sockets of servers on this machine
        self._asked: set[Path] = set()
        self._pages = [page_url(page) for page in pages]
        self._directory = directory
        self._lags: dict[str, tuple[float, float]] = {}  # by page: count and sum of all until now

    async def find(self, pids: Collection[int]) -> None:
        """The admin sockets of these processes, as far as this user may open them."""
        for directory in unix_directories(pids):
            for path in sorted(directory.glob(f"*{SUFFIX}")):
                status = await _ask(path, "/status")
                if status is not None and status.get("pid") in pids:
                    self._sockets.add(path)

    async def read(self, at: float, watch: Watch) -> None:
        """Every page there is at this moment. Processes of pages that were named are noted in `watch`."""
        found: dict[str, dict[str, float]] = {}
        own = set(self._directory.glob(f"*{SUFFIX}")) if self._directory else set()
        async with trio.open_nursery() as nursery:
            for page in self._pages:
                nursery.start_soon(_fetch, page, None, found)
            for path in sorted(own | self._sockets):
                nursery.start_soon(_fetch, "http://admin/metrics", path, found)
                nursery.start_soon(self._read_settings, path)
        for page in self._pages:
            watch.note(name_of(page), at, metrics_usage(found[page]) if page in found else None)
        if found:
            self.gauges[round(at)] = self._gauges(found)
        for series in found.values():
            self._note_versions(next((name for name in series if name.startswith("parley_build_info")), ""))

    def added(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples with the gauges of their seconds."""
        return [
            msgspec.structs.replace(sample, gauges={**sample.gauges, **self.gauges.get(round(sample.at), {})})
            for sample in samples
        ]

    async def _read_settings(self, path: Path) -> None:
        """Once of each: what is changed later in a running server is not in the result."""
        if path in self._asked:
            return
        answer = await _ask(path, "/settings")
        if answer is not None:
            self._asked.add(path)
            for name, value in answer.items():
                _add(self.settings, name, str(value))

    def _note_versions(self, build: str) -> None:
        for part, version in BUILD.findall(build):
            _add(self.versions, "server" if part == "version" else f"server's {part}", version)

    def _gauges(self, found: dict[str, dict[str, float]]) -> dict[str, float]:
        gauges = {}
        for name, series in GAUGES.items():
            values = [page[series] for page in found.values() if series in page]
            if values:
                gauges[name] = max(values) if name in SAME_EVERYWHERE else sum(values)
        count, seconds = 0.0, 0.0
        for page, series_by_name in found.items():
            now = series_by_name.get(f"{LAG}_count", 0.0), series_by_name.get(f"{LAG}_sum", 0.0)
            before = self._lags.get(page, (0.0, 0.0))
            if now[0] < before[0]:
                before = 0.0, 0.0  # another process by now
            count, seconds = count + now[0] - before[0], seconds + now[1] - before[1]
            self._lags[page] = now
        if count:
            gauges[results.STREAM_LAG] = round(seconds / count * results.MS, 3)
        return gauges


def page_url(text: str) -> str:
    """HOST:PORT or a URL, with or without /metrics. Raises TargetUnfit."""
    url = text if "://" in text else f"http://{text}"
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise TargetUnfit(f"--metrics {text}: {error}") from None
    return url if url.rstrip("/").endswith("/metrics") else url.rstrip("/") + "/metrics"


def name_of(page: str) -> str:
    return page.partition("://")[2].partition("/")[0]


@cache
def _tls() -> ssl.SSLContext:
    """Made once: it reads every root certificate."""
    return httpx.create_ssl_context()


def _add(known: dict[str, str], name: str, value: str) -> None:
    """One more, where the servers differ."""
    found = known[name].split(", ") if name in known else []
    known[name] = ", ".join(dict.fromkeys([*found, value]))


async def _ask(path: Path, route: str) -> dict[str, Any] | None:
    """An answer of an admin socket; None if there is none, as from a server of before that route."""
    transport = httpx.AsyncHTTPTransport(uds=str(path), verify=_tls())
    try:
        async with httpx.AsyncClient(transport=transport, timeout=TIMEOUT, verify=_tls()) as http:
            answer = await http.get(f"http://admin{route}")
            return msgspec.json.decode(answer.content, type=dict[str, Any]) if answer.is_success else None
    except (httpx.HTTPError, msgspec.DecodeError):
        return None


async def _fetch(page: str, path: Path | None, found: dict[str, dict[str, float]]) -> None:
    transport = httpx.AsyncHTTPTransport(uds=str(path), verify=_tls()) if path else None
    try:
        async with httpx.AsyncClient(transport=transport, timeout=TIMEOUT, verify=_tls()) as http:
            answer = await http.get(page)
    except httpx.HTTPError:
        return  # it is down, which is for others to judge
    if answer.is_success:
        found[str(path or page)] = parse_metrics(answer.text)
