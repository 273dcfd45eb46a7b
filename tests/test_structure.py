"""The shape of the tree: no circle of imports, and tests that stand where their modules do."""

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = ("server", "handlers", "store", "loadtest")
# Programs that are run beside the servers they are compared with; no modules of ours.
PROGRAMS = "loadtest/peers/servers/"


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", *patterns], cwd=ROOT, text=True)
    return [name for name in listed.split() if (ROOT / name).exists()]


def module_of(name: str) -> str:
    return name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


FILES = {module_of(name): name for name in tracked(*(f"{tree}/*.py" for tree in TREES)) if PROGRAMS not in name}


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """What is run when the module is imported: nothing inside functions, nothing that is only for type checkers."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from statements(getattr(node, "body", []))
            yield from statements(getattr(node, "orelse", []))


def imports() -> dict[str, set[str]]:
    """Each module of ours, and those that it imports."""
    found: dict[str, set[str]] = {}
    for module, name in FILES.items():
        used: set[str] = set()
        for node in statements(ast.parse((ROOT / name).read_text()).body):
            if isinstance(node, ast.Import):
                used.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                used.update(whole & FILES.keys() or {node.module})
        found[module] = (used & FILES.keys()) - {module}
    return found


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_by_others() -> None:
    assert cycle(imports()) == []


# The transports need the hub's connection, and the hub makes one of them: one part in two folders.
ONE_PART = {"server.hub"}


def test_no_circle_of_packages() -> None:
    """Inside each package, its modules and sub-packages can be put into an order."""
    edges = imports()
    found = {}
    for package in {module.rpartition(".")[0] for module in edges} - {""} | {"server"}:
        depth = package.count(".") + 2
        graph: dict[str, set[str]] = defaultdict(set)
        for module, used in edges.items():
            for other in used:
                a, b = (".".join(one.split(".")[:depth]) for one in (module, other))
                if a != b and a.startswith(f"{package}.") and b.startswith(f"{package}."):
                    graph[a].add(b)
        if circle := cycle(graph):
            found[package] = circle
    assert found.keys() <= ONE_PART, found
    assert not (gone := ONE_PART - found.keys()), f"these are in order now: {gone}"


# Tests of no one module: what they hold is a behaviour of several, and the only place to see it.
ACROSS = {
    "the routes and the hub together, as their clients see them": {
        "server/rest/test_chosen_keys.py",
        "server/rest/test_conformance.py",
        "server/rest/test_contract.py",
        "server/rest/test_erasure.py",
        "server/rest/test_etags.py",
        "server/rest/test_idempotency.py",
        "server/rest/test_limits.py",
        "server/rest/test_nulls.py",
        "server/rest/test_paging.py",
        "server/rest/test_permissions.py",
        "server/rest/test_proxies.py",
        "server/rest/test_replica.py",
        "server/rest/test_slow_clients.py",
        "server/rest/test_storage.py",
    },
    "one rule for every part of an instance": {"server/process/test_guards.py"},
    "the whole sign-in, against a provider that is not ours": {"server/identity/test_real_provider.py"},
    "the listener and the connection under it, in one of their uses": {
        "server/transport/test_echo_server.py",
        "server/transport/test_refusals.py",
        "server/transport/test_shared_listener.py",
    },
    "what every store of objects promises": {"store/objects/test_objects.py"},
    "whole runs of the load test": {"loadtest/test_invariants.py", "loadtest/test_run.py"},
    "whole comparisons": {"loadtest/compare/test_compare.py"},
}


@pytest.mark.parametrize("tree", TREES)
def test_tests_stand_where_their_modules_do(tree: str) -> None:
    """A file test_NAME.py in tests/PACKAGE tests the module or package NAME of PACKAGE."""
    across = set().union(*ACROSS.values())
    names = {name.removeprefix("tests/") for name in tracked(f"tests/{tree}/*test_*.py")}
    lost = {name for name in names - across if not is_mirror(name)}
    assert lost == set()
    assert not {name for name in across if name.startswith(f"{tree}/") and (name not in names or is_mirror(name))}


CLOCKS = {"autojump_clock", "mock_clock"}  # under these, time passes at once


def sleeps(name: str) -> Iterator[str]:
    """Where a file sleeps with neither a mock clock nor a reason behind the call."""
    lines = (ROOT / name).read_text().splitlines()
    virtual: set[int] = set()
    found = set()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and CLOCKS & {a.arg for a in node.args.args}:
            virtual.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.Call) and re.fullmatch(r"(trio|time)\.sleep(_until)?", ast.unparse(node.func)):
            found.add(node.end_lineno or node.lineno)
    for number in sorted(found - virtual):
        if not re.search(r"\)  # (?!noqa)|# noqa: \w+  # ", lines[number - 1]):
            yield f"{name}:{number}"


def test_tests_wait_for_what_happens() -> None:
    """A test that sleeps until something will have happened fails on a busy machine, or is slow on all: there is
    `tests.waiting`, and there are events. A sleep that is meant says why, behind the call."""
    assert [place for name in tracked("tests/*.py") for place in sleeps(name)] == []


def test_sleeps_are_found(tmp_path: Path) -> None:
    """Those without a reason: a directive is none, nor is the clock of another test."""
    file = tmp_path / "test_it.py"
    file.write_text(
        "async def a(autojump_clock):\n    trio.sleep(1)\n"
        "def b():\n    time.sleep(1)\n    time.sleep(1)  # the slow client\n    time.sleep(1)  # noqa: X1\n"
        "    time.sleep(1)  # noqa: X1  # it is meant\n    trio.sleep_until(2)\n    trio.sleep_forever()\n"
    )
    assert list(sleeps(str(file))) == [f"{file}:{number}" for number in (4, 6, 8)]


def is_mirror(name: str) -> bool:
    module = module_of(name.replace("/test_", "/"))
    return module in FILES
