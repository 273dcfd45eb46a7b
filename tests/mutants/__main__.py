"""`make mutants`: plant each fault in a copy of the tree, run the tests nearest to it, and see them fail.

Owns the copy. A fault has the file and text that it changes, the tests that must notice, and a sentence on what goes
wrong. Exit code 0: all were caught, but those that say why they live; 1: one lived or no longer fits the code.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

ROOT = Path(__file__).parents[2]
FAULTS = Path(__file__).with_name("faults.toml")
LIMIT = 300.0  # seconds for the tests of one fault; one that makes them hang is caught, too


class Fault(msgspec.Struct, frozen=True):
    """One change of one text. `lives`: why no test needs to catch it."""

    why: str
    path: str
    tests: str
    old: str
    new: str
    lives: str | None = None

    def fits(self, tree: Path) -> bool:
        file = tree / self.path
        return file.exists() and file.read_text().count(self.old) == 1


class _File(msgspec.Struct, frozen=True):
    fault: tuple[Fault, ...]


def load() -> tuple[Fault, ...]:
    return msgspec.convert(tomllib.loads(FAULTS.read_text()), _File).fault


def copy_tree(target: Path) -> None:
    """What git knows of, and what it does not ignore: no environment, no data."""
    listed = subprocess.check_output(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT)
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def is_caught(fault: Fault, tree: Path) -> bool:
    """Plant it, run its tests, and take it out again. Raises click.ClickException when no test was run at all."""
    file = tree / fault.path
    sound = file.read_text()
    file.write_text(sound.replace(fault.old, fault.new))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *shlex.split(fault.tests)]
    try:
        code = _run(command, tree)
    finally:
        file.write_text(sound)
    if code not in (None, 0, 1, 2):  # pytest's: 1 tests failed, 2 interrupted or not importable; 4 and 5: no such test
        raise click.ClickException(f"pytest ended with {code}: are the tests still called so? {fault.tests}")
    return code != 0


def _run(command: Sequence[str], tree: Path) -> int | None:
    """Its exit code; None when it had to be ended."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            return process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            return None


@click.command()
@click.argument("words", nargs=-1)
def main(words: Sequence[str]) -> None:
    """Plant faults and see them caught: all of them, or those in whose path or sentence a WORD stands."""
    chosen = [fault for fault in load() if not words or any(word in f"{fault.path} {fault.why}" for word in words)]
    lived = gone = 0
    with tempfile.TemporaryDirectory(prefix="parley-mutants-") as directory:
        tree = Path(directory)
        copy_tree(tree)
        for number, fault in enumerate(chosen, 1):
            begun = time.monotonic()
            if not fault.fits(tree):
                verdict = "does not fit the code any more"
                gone += 1
            elif is_caught(fault, tree):
                verdict = "caught"
            elif fault.lives:
                verdict = f"lives: {fault.lives}"
            else:
                verdict = "LIVES"
                lived += 1
            seconds = time.monotonic() - begun
            click.echo(f"{number:3}/{len(chosen)} {fault.path}: {fault.why}: {verdict} ({seconds:.0f} s)")
    click.echo(f"{len(chosen) - lived - gone} of {len(chosen)} as they should be, {lived} lived, {gone} to be renewed")
    sys.exit(1 if lived or gone else 0)


if __name__ == "__main__":
    main()
