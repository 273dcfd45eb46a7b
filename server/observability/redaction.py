"""Render tracebacks for the log without local variables and quoted values.

Owns the rule. User content may occur in the messages of exceptions ("not a number: 'dear Bob'"). So of a message only
the first line is kept, up to a quotation mark, unless its type names nothing but code or constraints.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from structlog.processors import ExceptionRenderer
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, WrappedLogger

Traceback = list[dict[str, Any]]

ELIDED: Final = "…"
LONGEST: Final = 400  # characters of a message: how long it is may be up to who sent what it is about
_ABOUT_CODE: Final = (AttributeError, ImportError, NameError, NotImplementedError, TypeError)
_NAMES: Final = {kind.__name__ for kind in (*_ABOUT_CODE, ModuleNotFoundError, UnboundLocalError)}
_QUOTE = re.compile("[\"'`“‘]")


class Discreet(ExceptionDictTransformer):
    """The exceptions that structlog extracts, redacted."""

    def __init__(self) -> None:
        super().__init__(show_locals=False, use_rich=False)

    def __call__(self, exc_info: Any) -> Traceback:
        return [_cut(entry) for entry in super().__call__(exc_info)]


render = ExceptionRenderer(Discreet())


def render_text(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Render the same as lines of text under the event, for the console."""
    event = render(logger, method, event)
    found = event.get("exception")
    if isinstance(found, list):
        event["exception"] = "\n".join(_lines(found))
    return event


def _cut(entry: dict[str, Any]) -> dict[str, Any]:
    about_code = entry["exc_type"] in _NAMES or entry["exc_type"].endswith("Violation")  # PostgreSQL's class 23
    return {
        **entry,
        "exc_value": discreet(entry["exc_value"], about_code=about_code),
        "exc_notes": [],
        "syntax_error": None,
        "exceptions": [[_cut(inner) for inner in inners] for inners in entry["exceptions"]],
    }


def discreet(message: str, *, about_code: bool = False) -> str:
    """Return the first line of `message`, without what is quoted in it, and no more than `LONGEST` of it."""
    line = message.strip().partition("\n")[0]
    if about_code:
        return line
    plain = _QUOTE.split(line, 1)[0][:LONGEST]
    return line if plain == line else plain + ELIDED


def _lines(traceback: Traceback, indent: str = "") -> Iterator[str]:
    for entry in traceback:
        yield f"{indent}{entry['exc_type']}: {entry['exc_value']}"
        for frame in entry["frames"]:
            yield f"{indent}  {frame['filename']}:{frame['lineno']} in {frame['name']}"
        for inner in entry["exceptions"]:
            yield from _lines(inner, indent + "    ")
