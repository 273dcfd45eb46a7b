"""The shell commands of docs/operations.md, as one program for a machine of its own.

A block of code is run, in the order of the page, unless a comment above it says why not:

    <!-- not run: REASON -->

What the page leaves open (`NEW`, `PASSWORD`) is in WORDS. What is looked at between the blocks is in `page_checks.py`.
"""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs/operations.md"
MARK = re.compile(r"<!-- not run: (.+) -->")
# What the reader fills in.
WORDS = {
    "YOUR-REPOSITORY": "/repository",
    "PASSWORD": "right",
    "NEW": "v9.0.0",
    "OLD": "$(cat /results/old)",
}
ONE_BY_ONE = "restart one by one"  # in a comment: what the block with the loop does is done here
LOOP = "for unit in"
# Before or after the block with this line: a function of page_checks.py.
BEFORE = {
    "systemctl enable parley.target": "set_up",
    "git fetch": "release",
    "pg_dump": "say_before",
    "systemctl stop parley.target": "say_after",
}
AFTER = {
    "make install-units": "installed",
    "systemctl enable parley.target": "started",
    "parley check": "right",
    "systemd-journald": "logged",
    LOOP: "restarted",
    "systemctl reload": "serving",
    "git fetch": "upgraded",
    "ln -sfn OLD": "rolled_back",
    "parley@3": "three",
    "jwt_old_keys": "exchanged",
    "parley restored": "restored",
}
START = """set -eu -o pipefail
trap 'code=$?; echo "ended with $code in block $block" > /results/end' EXIT
block=0
cd /root
"""
END = """
block=all
journalctl --boot --no-pager > /results/journal
"""


class Block(NamedTuple):
    line: int  # of the page, its first
    text: str  # without the indentation
    reason: str  # why it is not run; empty where it is


def blocks(page: str) -> list[Block]:
    """Return the blocks of code of a page: what is indented or between fences, each to its end. A mark without a block
    below it counts as one that is empty."""
    found: list[Block] = []
    reason, marked, taken, fenced = "", 0, [], False
    for number, line in enumerate([*page.splitlines(), ""], 1):
        is_fence = line.startswith("```")
        if fenced or is_fence or line.startswith("    "):
            taken.append(line)
            fenced ^= is_fence
            continue
        if taken:
            text = "\n".join(one.removeprefix("    ") for one in taken)
            found.append(Block(number - len(taken), text, reason))
            reason, taken = "", []
        if mark := MARK.fullmatch(line):
            reason, marked = mark[1], number
        elif line and reason:
            found.append(Block(marked, "", reason))
            reason = ""
    return found


def script(found: list[Block], check: str) -> str:
    """Return the program that runs the blocks. `check`: the command that looks at what became of them."""
    run = [block for block in found if not block.reason]
    [loop] = [block for block in run if LOOP in block.text]
    lines = [START]
    for block in run:
        text = block.text
        for word, meant in WORDS.items():
            text = re.sub(rf"\b{word}\b", lambda _, meant=meant: meant, text)  # type: ignore[misc]
        before = [f"{check} {name}" for words, name in BEFORE.items() if words in block.text]
        after = [f"{check} {name}" for words, name in AFTER.items() if words in block.text]
        again = [loop.text] if "# ... and " + ONE_BY_ONE in block.text else []
        lines += [f"block={block.line}; echo {shlex.quote(f'-- {block.text}')}", *before, text, *again, *after]
    return "\n".join([*lines, END])
