"""Logging for the whole process: structlog, as JSON lines or as text, on standard error.

Owns the processors. Events are snake_case slugs with fields. The standard library's logging, and an exception that ends
the process, are written in the same format. Secrets and message content are removed here as a second safeguard, if a
call site has logged them.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Any

import msgspec
import structlog
import trio
from structlog.typing import EventDict, Processor, WrappedLogger

from server.observability import redaction
from server.observability.log_limits import PERIOD, Suppressor
from server.protocol.terminal import line, shown

KEEP_LOGGERS = True  # a logger stays as it was configured at its first line: cheap. Tests configure more than once
LEVELS = ("debug", "info", "warning", "error")
_LEVEL_NAMES = {"warn": "warning", "exception": "error"}  # by structlog's method, where they differ
_SPECIAL = frozenset({"exception", "exc_info", "stack", "logger", "logger_name"})  # of what ConsoleRenderer makes more
_USUAL = frozenset({"timestamp", "level", "event"})
_QUOTED = re.compile("[ \t=\r\n\"']")
_NUMBERS = {name.lower(): number for name, number in logging.getLevelNamesMapping().items()}  # by structlog's method
HIDDEN = frozenset(
    {"token", "access_token", "refresh_token", "authorization", "content", "email", "password", "jwt_key"}
)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if not HIDDEN.isdisjoint(event):
        for name in HIDDEN & event.keys():
            event[name] = "***"
    return event


def stamp(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Add the level and the time, in a third of the time that structlog's processors take."""
    event["level"] = _LEVEL_NAMES.get(method, method)
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    event["timestamp"] = f"{_second(seconds)}.{microseconds:06d}Z"
    return event


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape line breaks and control characters in values, so that they do not affect a terminal; not in tracebacks."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = shown(value) if name in ("exception", "stack") else line(value)
    return event


class PlainConsole(structlog.dev.ConsoleRenderer):
    """structlog's lines without colors. What has no traceback is put together here, in a fifth of the time."""

    def __init__(self) -> None:
        super().__init__(colors=False)

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> str:
        if not _SPECIAL.isdisjoint(event) or not event.keys() >= _USUAL:
            return super().__call__(logger, name, event)
        head = f"{event.pop('timestamp')} [{event.pop('level'):9}] {event.pop('event')!s:30}"
        return " ".join([head, *(f"{key}={_shown(event[key])}" for key in sorted(event))]).rstrip(" ")


def _shown(value: object) -> str:
    return value if isinstance(value, str) and _QUOTED.search(value) is None else repr(value)


class Threshold:
    """Drops lines below the level, which may change later, although structlog caches its loggers."""

    def __init__(self) -> None:
        self.level = logging.INFO

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if _NUMBERS[method] < self.level:
            raise structlog.DropEvent
        return event


_threshold = Threshold()
_Bound: Any = structlog.make_filtering_bound_logger(logging.DEBUG)


class BoundLogger(_Bound):  # type: ignore[misc]
    """Says whether a line would be above the threshold, for callers to whom its fields cost something."""

    def is_enabled_for(self, level: int) -> bool:
        return level >= _threshold.level


_suppressor = Suppressor()


def suppressed() -> int:
    """Return the number of lines left out since the start."""
    return _suppressor.suppressed


def set_level(level: str) -> None:
    """Set the level to one of `LEVELS`."""
    _threshold.level = _NUMBERS[level]
    # Libraries log less: their "info" is logged at "debug" only.
    quieter = max(_threshold.level, logging.WARNING) if _threshold.level > logging.DEBUG else logging.INFO
    logging.getLogger().setLevel(quieter)


async def report_suppressed(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Log the summaries of what was left out, even if no line follows, until cancelled."""
    task_status.started()
    while True:
        await trio.sleep(PERIOD)
        _suppressor.turn()


def serialize(event: EventDict, default: Callable[[Any], Any]) -> str:
    """Encode with msgspec, in a third of the time of `json.dumps`, which handles what msgspec does not accept."""
    try:
        return msgspec.json.encode(event, enc_hook=default).decode()
    except (UnicodeEncodeError, OverflowError, TypeError):
        return json.dumps(event, default=default)


def configure(log_format: str, level: str) -> None:
    """Configure logging. `log_format` is json or console, `level` one of `LEVELS`."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        stamp,
        redact,
    ]
    final: list[Any] = (
        [redaction.render, printable, structlog.processors.JSONRenderer(serializer=serialize)]
        if log_format == "json"
        else [
            redaction.render_text,
            printable,
            structlog.dev.ConsoleRenderer(colors=True) if sys.stderr.isatty() else PlainConsole(),
        ]
    )
    structlog.configure(
        processors=[_threshold, _suppressor, *shared, *final],
        wrapper_class=BoundLogger,
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=KEEP_LOGGERS,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    handler.addFilter(_suppressor.takes)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.getLogger("coredis").setLevel(
        logging.CRITICAL
    )  # its errors are raised too, and logged where they are handled
    set_level(level)
    sys.excepthook = _on_crash


def _on_crash(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Log an exception that ends the process. Python's own traceback would quote its message."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        structlog.get_logger("parley").critical("crashed", exc_info=(kind, error, traceback))
