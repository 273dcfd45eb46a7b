"""The version of this build: the installed one and, in a checkout, the commit that is checked out.

Owns the call of git. An installed package has its commit in the version, since it was built. A checkout
installed as editable changes later, so git is called for it, once per process. Either way one commit has one version.
Touches the directory above the package, and runs one program.
"""

import re
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
GIT_TIMEOUT = 5.0  # seconds; it takes some milliseconds
COMMIT = 9  # digits of it that are shown, as in setup.py
_DEVELOPMENT = re.compile(r"(\.dev\d+)?(\+.*)?")


@cache
def version() -> str:
    """Return `0.1.0+g1a2b3c4d5` (`.dirty` with uncommitted changes). The first call may wait for git."""
    return version_of(ROOT, metadata.version("parley"))


def version_of(root: Path, installed: str) -> str:
    """Return `installed` with the commit of the checkout at `root`, if there is one and git is available."""
    if not (root / ".git").exists():  # a directory, or the file of a worktree
        return installed
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=.dirty", "--abbrev=40", "--exclude=*"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return installed
    commit, *dirty = asked.stdout.strip().split(".")
    return ".".join([f"{_DEVELOPMENT.sub('', installed)}+g{commit[:COMMIT]}", *dirty])
