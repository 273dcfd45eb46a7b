"""server.protocol.terminal: what others wrote does nothing to a terminal."""

import ast
import io
from pathlib import Path

import click
import pytest
from rich.table import Table

from server.protocol import terminal

ROOT = Path(__file__).parents[3]
HOSTILE = "a\x1b]52;c;ZXZpbA==\x07\x9b2J\r\x7f\u202egnp.exe\u2066\u061c\u2028\udc80\x00"


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\x9b2J", "\x07", "\r", "\b", "\x7f", "\u202e", "\u2067", "\u200f", "\udcff"]
)
def test_controls_are_escapes(text: str) -> None:
    """What would be obeyed, or turns directions, is seen instead."""
    found = terminal.shown(f"x{text}y")
    assert found.isprintable() and found.startswith("x\\") and found.endswith("y")


def test_what_people_write_stays() -> None:
    """Any script, emoji with joiners, lines and tabs."""
    text = "Zoë\t한글 עברית\n👩\u200d👩\u200d👧 \ufe0f"
    assert terminal.shown(text) == text
    assert terminal.line("one\ntwo") == "one\\ntwo"


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """Rich's own styles go out, what stands in a cell does not steer."""
    out = io.StringIO()
    table = Table("name")
    table.add_row(HOSTILE)
    terminal.console(file=out, force_terminal=True, width=200).print(table)
    assert "\x1b[" in out.getvalue()  # the borders' and heads' style
    assert not set("\x07\x9b\r\x7f\u202e\u2066\u061c\u2028\udc80\x00") & set(out.getvalue())
    assert "]52;" in out.getvalue() and "\x1b]" not in out.getvalue()
    terminal.echo(HOSTILE.encode(errors="surrogatepass"))
    assert capsys.readouterr().out.rstrip("\n").isprintable()


@pytest.mark.parametrize("package", ["server", "loadtest"])
def test_nothing_is_printed_past_it(package: str) -> None:
    """No module prints by itself, or makes a console of its own: then it would have to remember the rule."""
    past = []
    for path in sorted((ROOT / package).rglob("*.py")):
        if path.name == "terminal.py" or path.match("loadtest/history_checker/command.py"):  # alone: with its own rule
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in ("click.echo", "click.secho", "print", "Console", "sys.stdout.write", "sys.stderr.write"):
                    past.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert past == []
    assert callable(click.echo)
