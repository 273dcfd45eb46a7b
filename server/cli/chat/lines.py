"""How a chat looks in a terminal, line by line.

Owns the rule that each line says whose it is: no line of a message can pass for another person's, or for one of ours;
nor can what a terminal would make of a long one at its right edge.
"""

import wcwidth
from parley_client import Message, MessageType

from server.protocol import terminal

MARKS = {"pending": "…", "sent": "✓", "delivered": "✓✓", "read": "✓✓", "failed": "✗"}
NOTE = "-- "  # before what is said by the program: no name begins so
SHORT = 200  # characters of a message in a list
NARROWEST = 10  # cells of text in a row, however narrow the terminal


def of_message(who: str, message: Message, *, number: bool = False, reply: str = "", columns: int | None = None) -> str:
    """Return the lines of a message, each with the name of its sender; with its number, to which commands refer."""
    content = message.content
    if message.deleted_at is not None:
        content = "(deleted)"
    elif message.file is not None:
        size = f"[{message.file.name}, {message.file.size:,} bytes]"
        content = f"{size} {content}".rstrip()
    if message.deleted_at is None:
        content += " (edited)" * (message.edited_at is not None) + " (pinned)" * (message.pinned_at is not None)
        content += "".join(f" [{one.emoji} {one.count}]" for one in message.reactions)
    return said(who, content, number=str(message.seq) if number else "", reply=reply, columns=columns)


def said(who: str, content: str, *, number: str = "", reply: str = "", columns: int | None = None) -> str:
    """Return a text with the name of who said it before each line, and before each row of a terminal so wide.

    `reply` says to what it is an answer.
    """
    name = terminal.line(who)
    before = f"{number} " if number else ""
    first = f"{before}{name}{f' ({reply})' if reply else ''}: "
    further = f"{' ' * len(before)}{name}| "
    return _rows(terminal.shown(content).split("\n"), first, further, columns)


def note(text: str, columns: int | None = None) -> str:
    """Return what the program says, on one line."""
    return _rows([terminal.line(text)], NOTE, NOTE, columns)


def listed(text: str, columns: int | None = None) -> str:
    """Return one line of a list."""
    return _rows([terminal.line(text)], "", "    ", columns)


def found(title: str, who: str, message: Message, columns: int | None = None) -> str:
    """Return one line about a message of any conversation."""
    text = message.content if message.deleted_at is None else "(deleted)"
    if message.file is not None:
        text = f"[{message.file.name}] {text}".rstrip()
    shown = text if len(text) <= SHORT else f"{text[:SHORT]} …"
    return listed(f"{message.created_at[:16].replace('T', ' ')}  {title}  #{message.seq}  {who}: {shown}", columns)


def is_shown(message: Message) -> bool:
    return message.type is not MessageType.SYSTEM


def _rows(lines: list[str], first: str, further: str, columns: int | None) -> str:
    found: list[str] = []
    for line in lines:
        before = further if found else first
        width = max(columns - 1, wcwidth.width(first) + NARROWEST) if columns is not None else None
        rows = (
            []
            if width is None
            else wcwidth.wrap(
                line,
                width,
                initial_indent=before,
                subsequent_indent=further,
                replace_whitespace=False,
                drop_whitespace=False,
                break_on_hyphens=False,
                propagate_sgr=False,
            )
        )
        found += rows or [before + line]
    return "\n".join(found)
