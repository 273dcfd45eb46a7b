"""server.observability.version: two builds have two names, whether they were installed or are checked out."""

import re
import subprocess
from pathlib import Path

from click.testing import CliRunner

from loadtest.results import installed_versions
from server.cli.main import main
from server.observability.version import version, version_of


def git(directory: Path, *command: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    done = subprocess.run(
        ["git", "-C", str(directory), *identity, *command], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(directory: Path, content: str) -> str:
    """The name of a commit with one file of this content, as short as versions have it."""
    (directory / "file").write_text(content)
    git(directory, "add", "file")
    git(directory, "commit", "--quiet", "--message", content)
    return git(directory, "rev-parse", "--short=9", "HEAD")


def test_every_commit_of_a_checkout_is_a_version(tmp_path: Path) -> None:
    """The commit is found with or without tags, and in a worktree; uncommitted changes are marked."""
    git(tmp_path, "init", "--quiet")
    first = commit(tmp_path, "one")
    git(tmp_path, "tag", "v0.1.0")
    git(tmp_path, "worktree", "add", "--quiet", str(tmp_path / "other"))
    second = commit(tmp_path, "two")
    assert version_of(tmp_path, "0.1.0") == f"0.1.0+g{second}" != version_of(tmp_path / "other", "0.1.0")
    assert version_of(tmp_path / "other", "0.1.1.dev5+gabcdef012") == f"0.1.1+g{first}"
    (tmp_path / "file").write_text("three")
    assert version_of(tmp_path, "0.1.0") == f"0.1.0+g{second}.dirty"


def test_what_git_cannot_say(tmp_path: Path) -> None:
    """An installed package, a tree without git, a repository without commits: the version is the installed one."""
    assert version_of(tmp_path, "0.1.1.dev5+gabcdef012") == "0.1.1.dev5+gabcdef012"
    git(tmp_path, "init", "--quiet")
    assert version_of(tmp_path, "0.1.0") == "0.1.0"
    (tmp_path / "file").write_text("no repository")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / ".git").write_text("gitdir: nowhere")
    assert version_of(tmp_path / "package", "0.1.0") == "0.1.0"


def test_the_number_is_that_of_the_changelog() -> None:
    """What is built is named after the newest release of CHANGELOG.md, with or without the tags of a clone."""
    root = Path(__file__).parents[3]
    [number] = re.findall(r'^RELEASE = "(\S+)"', (root / "setup.py").read_text(), re.MULTILINE)
    assert re.findall(r"^## (\S+)", (root / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == number


def test_what_is_shown() -> None:
    """The command line and the reports of load tests say the same as metrics and `parley inspect`."""
    shown = CliRunner().invoke(main, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"parley {version()}\n")
    assert installed_versions()["parley"] == version()
