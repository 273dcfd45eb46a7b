"""docs/hub.md says what the code has: each method, event, object, error and limit, and none that is not there."""

import ast
import importlib
import re
import types
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec

import handlers.model
import store.model
from handlers.errors import CODES
from server.config.settings import Settings
from server.hub.dispatch import Declaration
from server.hub.events import EVENTS
from server.hub.methods import ALWAYS, METHODS, WAITING
from store.postgres.system_messages import Event

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "hub.md").read_text()
UNITS = {"KiB": 1024}


def section(title: str) -> str:
    """What stands under a heading of the second level."""
    [found] = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def entries(title: str) -> dict[str, tuple[str, str]]:
    """By name, what is between the parentheses of its heading, and the text."""
    parts = re.findall(r"^### (\w+)\(([^\n]*)\)\n(.*?)(?=^### |\Z)", section(title), re.MULTILINE | re.DOTALL)
    return {name: (parameters, text) for name, parameters, text in parts}


def rows(text: str) -> list[list[str]]:
    """Those of a table whose first cell is code."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line] for line in lines]


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def signature(method: Declaration) -> str:
    return ", ".join(camel(one.name) + "?" * (one.default is not one.empty) for one in method.parameters)


def test_methods() -> None:
    """Names, parameters and costs."""
    said = entries("Methods")
    assert {name: parameters for name, (parameters, _) in said.items()} == {
        method.name: signature(method) for method in METHODS
    }
    for method in METHODS:
        cost = re.search(r"Cost (\d+)\.", said[method.name][1])
        assert (int(cost[1]) if cost else 1) == method.cost, method.name


class _Literals(ast.NodeVisitor):
    """Texts in code, but for those in annotations."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.found.add(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for one in (*node.body, *node.args.defaults, *node.args.kw_defaults):
            if one is not None:
                self.visit(one)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)  # type: ignore[arg-type]  # the same fields


def test_events() -> None:
    """Every name that is said to clients is a text in the code that says it; each is declared, and has its entry."""
    literals = _Literals()
    for where in ("server/fanout", "server/hub"):
        for path in {*(ROOT / where).glob("*.py")} - {ROOT / "server/hub/events.py"}:
            literals.visit(ast.parse(path.read_text()))
    words = {text for text in literals.found if re.fullmatch(r"(?:[A-Z][a-z]+)+", text)}
    assert set(EVENTS) == words - {method.name for method in METHODS}
    carried = {name: ", ".join(argument for argument, _ in event.arguments) for name, event in EVENTS.items()}
    assert {name: parameters for name, (parameters, _) in entries("Events").items()} == carried


def test_system_messages() -> None:
    """What a System message may say."""
    said = rows(entries("Events")["ReceiveMessage"][1])
    assert [row[0].strip("`") for row in said] == [event.value for event in Event]


def test_objects() -> None:
    """Their fields, in order, and which may be null."""
    for name, fields in rows(section("Objects")):
        kind = getattr(handlers.model, name.strip("`"), None) or getattr(store.model, name.strip("`"))
        hints = get_type_hints(kind)
        ours = [
            f"`{field.encode_name}`" + "?" * (types.NoneType in get_args(hints[field.name]))
            for field in msgspec.structs.fields(kind)
        ]
        whole = re.fullmatch(r"all of `(\w+)`, and (.*)", fields)
        if whole:  # its fields stand there
            ours = ours[len(msgspec.structs.fields(getattr(store.model, whole[1]))) :]
        assert (whole[2] if whole else fields).split(", ") == ours, name


def test_errors() -> None:
    """Every code, in the table's order; and of each method those that it declares."""
    declared = {method.name: method for method in METHODS}
    assert [row[0].strip("`") for row in rows(section("Errors"))] == list(CODES)
    for name, (_, text) in entries("Methods").items():
        said = set()
        for codes in re.findall(r"^Errors: (.*?)\.$", text, re.MULTILINE | re.DOTALL):
            said |= set(re.findall(r"`([a-z_]+)`", codes))
        assert said <= set(CODES) and said - {*ALWAYS, *WAITING} == set(declared[name].errors), name


def test_errors_of_all_methods() -> None:
    """What stands before them: the codes of every method, and of those that wait for something."""
    before = section("Methods").partition("\n### ")[0]
    [of_all, besides, waiting] = re.findall(
        r"Every method may end with (.*?); and every one but (.*?), which wait for nothing, with\s(.*?)\.",
        before,
        re.DOTALL,
    )[0]
    assert set(re.findall(r"`([a-z_]+)`", of_all)) == set(ALWAYS)
    assert set(re.findall(r"`([a-z_]+)`", waiting)) == set(WAITING)
    assert set(re.findall(r"`(\w+)`", besides)) == {method.name for method in METHODS if not method.waits}


def test_limits() -> None:
    """Each has the value that it has where it stands: a constant, or the default of a setting."""
    lines = [line.strip("|").split("|") for line in section("Limits").splitlines() if line.startswith("|")][2:]
    assert len(lines) > 10
    for what, value, where in lines:
        number, _, unit = value.strip().partition(" ")
        said = float(number.replace(",", "")) * UNITS.get(unit, 1)
        module, _, name = where.strip(" `").rpartition(".")
        holder: object = importlib.import_module(module) if module else Settings()
        assert getattr(holder, name if module else name.lower()) == said, what
