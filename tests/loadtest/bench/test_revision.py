"""loadtest.bench.revision: another revision's tree, and its packages."""

import subprocess
from pathlib import Path

import pytest

from loadtest.bench import process
from loadtest.bench.process import HERE
from loadtest.bench.revision import RevisionError, checked_out, packages_of, required, resolved

SETUP = """
[options]
install_requires =
    trio >=0.33
    # a remark
    click
[options.extras_require]
dev =
    x
"""


def git(repository: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@localhost"]
    subprocess.run(["git", "-C", str(repository), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Of two commits; what is in its working tree is a third thing."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch", "main")
    for text in ("one", "two"):
        (root / "file").write_text(text)
        git(root, "add", "file")
        git(root, "commit", "--quiet", "-m", text)
    (root / "file").write_text("unsaved")
    return root


def test_a_revision_is_checked_out_beside_the_tree(repository: Path) -> None:
    """As it was committed; the working tree and the repository stay as they are, and the copy goes."""
    with checked_out(resolved("main~1", repository), repository) as source:
        assert (source.directory / "file").read_text() == "one"
        copy = source.directory
    assert not copy.exists()
    assert (repository / "file").read_text() == "unsaved"
    listed = subprocess.check_output(["git", "-C", str(repository), "worktree", "list"], text=True)
    assert len(listed.splitlines()) == 1


@pytest.mark.parametrize("name", ["none", "--help", "main~9"])
def test_a_revision_that_is_none_is_named(repository: Path, name: str) -> None:
    """Also one that reads like an option of git."""
    with pytest.raises(RevisionError, match=f"there is no revision {name}"):
        resolved(name, repository)


def test_packages_are_installed_only_where_others_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own tree needs none; another one that asks for the same neither; one that asks for others has them installed
    where its server finds them before ours."""
    assert packages_of(HERE.directory) is None
    (tmp_path / "setup.cfg").write_text(SETUP)
    assert required(tmp_path) == ["click", "trio >=0.33", "x"]
    commands = []

    def made(name: str, content: bytes, build: object) -> Path:
        commands.append(build(tmp_path / "packages"))  # type: ignore[operator]  # it is `install` of the module
        return tmp_path / "packages"

    monkeypatch.setattr("loadtest.bench.revision.made", made)
    found = packages_of(tmp_path)
    assert found == tmp_path / "packages" and commands[0][-3:] == ["click", "trio >=0.33", "x"]
    assert process.Source(tmp_path, found).path == f"{tmp_path}:{found}"
