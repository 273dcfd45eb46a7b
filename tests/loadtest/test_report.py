"""loadtest.report: the page of a run."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from loadtest import results
from loadtest.histogram import Histogram
from loadtest.report import charts, plots
from loadtest.report.command import report
from loadtest.report.page import render, write_report
from loadtest.report.plots import Chart, Series, draw, log_ticks, nice_ticks, thinned
from loadtest.results import Breach, Chaos, Oracle, Process, Result
from tests.loadtest.runs import breached, run

HOSTILE = '<script>alert("x")</script>&\'</pre>'
VOID = {"meta", "br", "input", "link", "img"}


class Page(HTMLParser):
    """The page's elements, its text, and whether they close as they opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


def hostile() -> Result:
    breach = Breach(promise=HOSTILE, at=1, text=HOSTILE, trace=[HOSTILE])
    return run(
        scenario=HOSTILE,
        profile=HOSTILE,
        parameters={HOSTILE: HOSTILE},
        errors={HOSTILE: 1},
        notes=[HOSTILE],
        chaos=[Chaos(at=1, kind=HOSTILE, target=HOSTILE)],
        oracle=Oracle(checked={HOSTILE: 1}, breached={HOSTILE: 1}, breaches=[breach]),
        versions={HOSTILE: HOSTILE},
        histograms={HOSTILE: run().histograms["send"]},
    )


def test_the_page_shows_every_part_of_the_run() -> None:
    """Rates, percentiles, processes, connections, lag, errors, chaos, configuration, machine, versions, verdict."""
    text = " ".join(Page(render(run())).text)
    for part in (
        "Rate", "intended", "Latency: send", "p99.9", "CPU of each process", "Memory of each process", "parley 1 (11)",
        "Connections", "Stream lag", "Errors", "unavailable", "Percentiles", "Broken on purpose", "kill",
        "Every promise held: 6,000 checks", "arrivals", "poisson", "a processor, 2 cores", "3.11.7", "warm-up",
    ):  # fmt: skip
        assert part in text, part


def test_the_page_needs_no_network_and_is_well_formed() -> None:
    """Nothing is loaded from elsewhere; every element that opens is closed, in the curves, too."""
    page = Page(render(run()))
    assert page.open == []
    assert page.tags.count("svg") == 8
    assert not [name for name, _ in page.attributes if name in ("src", "href", "xlink:href")]
    assert "@import" not in render(run()) and "url(" not in render(run())


def test_what_others_wrote_stays_text() -> None:
    """A hostile name, error, trace or version is shown, never run."""
    page = Page(render(hostile()))
    assert page.open == []
    assert page.tags.count("script") == page.tags.count("figure") + 1  # each chart's data, and the page's own
    assert "alert" in " ".join(page.text)


def test_a_breach_is_the_first_thing_one_sees() -> None:
    """The report names broken promises before its figures, escaped; and says when nothing was checked."""
    text = "".join(Page(render(run(oracle=breached()))).text)
    assert text.index("Promises were broken: gap (3)") < text.index("achieved")
    assert "seq 18 <b>" in text
    assert "Nothing was checked" in "".join(Page(render(run(oracle=Oracle()))).text)


@pytest.mark.parametrize("changes", [
    {"samples": [], "histograms": {}, "phases": [], "processes": [], "chaos": [], "errors": {}, "seconds": 0},
    {"samples": run().samples[:1], "seconds": 1},
    {"processes": [Process(name="x", pid=1)], "phases": []},
])  # fmt: skip
def test_a_run_that_ended_early_has_a_page(changes: dict[str, Any]) -> None:
    """No sample, one sample, a process that was never seen: whatever there is, is shown."""
    assert Page(render(run(**changes))).open == []


def test_json_lies_beside_the_page(tmp_path: Path) -> None:
    """The page comes with the run as JSON, from which the same run can be read."""
    page, data = write_report(run(), tmp_path / "run.html")
    assert results.read(data) == run()
    assert page.read_text().startswith("<!doctype html>")


def test_the_command_makes_a_page_of_parts_and_leaves_them_as_they_are(tmp_path: Path) -> None:
    """Two parts: merged.html beside them. What is no result: exit code 2 and one line."""
    for name in ("a.json", "b.json"):
        results.write(run(), tmp_path / name)
    before = (tmp_path / "a.json").read_bytes()
    done = CliRunner().invoke(report, [str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert (done.exit_code, done.output.strip()) == (0, str(tmp_path / "merged.html"))
    assert results.read(tmp_path / "merged.json").total("sent") == 2 * run().total("sent")
    assert (tmp_path / "a.json").read_bytes() == before
    (tmp_path / "a.json").write_text("{}")
    done = CliRunner().invoke(report, [str(tmp_path / "a.json")])
    assert done.exit_code == 2 and done.output.count("\n") == 1 and "a.json" in done.output


def test_a_peak_survives_thinning() -> None:
    """Ten thousand points become few; the highest is still there."""
    points = [(float(x), 9.0 if x == 5003 else 1.0) for x in range(10_000)]
    assert len(thinned(points)) <= plots.MOST_POINTS
    assert (5003.0, 9.0) in thinned(points)


def test_ticks_are_round_and_cover_the_values() -> None:
    """Axes have few round ticks, from zero to the highest value; a logarithmic one those around its values."""
    for end in (0.03, 1, 7, 99, 100, 101, 12345):
        ticks = nice_ticks(end)
        assert ticks[0] == 0 and ticks[-1] >= end * 0.999
        assert 2 <= len(ticks) <= 8
    assert log_ticks(3, 40) == [2, 5, 10, 20, 50]
    assert log_ticks(0.5, 20000)[0] <= 0.5 and log_ticks(0.5, 20000)[-1] >= 20000


def test_points_stay_inside_the_picture() -> None:
    """Of a linear and of a logarithmic chart, zero and the highest included; and the script gets the same places."""
    for log in (False, True):
        chart = Chart("x", [Series("y", [(0, 0), (5, 3), (10, 1e6)], "c0")], str, 10, log=log)
        text = draw(chart)
        found = re.search(r'class="line c0" d="M([^"]+)"', text)
        assert found
        places = [tuple(map(float, place.split(","))) for place in found[1].split()]
        assert all(plots.LEFT <= x <= plots.WIDTH and plots.TOP <= y <= plots.HEIGHT for x, y in places)
        data = json.loads(text.partition('json">')[2].partition("</script>")[0])
        assert [point[0] for point in data["series"][0]] == [x for x, _ in places]


def test_processor_time_of_the_warm_up_is_not_counted() -> None:
    """Only what was spent within the measured phases is divided by what was done in them."""
    result = run(cpu=0.5)
    assert charts.spent(result.processes[0], result) == pytest.approx(0.5 * 8)
    assert charts.mean_load(result.processes[0]) == pytest.approx(0.5)


def test_the_generators_lateness_is_no_latency_of_the_server() -> None:
    """It has most samples of all, and comes last; the figures on top are of the server's busiest operation."""
    late = Histogram()
    for _ in range(5000):
        late.record(0.001)
    result = run(histograms={results.GENERATOR_LATE: late.encode(), **run().histograms})
    assert charts.operations(result) == ["send", results.GENERATOR_LATE]
    assert charts.busiest(result) == "send"
