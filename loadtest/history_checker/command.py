"""The command line of the history checker.

Owns its options, its exit codes and what it prints. Without dependencies: it runs where only this package and msgspec
are.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from loadtest.history_checker.check import check
from loadtest.history_checker.conversation import Allowed
from loadtest.history_checker.reading import RecordError
from loadtest.history_checker.violations import CLASSES

HELD, BROKEN, UNREADABLE = 0, 1, 2

ABOUT = """\
Check that what the clients of a run saw is one history of each conversation.

RECORD is a directory of files *.jsonl, or such files: an event a line, written by
`parley loadtest run ... --record DIR` or by any program that keeps to the format in
docs/load-testing.md. Nothing else is asked: no server, no database.

For each conversation the changes are put into one order by their numbers, and then

  - every send that was acknowledged is in it, once, and says what was sent;
  - whatever was known (acknowledged, received, read) before a call was made stands before
    what the call made: appends are linearizable;
  - every client saw the order without a gap, a repetition or a step back from where it was
    attached; what a replay left out was overtaken by a later change to the same message;
  - nothing that was deleted comes back, no page is older than what was known before;
  - where two clients saw two histories a Resync separates each from the one that it left,
    and no client saw changes of the new one before that.
"""

AFTER = """\
exit codes:
  0  one history: nothing is wrong with it
  1  something is wrong; of each class the first is shown, with the lines that prove it
  2  the record cannot be read, or has no conversation

examples:
  parley loadtest run direct --dev --instances 2 --chaos "3 kill instance" --record /tmp/record
  parley loadtest check /tmp/record
  python -m loadtest.history_checker /tmp/record --may-go-back
"""


def parser() -> argparse.ArgumentParser:
    classes = "classes:\n" + "".join(f"  {name:12} {text}\n" for name, text in CLASSES.items())
    found = argparse.ArgumentParser(
        prog="parley loadtest check",
        description=ABOUT,
        epilog=f"{classes}\n{AFTER}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("record", nargs="+", type=Path, metavar="RECORD")
    found.add_argument(
        "--may-go-back",
        action="store_true",
        help="acknowledged changes may be lost (an asynchronous standby was promoted, a backup restored), "
        "if each client that knew of them got a Resync, or never came back",
    )
    found.add_argument(
        "--others", action="store_true", help="clients that are not in the record have written into these conversations"
    )
    found.add_argument("--quiet", action="store_true", help="print nothing but what is wrong")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. argparse ends the process with 2 when the command line is wrong."""
    given = parser().parse_args(arguments)
    try:
        verdict = check(given.record, Allowed(may_go_back=given.may_go_back, others=given.others))
        if not verdict.conversations:
            raise RecordError("there is no conversation in this record")
        if not verdict.holds or not given.quiet:
            _print(verdict.lines(), sys.stdout)
    except RecordError as error:
        _print([f"check: {error}"], sys.stderr)
        return UNREADABLE
    return HELD if verdict.holds else BROKEN


def _print(lines: Iterable[str], stream: TextIO) -> None:
    """The rule of `server.protocol.terminal`, without what it needs: nothing of a record controls the terminal."""
    for line in lines:
        stream.write("".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in line) + "\n")
