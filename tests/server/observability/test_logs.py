"""server.observability.logs: one JSON line each, without secrets and without what people say."""

import json
import logging
import sys
import time
from datetime import datetime

import pytest
import structlog

from server.observability import logs
from server.observability.redaction import discreet


def test_secrets_and_content_are_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    """A value passed by mistake under a secret's name is not logged."""
    logs.configure("json", "info")
    try:
        structlog.get_logger("x").info("event", token="geheim", content="geheim", access_token="geheim", user="alice")
        structlog.get_logger("x").debug("not shown")
        printed = "".join(capsys.readouterr())
    finally:
        structlog.reset_defaults()
    [line] = printed.splitlines()
    found = json.loads(line)
    assert (found["event"], found["user"], found["level"]) == ("event", "alice", "info")
    assert "geheim" not in line and found["timestamp"].endswith("Z")


def test_the_level_may_change(capsys: pytest.CaptureFixture[str]) -> None:
    """A change of level applies to loggers in use, and to those of libraries."""
    logs.configure("json", "warning")
    log = structlog.get_logger("x")
    try:
        log.info("before")
        logs.set_level("debug")
        log.debug("between")
        logging.getLogger("library").info("library")
        logs.set_level("error")
        log.warning("after")
        log.error("loud")
        printed = "".join(capsys.readouterr())
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers.clear()
    assert [json.loads(line)["event"] for line in printed.splitlines()] == ["between", "library", "loud"]


def test_tracebacks_are_discreet(capsys: pytest.CaptureFixture[str]) -> None:
    """In each format, and from libraries too, an error is logged with its place, without quoted values or variables."""
    for log_format in ("json", "console"):
        logs.configure(log_format, "info")
        try:
            content = "geheim"
            try:
                try:
                    raise KeyError(content)
                except KeyError as error:
                    error.add_note(content)
                    raise ExceptionGroup(f"two {content!r}", [ValueError(f"it's\n{content}")]) from error
            except ExceptionGroup as group:
                structlog.get_logger("x").exception("failed")
                logging.getLogger("library").error("failed", exc_info=group)
                sys.excepthook(type(group), group, group.__traceback__)
        finally:
            structlog.reset_defaults()
            logging.getLogger().handlers.clear()
            sys.excepthook = sys.__excepthook__
        printed = "".join(capsys.readouterr())
        assert "geheim" not in printed and "crashed" in printed
        for known in ("ExceptionGroup", "two …", "KeyError", "it…", "test_logs.py", "test_tracebacks_are_discreet"):
            assert printed.count(known) >= 3, (log_format, known, printed)
        assert len(printed.splitlines()) == 3 or log_format == "console"


def test_a_logger_that_was_in_use_is_captured(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that a test runs in its process leaves no logger behind that later tests cannot capture."""
    logs.configure("json", "info")
    log = structlog.get_logger("x")
    try:
        log.info("printed")
    finally:
        structlog.reset_defaults()
    with structlog.testing.capture_logs() as lines:
        log.info("captured")
    assert [line["event"] for line in lines] == ["captured"] and "printed" in "".join(capsys.readouterr())


def test_what_only_names_code_is_kept() -> None:
    """The whole first line of errors about code or constraints is kept."""
    assert discreet("f() got an unexpected keyword argument 'x'\nmore", about_code=True).endswith("'x'")
    assert discreet("nothing is quoted here") == "nothing is quoted here"
    assert discreet('duplicate "x"') == "duplicate …"
    assert discreet("x" * 10_000) == "x" * 400 + "…"


def test_odd_values(capsys: pytest.CaptureFixture[str]) -> None:
    """Every line is written, whatever its fields are."""
    logs.configure("json", "info")
    try:
        structlog.get_logger("x").info("event", text="\ud800", number=2**70, thing=object())
    finally:
        structlog.reset_defaults()
    assert json.loads("".join(capsys.readouterr()))["number"] == 2**70


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_what_others_wrote_stays_on_its_line(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    """Control characters, changes of text direction and line breaks in a field or a name are escaped."""
    logs.configure(log_format, "info")
    try:
        structlog.get_logger("x").info("event", client="a\x1b]52;c;x\x07\x9b2J\r\nforged\u202e\x7f", user="Zoë")
        printed = "".join(capsys.readouterr())
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers.clear()
    [line] = printed.splitlines()
    assert line.isprintable() and "Zoë" in line and "forged" in line


EVENTS: list[dict[str, object]] = [
    {"event": "connection_opened", "user": "5f0c0a52", "stateful": False, "client": "a client/1.0 (x)", "seconds": 1.5},
    {"event": "x" * 40, "empty": "", "none": None, "quote": "it's", "equals": "a=b", "list": ["a"], "b": b"x"},
    {"event": "just this"},
    {"event": "failed", "exception": "Traceback\n  line", "a": 1},
    {"event": "failed", "stack": "Stack\n  line", "logger": "parley.x", "a": 1},
    {"event": 5, "level_of": "x"},
    {"event": "tab\tnew\nline\r", "tab": "\t", "new": "\n", "return": "\r", "quotes": '"'},
    {"a": 1},
]


@pytest.mark.parametrize("event", EVENTS, ids=range(len(EVENTS)))
@pytest.mark.parametrize("method", ["debug", "info", "warn", "warning", "error", "exception", "critical"])
def test_plain_lines_are_those_of_structlog(event: dict[str, object], method: str) -> None:
    """The level, the shape of the time, and the line of the console are as structlog's own processors make them."""
    ours, theirs = dict(event), dict(event)
    logs.stamp(None, method, ours)
    structlog.processors.add_log_level(None, method, theirs)
    structlog.processors.TimeStamper(fmt="iso", utc=True)(None, method, theirs)
    assert ours["level"] == theirs["level"]
    assert isinstance(ours["timestamp"], str)
    written = datetime.fromisoformat(ours["timestamp"])
    assert abs(written.timestamp() - time.time()) < 60 and len(ours["timestamp"]) == len("2026-11-30T03:20:00.000000Z")
    theirs["timestamp"] = ours["timestamp"]
    expected = structlog.dev.ConsoleRenderer(colors=False)(None, method, theirs)
    assert logs.PlainConsole()(None, method, ours) == expected


def test_what_is_not_shown_may_be_left_undone() -> None:
    """A logger says whether lines of a level are shown, also after a change."""
    logs.configure("json", "warning")
    log = structlog.get_logger("x")
    try:
        assert not log.is_enabled_for(logging.INFO) and log.is_enabled_for(logging.WARNING)
        logs.set_level("info")
        assert log.is_enabled_for(logging.INFO) and not log.is_enabled_for(logging.DEBUG)
    finally:
        logs.set_level("info")
        structlog.reset_defaults()
        logging.getLogger().handlers.clear()
