"""The commands that can be typed: /help, /edit and so on.

Owns their names and arguments. What they do is the dialog's.
"""

import re
from typing import NamedTuple

from server.cli.chat.people import ChatError

_NUMBER = re.compile(r"#?(\d+)(?:\s+|$)")


class Command(NamedTuple):
    arguments: str
    help: str


COMMANDS = {
    "help": Command("", "show this list"),
    "with": Command("NAME", "go to the conversation with a user, or to a group by its title"),
    "list": Command("", "list the conversations, with what is unread"),
    "older": Command("", "show older messages"),
    "group": Command("TITLE: NAME, NAME ...", "begin a group"),
    "edit": Command("[#N] TEXT", "replace your last message, or the one with this number"),
    "delete": Command("[#N]", "delete your last message, or the one with this number; give up one that has failed"),
    "reply": Command("[#N] TEXT", "answer the last message of another, or the one with this number"),
    "file": Command("PATH", "send a file"),
    "react": Command("[#N] EMOJI", "react to the last message of another, or the one with this number"),
    "unreact": Command("[#N] EMOJI", "take your reaction back"),
    "pin": Command("[#N]", "pin the last message, or the one with this number, for all members"),
    "unpin": Command("#N", "take a pin away"),
    "pins": Command("", "list what is pinned here"),
    "search": Command("WORDS", 'find messages in all conversations: words, "phrases", beginnings*; /search goes on'),
    "mentions": Command("", "list the messages that mention you, the newest first; again for older ones"),
    "mute": Command("[HOURS]", "want no notifications of this conversation, for so long or for ever"),
    "unmute": Command("", "want them again"),
    "archive": Command("", "put this conversation away, or take it back"),
    "favourite": Command("", "make this conversation a favourite, or one no more"),
    "retry": Command("", "send again what has failed"),
    "who": Command("", "list the members, who is there, and how far they have read"),
    "quit": Command("", "leave (or Ctrl-D)"),
}


class Typed(NamedTuple):
    """A line as it was meant: something to say (`name` is empty), or a command."""

    name: str
    rest: str


def parse(line: str) -> Typed:
    """Take a line apart. Two slashes say something that begins with one. Raises ChatError."""
    if not line.startswith("/") or line.startswith("//"):
        return Typed("", line.removeprefix("/") if line.startswith("//") else line)
    name, _, rest = line[1:].partition(" ")
    found = meant(name)
    if len(found) != 1:
        hint = f": {', '.join('/' + one for one in found)}" if found and name else ""
        raise ChatError(f"there is no command /{name}{hint or '; /help lists them'} (// begins a text with a slash)")
    return Typed(found[0], rest.strip())


def meant(name: str) -> list[str]:
    """Return the commands that this may be the beginning of."""
    name = name.lower()
    return [name] if name in COMMANDS else [one for one in COMMANDS if one.startswith(name)]


def numbered(rest: str) -> tuple[int | None, str]:
    """Return the number of a message at the beginning of a command's text, and the remaining text."""
    match = _NUMBER.match(rest)
    if match is None or not rest.startswith("#"):
        return None, rest
    return int(match[1]), rest[match.end() :]


def help_lines() -> list[str]:
    width = max(len(f"/{name} {one.arguments}") for name, one in COMMANDS.items())
    return [f"{f'/{name} {one.arguments}':{width}}  {one.help}" for name, one in COMMANDS.items()]
