"""The dashboard and the alert rules in monitoring/: well formed, explained, and about metrics that a server has."""

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.server.metrics.samples import Scrape, scrape
from tests.site import open_site

MONITORING = Path(__file__).parents[1] / "monitoring"
SERIES = re.compile(r"\b(?:parley|process)_\w+")
SELECTORS = re.compile(r"\b((?:parley|process)_\w+)(?:\{([^}]*)\})?")
GIVEN = {"instance", "job"}  # labels that Prometheus adds
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",), "info": ("_info",)}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def queries() -> list[str]:
    """Every expression of the dashboard and of the rules."""
    board = dashboard()
    panels = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    notes = [note["expr"] for note in board["annotations"]["list"]]
    rules = re.findall(r"^ +expr: (.*)$", (MONITORING / "alerts.yml").read_text(), re.MULTILINE)
    assert len(panels) > 40 and len(rules) > 10
    return [*panels, *notes, *rules]


def series(found: Scrape) -> set[str]:
    """What may be asked for, whether or not it has a value yet."""
    return {family + suffix for family, kind in found.kinds.items() for suffix in SUFFIXES.get(kind, ("",))}


def labels() -> dict[str, set[str]]:
    """Of each metric, as docs/monitoring.md has them (which a test holds against the server)."""
    page = (MONITORING.parent / "docs" / "monitoring.md").read_text()
    rows = re.findall(r"^\| `(parley_\w+?)(?:\{([^}]*)\})?` \|", page, re.MULTILINE)
    return {name: set(filter(None, given.split(", "))) for name, given in rows}


async def test_every_metric_exists(database: str, redis_url: str, nursery: trio.Nursery, tmp_path: Path) -> None:
    """No panel stays empty and no alert silent because a metric was renamed, or has no such label."""
    socket = tmp_path / "admin.sock"
    async with open_site(database, redis_url, nursery, admin_listen=(str(socket),)):
        found = await scrape(socket)
    known, documented = series(found), labels()
    for query in queries():
        for name, selector in SELECTORS.findall(query):
            assert name in known, f"{name} in: {query}"
            used = set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"", selector)) - GIVEN
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            assert used <= documented.get(family, set()), f"labels {used} of {name} in: {query}"
    watched = {name for query in queries() for name in SERIES.findall(query)}
    assert len([name for name in watched if name.startswith("parley_")]) > 35


def test_the_dashboard_can_be_imported() -> None:
    """Ids are unique, panels do not overlap, each says what it shows, and every query is for the chosen instances."""
    board = dashboard()
    panels = board["panels"]
    assert board["uid"] == "parley" and board["schemaVersion"] >= 36
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"
            assert all('instance=~"$instance"' in target["expr"] for target in panel["targets"]), panel["title"]
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)


def test_every_alert_says_what_to_do() -> None:
    """Each rule has a severity, what it means, and what to do; what it names exists."""
    text = (MONITORING / "alerts.yml").read_text()
    rules = re.split(r"^ +- alert: ", text, flags=re.MULTILINE)[1:]
    assert len({rule.split()[0] for rule in rules}) == len(rules)
    for rule in rules:
        assert re.search(r"severity: (page|ticket)\}", rule), rule
        for field in ("summary", "meaning", "action"):
            assert re.search(rf"^ +{field}: \S.{{15,}}$", rule, re.MULTILINE), f"{field} of {rule}"
    for name in set(SERIES.findall("\n".join(rules))):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        assert family in labels() or name.startswith("process_"), name


def test_promtool_agrees(tmp_path: Path) -> None:
    """Prometheus' own tool parses every expression, and in staged situations the right alerts fire."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run([promtool, *command], cwd=MONITORING, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    rules = [
        {"record": f"panel{number}", "expr": query.replace("$__rate_interval", "5m").replace("$instance", ".*")}
        for number, query in enumerate(queries())
    ]
    panels = tmp_path / "panels.yml"  # JSON is YAML
    panels.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", "--lint=none", panels], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
