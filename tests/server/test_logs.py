"""server.logs: one JSON line each, without secrets and without what people say."""

import json
import logging

import pytest
import structlog

from server import logs


def test_secrets_and_content_are_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is passed by mistake under such a name never reaches the line."""
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
    """A logger that is in use already follows, up and down; so do the libraries' loggers."""
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
