"""How a chat looks in a terminal, line by line.

Owns the rule that each line says whose it is: no line of a message can pass for another person's, or for one of ours.
"""

from parley_client import Message, MessageType

from server.protocol import terminal

MARKS = {"pending": "…", "sent": "✓", "delivered": "✓✓", "read": "✓✓", "failed": "✗"}
NOTE = "-- "  # before what is said by the program; names have no blanks, so no user is called so


def of_message(who: str, message: Message, *, number: bool = False) -> str:
    """Return the lines of a message, each with the name of its sender; with its number, to which commands refer."""
    content = message.content
    if message.deleted_at is not None:
        content = "(deleted)"
    elif message.file is not None:
        size = f"[{message.file.name}, {message.file.size:,} bytes]"
        content = f"{size} {content}".rstrip()
    if message.edited_at is not None and message.deleted_at is None:
        content += " (edited)"
    return said(who, content, str(message.seq) if number else "")


def said(who: str, content: str, number: str = "") -> str:
    """Return a text with the name of who said it before each line."""
    name = terminal.line(who)
    first, *further = terminal.shown(content).split("\n")
    before = f"{number} " if number else ""
    blank = " " * len(before)
    return "\n".join([f"{before}{name}: {first}", *(f"{blank}{name}| {line}" for line in further)])


def note(text: str) -> str:
    """Return what the program says, on one line."""
    return NOTE + terminal.line(text)


def is_shown(message: Message) -> bool:
    return message.type is not MessageType.SYSTEM
