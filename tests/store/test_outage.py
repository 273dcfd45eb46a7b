"""store.outage: one line, then a count."""

import pytest
from structlog.testing import capture_logs

from store.outage import Outage


def test_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it fails: a line at the beginning, one each minute with the count, one at the end."""
    now = 1000.0
    monkeypatch.setattr("store.outage.time.monotonic", lambda: now)
    with capture_logs() as lines:
        it = Outage("parley.test", "it_fails", part=1)
        it.over()
        for second in range(150):
            now = 1000.0 + second
            it.failed(f"reason {second}")
        assert it and it.reason == "reason 149"
        it.over()
        it.over()
        assert not it
        it.failed("again")
    assert [(line["event"], line.get("reason"), line.get("failures")) for line in lines] == [
        ("it_fails", "reason 0", None),
        ("it_fails", "reason 60", 61),
        ("it_fails", "reason 120", 121),
        ("it_fails_over", None, 150),
        ("it_fails", "again", None),
    ]
    assert all(line["part"] == 1 for line in lines)
