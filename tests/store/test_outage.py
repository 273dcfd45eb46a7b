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
        now += 60
        it.failed("again")
    assert [(line["event"], line.get("reason"), line.get("failures")) for line in lines] == [
        ("it_fails", "reason 0", None),
        ("it_fails", "reason 60", 61),
        ("it_fails", "reason 120", 121),
        ("it_fails_over", None, 150),
        ("it_fails", "again", None),
    ]
    assert all(line["part"] == 1 for line in lines)


def test_what_fails_and_works_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first time is said, and that it is over; then there is a line a minute, with the count. One that lasts is
    said after LASTS, and then its end as well."""
    now = 1000.0
    monkeypatch.setattr("store.outage.time.monotonic", lambda: now)
    with capture_logs() as lines:
        it = Outage("parley.test", "it_fails")
        for second in range(270):
            now = 1000.0 + second
            it.failed("short")
            now += 0.5
            it.over()
        assert [line["event"] for line in lines] == ["it_fails", "it_fails_over"] * 5
        assert [line.get("repeated") for line in lines[::2]] == [None, 59, 59, 59, 59]
        for second in range(20):
            now = 1280.0 + second / 2
            it.failed("it stays away")
            assert len(lines) == (10 if second < 10 else 11) and it
        it.over()
    assert [line["event"] for line in lines[10:]] == ["it_fails", "it_fails_over"]
    assert (lines[10]["repeated"], lines[11]["failures"]) == (29, 20)
