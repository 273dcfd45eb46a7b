"""What the load test writes into messages, and how it knows its own again.

A message says by whom and when it was due, and how long it is: `KEY DUE LENGTH filler`. The key is the clientMessageId,
`RUN-USER-NUMBER`. So a receiver in any process of this machine knows the latency, and whether a byte was changed.
"""

from typing import NamedTuple

FILLER = "the quick brown fox jumps over the lazy dog; " * 800
SMALLEST = 48  # characters: shorter contents are as long as their head
MICROSECONDS = 1e6


class Key(NamedTuple):
    virtual_user: int
    number: int


def make_key(run: str, virtual_user: int, number: int) -> str:
    return f"{run}-{virtual_user}-{number}"


def parse_key(run: str, key: str | None) -> Key | None:
    """None for a message that is not of this run."""
    if key is None:
        return None
    name, _, rest = key.partition("-")
    virtual_user, _, number = rest.partition("-")
    if name != run or not number.isdigit() or not virtual_user.isdigit():
        return None
    return Key(int(virtual_user), int(number))


def make_content(key: str, due: float, size: int) -> str:
    head = f"{key} {int(due * MICROSECONDS)} {size} "
    return head + FILLER[: max(0, size - len(head))]


def read_content(key: str, content: str | None) -> float | None:
    """When the message was due; None when this is not what `make_content` made for this key."""
    if content is None:
        return None
    parts = content.split(" ", 3)
    if len(parts) != 4 or parts[0] != key or not parts[1].lstrip("-").isdigit() or not parts[2].isdigit():
        return None
    rest = parts[3]
    head = len(content) - len(rest)
    if len(content) != max(head, int(parts[2])) or not FILLER.startswith(rest):
        return None
    return int(parts[1]) / MICROSECONDS
