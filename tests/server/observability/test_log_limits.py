"""server.observability.log_limits: a line that comes over and over is counted, and what was left out is said."""

import json
import logging

import pytest
import structlog

from server.observability import logs
from server.observability.log_limits import MAX_KEYS, OF_EVENT, OF_ONE, PERIOD, SUPPRESSED, Suppressor
from tests.clock import Clock


def count(suppressor: Suppressor, times: int, **event: object) -> int:
    """Return how many of these lines pass."""
    passed = 0
    for _ in range(times):
        try:
            suppressor(None, "info", dict(event))
            passed += 1
        except structlog.DropEvent:
            pass
    return passed


def test_ten_a_second_about_one() -> None:
    """The limit is for one event and one user or address in a second; other lines are not affected."""
    clock = Clock()
    suppressor = Suppressor(clock)
    assert count(suppressor, 500, event="request", user="alice") == OF_ONE
    assert count(suppressor, 500, event="request", user=None, address="10.0.0.1") == OF_ONE
    assert count(suppressor, 3, event="request", user="bob") == 3
    assert count(suppressor, 500, event="odd") == OF_ONE
    clock.now += PERIOD
    assert count(suppressor, 500, event="request", user="alice") == OF_ONE


def test_in_all() -> None:
    """An event has a limit for all subjects together, and the number of counts is bounded."""
    suppressor = Suppressor(Clock())
    assert sum(count(suppressor, 1, event="request", user=str(number)) for number in range(3 * OF_EVENT)) == OF_EVENT
    for number in range(2 * MAX_KEYS):
        count(suppressor, 1, event=f"event{number % 50}", user=str(number))
    assert len(suppressor._counts) <= MAX_KEYS + 100


def test_what_was_left_out_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The summary has the number and the references of each event, including those of libraries."""
    clock = Clock()
    suppressor = Suppressor(clock)
    monkeypatch.setattr(logs, "_suppressor", suppressor)
    logs.configure("json", "info")
    try:
        for number in range(OF_ONE + 3):
            structlog.get_logger("x").error("request_failed", user="alice", reference=f"r{number}")
        for number in range(OF_ONE + 2):
            logging.getLogger("library").warning("odd input %d", number)
        clock.now += PERIOD
        suppressor.turn()
        printed = "".join(capsys.readouterr())
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers.clear()
    lines = [json.loads(line) for line in printed.splitlines()]
    said = {line["of"]: line for line in lines if line["event"] == SUPPRESSED}
    assert len(lines) == 2 * OF_ONE + 2
    failed = said["request_failed"]
    assert failed["count"] == 3 and failed["subject"] == "alice"
    assert failed["references"] == [f"r{number}" for number in range(OF_ONE, OF_ONE + 3)]
    assert said["odd input %d"]["count"] == 2 and "references" not in said["odd input %d"]
