"""server.cli.chat.commands: what is a command, and which."""

import pytest

from server.cli.chat.commands import COMMANDS, help_lines, numbered, parse
from server.cli.chat.dialog import Dialog
from server.cli.chat.people import ChatError


@pytest.mark.parametrize(
    ("line", "name", "rest"),
    [
        ("hello", "", "hello"),
        ("//etc is a path", "", "/etc is a path"),
        ("/help", "help", ""),
        ("/WITH  bob ", "with", "bob"),
        ("/w", None, None),
        ("/q", "quit", ""),
        ("/e #3 text", "edit", "#3 text"),
        ("/nonsense", None, None),
        ("/", None, None),
    ],
)
def test_lines(line: str, name: str | None, rest: str | None) -> None:
    """Commands may be cut short as long as it is clear which is meant; a text may begin with a slash, doubled."""
    if name is None:
        with pytest.raises(ChatError, match="there is no command"):
            parse(line)
    else:
        assert parse(line) == (name, rest)


def test_numbers() -> None:
    """The number of a message has a #, so that a text may begin with a number."""
    assert numbered("#12 text") == (12, "text") and numbered("#12") == (12, "")
    assert numbered("12 text") == (None, "12 text") and numbered("#12text") == (None, "#12text")


def test_every_command_is_there() -> None:
    """Each has a method, and a line in /help."""
    assert {name.removeprefix("_do_") for name in dir(Dialog) if name.startswith("_do_")} == COMMANDS.keys()
    assert len(help_lines()) == len(COMMANDS)
