"""docs/migrating.md holds to the code: what it says there is here is there, and it leaves nothing of the API out."""

import re
from pathlib import Path

from server.hub.events import EVENTS
from server.hub.methods import METHODS
from tests.server.rest.routes.test_docs import ROUTES

PAGE = (Path(__file__).parents[1] / "docs" / "migrating.md").read_text()
CODE = re.compile(r"`([^`\n]+)`")
NAME = re.compile(r"(?:[A-Z][a-z]+)+")
ROUTE = re.compile(r"(?:((?:(?:GET|POST|PUT|DELETE) )+))?(/(?:api|auth|hubs|health)\b[^?]*)")
UNDESCRIBED = {"/hubs/chat"}  # what is connected to: WebSockets are none of OpenAPI's


def rows(title: str) -> list[list[str]]:
    """The cells of the table under a heading of the second level, without its own heading."""
    [section] = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line] for line in lines[1:]]


def codes(title: str, column: int) -> list[str]:
    return [code for row in rows(title) for code in CODE.findall(row[column])]


NEW = codes("What you may not have had", 0)  # what has no counterpart


def here(title: str) -> list[str]:
    """What is code in the column that says what it is here."""
    return codes(title, 1) + NEW


def names(texts: list[str]) -> set[str]:
    return {text for text in texts if NAME.fullmatch(text)}


def plain(path: str) -> str:
    """Without the names of what stands in it."""
    return re.sub(r"\{\w+\}", "{}", path)


def routes(texts: list[str]) -> set[str]:
    found = set()
    for text in texts:
        if match := ROUTE.fullmatch(text):
            methods, path = match.groups()
            found |= {f"{method} {plain(path)}" for method in (methods or "").split() or [""]}
    return found


OURS = {f"{method.upper()} {plain(path)}" for path, methods in ROUTES.items() for method in methods.split()}
HUB_METHODS = {method.name for method in METHODS}


def test_hub_methods() -> None:
    """Each of the table of methods has a row, and there is no other."""
    assert names(here("Hub methods")) - set(EVENTS) == HUB_METHODS


def test_events() -> None:
    """Each of the table of events has a row, and there is no other."""
    assert names(here("Events")) - HUB_METHODS == set(EVENTS)


def test_routes() -> None:
    """Each of the API's description has a row, and there is no other."""
    assert routes(here("REST")) - {f" {path}" for path in UNDESCRIBED} == OURS


def test_what_is_said_elsewhere() -> None:
    """Routes in the prose, and in what is said of here in the other tables, are there as well."""
    others = re.sub(r"^## (?:Hub methods|Events|REST)\n.*?(?=^## )", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    ours = re.sub(r"^\| [^|\n]* \|", "|", others, flags=re.MULTILINE)  # without what is theirs
    known = OURS | {f" {plain(path)}" for path in {*ROUTES, *UNDESCRIBED}}
    said = routes(CODE.findall(ours))
    assert said and said <= known
