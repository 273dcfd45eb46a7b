"""`make mutants`: plant each fault in a copy of the tree, run the tests nearest to it, and see them fail.

Owns the copy. A fault has the file and text that it changes, the tests that must notice, and a sentence on what goes
wrong. Its tests are run without it first: those that fail then would prove nothing. Exit code 0: all were caught, but
those that say why they live; 1: one lived, no longer fits the code, or has tests that fail without it.
"""

import importlib
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
import pytest

ROOT = Path(__file__).parents[2]
FAULTS = Path(__file__).with_name("faults.toml")
LIMIT = 300.0  # seconds for the tests of one fault; one that makes them hang is caught, too
LOOK = 0.02  # seconds
OURS = ("server", "handlers", "store", "loadtest", "parley_client", "tests")  # imported anew for each fault


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


class Copy:
    """A copy of the tree, in which one fault at a time is planted, and tests are run."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self._sound: dict[str, bool] = {}  # by tests: whether they pass where nothing is planted
        copy_tree(tree)

    def is_sound(self, tests: str) -> bool:
        """Whether these tests pass without any fault. Raises click.ClickException when there are none."""
        if tests not in self._sound:
            code = self._run(tests)
            if code in (4, 5):  # pytest's: no such file, no such test
                raise click.ClickException(f"pytest ended with {code}: are the tests still called so? {tests}")
            self._sound[tests] = code == 0
        return self._sound[tests]

    def is_caught(self, fault: Fault) -> bool:
        """Plant it, run its tests, and take it out again."""
        file = self.tree / fault.path
        sound, times = file.read_text(), (file.stat().st_atime, file.stat().st_mtime)
        file.write_text(sound.replace(fault.old, fault.new))
        os.utime(file, (times[0], times[1] + 1000))  # nothing that was compiled of the sound one is taken for it
        try:
            return self._run(fault.tests, writes_bytecode=False) != 0
        finally:
            file.write_text(sound)
            os.utime(file, times)

    def _run(self, tests: str, *, writes_bytecode: bool = True) -> int | None:
        """Its exit code; None when it had to be ended. In a fork of this process, which has imported the libraries."""
        child = os.fork()
        if child == 0:
            code = 3  # pytest's for an error of its own
            try:
                code = _run_pytest(shlex.split(tests), self.tree, writes_bytecode=writes_bytecode)
            finally:
                os._exit(code)
        found = 0
        try:
            give_up = time.monotonic() + LIMIT
            while time.monotonic() < give_up:
                found, status = os.waitpid(child, os.WNOHANG)
                if found:
                    return os.waitstatus_to_exitcode(status)
                time.sleep(LOOK)  # no call waits for a child with a bound
            return None
        finally:
            if not found:
                os.killpg(child, signal.SIGTERM)
                os.waitpid(child, 0)


def _run_pytest(tests: Sequence[str], tree: Path, *, writes_bytecode: bool) -> int:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    if not writes_bytecode:
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = not writes_bytecode
    sys.path.insert(0, str(tree))
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*options, *tests]))


@click.command()
@click.argument("words", nargs=-1)
def main(words: Sequence[str]) -> None:
    """Plant faults and see them caught: all of them, or those in whose path or sentence a WORD stands."""
    chosen = [fault for fault in load() if not words or any(word in f"{fault.path} {fault.why}" for word in words)]
    lived = gone = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the copy goes, and the tests that run
    importlib.import_module("tests.conftest")  # and so all that the tests need of others, once
    with tempfile.TemporaryDirectory(prefix="parley-mutants-") as directory:
        copy = Copy(Path(directory))
        for number, fault in enumerate(chosen, 1):
            begun = time.monotonic()
            if not fault.fits(copy.tree):
                verdict = "does not fit the code any more"
                gone += 1
            elif not copy.is_sound(fault.tests):
                verdict = "its tests fail without it, too"
                gone += 1
            elif copy.is_caught(fault):
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
