"""Another revision of Parley, to be started beside this one.

Owns a clone of the repository in a temporary directory, and the packages of a revision that needs others than this one:
in the cache of the references, once. Touches neither the working tree nor the repository.
"""

import configparser
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.bench.process import HERE, ROOT, Source, made

WHAT = ("install_requires", "dev")  # of setup.cfg: what `parley dev` needs


class RevisionError(Exception):
    """There is no such revision, or it cannot be had; the message says why."""


def resolved(name: str, root: Path = ROOT) -> str:
    """The commit of a revision's name. Raises RevisionError."""
    return _git(
        root,
        "rev-parse",
        "--verify",
        "--quiet",
        "--end-of-options",
        f"{name}^{{commit}}",
        why=f"there is no revision {name}",
    )


@contextmanager
def checked_out(commit: str, root: Path = ROOT) -> Iterator[Source]:
    """The tree of this commit, until the block ends. Raises RevisionError, Unavailable."""
    with tempfile.TemporaryDirectory(prefix="parley-revision-") as directory:
        tree = Path(directory, "parley")
        _git(root, "clone", "--quiet", "--shared", "--no-checkout", str(root), str(tree), why="it cannot be cloned")
        _git(tree, "checkout", "--quiet", "--detach", commit, why="it cannot be checked out")
        yield Source(tree, packages_of(tree))


def packages_of(tree: Path) -> Path | None:
    """Where what this tree needs is installed; None: it needs nothing that this one does not. Raises Unavailable."""
    wanted = required(tree)
    if set(wanted) <= set(required(HERE.directory)):
        return None
    constraints = tree / "constraints.txt"

    def install(directory: Path) -> list[str]:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        bounds = ["--constraint", str(constraints)] if constraints.exists() else []
        return [*pip, "--target", str(directory), *bounds, *wanted]

    return made("packages", "\n".join([sys.version, *wanted]).encode(), install)


def required(tree: Path) -> list[str]:
    """The requirements in a tree's setup.cfg, sorted."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(tree / "setup.cfg")
    sections = ("options", "options.extras_require")
    texts = [parser.get(section, key, fallback="") for section, key in zip(sections, WHAT, strict=True)]
    lines = (line.strip() for text in texts for line in text.splitlines())
    return sorted(line for line in lines if line and not line.startswith("#"))


def _git(directory: Path, *arguments: str, why: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, text=True)
    except OSError as error:
        raise RevisionError(f"git: {error.strerror}") from None
    if done.returncode:
        raise RevisionError(": ".join([why, *done.stderr.strip().splitlines()[-1:]]))
    return done.stdout.strip()
