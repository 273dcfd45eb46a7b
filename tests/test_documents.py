"""The documents: every link leads somewhere, names in them are names in the code, and none needs what is not here."""

import ast
import contextlib
import functools
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from server.cli.main import main

ROOT = Path(__file__).parents[1]
PACKAGES = ("server", "handlers", "store", "loadtest", "tests")
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "examples/*.md", "loadtest/README.md", "systemd/README.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4,}.*$", re.MULTILINE)
A_PATH = re.compile(rf"(?:{'|'.join((*PACKAGES, 'docs', 'monitoring', 'systemd'))})/[\w./*@-]*")
A_NAME = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
A_TEST = re.compile(r"test_\w+")
A_FILE = re.compile(r"(?:\w+/)*\w+\.(?:py|sql)")  # by its name alone, wherever it is
# What only an author has: directories beside the project, and where a working copy is.
OUTSIDE = re.compile(r"\.\./shared\b|(?<![\w.])/(?:work|home|Users)/\w+")
A_DOCUMENT = re.compile(r"\b([\w-]+\.md)\b")


def read(document: str) -> str:
    return (ROOT / document).read_text()


def prose(document: str) -> str:
    """Without blocks of code, which may hold anything."""
    return INDENTED.sub("", FENCE.sub("", read(document)))


@functools.cache
def anchors(path: Path) -> set[str]:
    """Those of a page's headings, as the usual viewers make them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.*?) *$", FENCE.sub("", path.read_text()), re.MULTILINE):
        text = LINK.sub(lambda link: link[0].partition("]")[0].lstrip("!["), heading)
        slug = re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")
        count = found[slug] = found.get(slug, -1) + 1
        if count:
            found[f"{slug}-{count}"] = 0
    return set(found)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links(document: str) -> None:
    """Files are there, and in this repository; anchors are headings of theirs."""
    lost = []
    for target in LINK.findall(FENCE.sub("", read(document))):
        if re.match(r"[a-z]+:", target):
            continue  # another host: not asked
        where, _, anchor = target.partition("#")
        path = (ROOT / document).parent / where if where else ROOT / document
        is_here = path.exists() and path.resolve().is_relative_to(ROOT)
        if not is_here or (anchor and anchor not in anchors(path.resolve())):
            lost.append(target)
    assert not lost


@functools.cache
def names(module: Path) -> frozenset[str]:
    """What a module, and the classes in it, define or import."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return frozenset(found)


def is_there(dotted: str) -> bool:
    """Whether `server.hub.methods.register` is a package, a module, or a name in one."""
    path = ROOT
    parts = dotted.split(".")
    for index, part in enumerate(parts):
        if any((path / part).glob("*.py")):  # a directory without one is what an older checkout has left
            path /= part
            continue
        module = path / f"{part}.py"
        rest = parts[index + 1 :] if module.is_file() else parts[index:]
        module = module if module.is_file() else path / "__init__.py"
        return module.is_file() and set(rest) <= names(module)
    return True


def missing(text: str) -> Iterator[str]:
    tests: frozenset[str] = frozenset()
    for code in CODE.findall(text):
        path, _, test = code.partition("::")
        if A_PATH.fullmatch(path):
            found = [*ROOT.glob(path)] if "*" in path else [ROOT / path] * (ROOT / path).exists()
            if not found:
                yield code
            elif path.startswith("tests/") and path.endswith(".py"):
                tests = frozenset(re.findall(r"def (test_\w+)", read(path)))
                if test and test not in tests:
                    yield code
        elif A_NAME.fullmatch(code):
            if not is_there(code):
                yield code
        elif A_FILE.fullmatch(code):
            if not any(file for package in PACKAGES for file in (ROOT / package).rglob(code)):
                yield code
        elif A_TEST.fullmatch(code) and code not in tests:
            yield code


@pytest.mark.parametrize("document", [one for one in DOCUMENTS if one != "CHANGELOG.md"])
def test_names(document: str) -> None:
    """Paths, modules and what is in them, where a document names one of ours; a test is in the file named before it."""
    assert not list(missing(prose(document)))


def test_names_in_code() -> None:
    """The same for docstrings and comments."""
    found = []
    for name in tracked():
        if name.endswith((".py", ".sql", ".toml", ".cfg")) and name != Path(__file__).relative_to(ROOT).as_posix():
            found += [f"{name}: {one}" for one in missing(read(name)) if not A_TEST.fullmatch(one)]
    assert not found


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: which files are the project's is not known")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_nothing_outside_is_named() -> None:
    """No file of the project refers to a path above it, or to a document that is not in it."""
    found = []
    documents = {Path(name).name for name in tracked() if name.endswith(".md")}
    for name in tracked():
        try:
            text = read(name)
        except UnicodeDecodeError:
            continue  # a picture
        if name != Path(__file__).relative_to(ROOT).as_posix():
            found += [f"{name}: {one}" for one in OUTSIDE.findall(text)]
        named = {one for line in text.splitlines() if ".md" in line for one in A_DOCUMENT.findall(line)}
        found += [f"{name}: {one}" for one in named - documents]
    assert not found


PROGRAM = "/opt/parley/current/bin/parley"
STUB = """#!/bin/sh
echo "${0##*/} $*" >> "$CALLS"
case "${0##*/} $*" in *"$FAILING"*) exit 1;; esac
"""
CONFIGURED = ("serve", "migrate", "check", "token", "purge", "restored")


def printed(document: str) -> list[str]:
    """Lines of code in a page, without their comments."""
    return [line.split("  #")[0].strip() for line in INDENTED.findall(read(document))]


@pytest.mark.parametrize("document", ["docs/operations.md", "docs/monitoring.md"])
def test_printed_commands_can_be_typed(document: str) -> None:
    """A shell knows neither the program nor the configuration of the units: a command of ours has both, and its
    options are there."""
    ours = re.compile(rf"\bparley (?:{'|'.join(main.commands)})\b")
    commands = list(filter(ours.search, printed(document)))
    assert commands or document != "docs/operations.md"
    for line in commands:
        before, found, after = line.partition(f"{PROGRAM} ")
        assert found, f"{line}: without {PROGRAM}"
        name, *arguments = shlex.split(after.removesuffix("&&"))
        if name in CONFIGURED:
            assert before == "CREDENTIALS_DIRECTORY=/etc/parley/credentials ", line
            assert arguments[-2:] == ["--config", "/etc/parley/parley.toml"], line
        command = main.commands[name]
        with contextlib.suppress(click.exceptions.Exit):
            command.make_context(name, arguments).close()


@pytest.mark.parametrize("failing", ["", "dropdb", "createdb", "pg_restore", "redis-cli", "parley-migrate", "restored"])
def test_restore_as_printed(failing: str, tmp_path: Path) -> None:
    """The last step, which starts the instances, is taken only if all before it worked."""
    section = read("docs/operations.md").split("### Restore from a backup\n")[1].split("\n## ")[0]
    stub = tmp_path / "stub"
    stub.write_text(STUB)
    stub.chmod(0o755)
    for name in ("systemctl", "dropdb", "createdb", "pg_restore", "redis-cli", "parley"):
        (tmp_path / name).symlink_to(stub)
    script = "\n".join(INDENTED.findall(section)).replace(PROGRAM, f"{tmp_path}/parley")
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    environ["FAILING"] = failing or "nothing of this name"
    subprocess.run(["sh", "-c", script], env=environ, check=False, capture_output=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert ("systemctl start parley.target" in calls) == (not failing), calls
    assert failing or len(calls) == 8
