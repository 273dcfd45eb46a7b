"""What others wrote, as it may be shown in a terminal.

Owns the one rule: no control character of a foreign text reaches a terminal, where it could clear the screen, rewrite
what stands there or type; nor does one that turns the direction of what follows. They are shown as escapes. Everything
that our commands print goes through here. Touches standard output only.
"""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ENDLESS = 100_000  # columns of a pipe
# C0 and C1 but tab and line feed, DEL, Bidi_Control, separators of lines, halves of surrogate pairs.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def shown(text: str) -> str:
    """`text` with what a terminal would obey made visible; its lines stay lines."""
    return _UNSEEN.sub(_escape, text)


def line(text: str) -> str:
    """Return the text on one line, so that nothing foreign passes for a line of ours."""
    return shown(text).replace("\n", "\\n")


def echo(text: str | bytes, *, err: bool = False, nl: bool = True) -> None:
    """Print it, on standard output or error."""
    click.echo(shown(text.decode(errors="backslashreplace") if isinstance(text, bytes) else text), err=err, nl=nl)


def console(**options: Any) -> "Console":
    """Rich's, with the same rule for whatever stands in its lines and cells. Imported late: most commands need none."""
    from server.protocol.terminal_console import SafeConsole  # noqa: PLC0415

    return SafeConsole(**options)


def table(*columns: str, whole: Collection[str] = ("id",)) -> "Table":
    """Plain columns, in which nothing is left out. What does not fit goes on in the next line of its cell, but in those
    that are `whole`, as what is typed into other commands: however narrow the terminal."""
    from rich.table import Column, Table  # noqa: PLC0415

    made = [
        Column(name, no_wrap=True, overflow="ignore") if name in whole else Column(name, overflow="fold")
        for name in columns
    ]
    return Table(*made, box=None, pad_edge=False)


def show(found: "Table") -> None:
    """Print a table, as wide as the terminal; into a pipe or a file, which has no width, each row is one line."""
    shown_in = console(highlight=False)
    (shown_in if shown_in.is_terminal else console(highlight=False, width=ENDLESS)).print(found)


def _escape(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]
