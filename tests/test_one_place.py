"""CONTRIBUTING.md's table of changes is true: one of each is added to a copy of the project, in the places it names.

Owns the copy, and the changes. The copy is asked (`ADDED`) whether it has the new thing wherever it should be seen.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from store.postgres import migrations

ROOT = Path(__file__).parents[1]
# Nothing is declared beside the code itself: which routes there are is read from the process by
# tests/server/rest/routes/test_docs.py.
WITHOUT_REGISTRY = {"a REST route"}
NEXT = len(migrations.load()) + 1


class Change(NamedTuple):
    """In this file, `text` before what is there. A file that is not there is made."""

    path: str
    before: str
    text: str


CHANGES = {
    "a setting": [
        Change(
            "server/config/settings.py",
            "    objects: str = ",
            '    example: int = BOUNDS.setting(COUNT, 7, "An example.", minimum=3)\n\n',
        )
    ],
    "a hub method": [
        Change(
            "server/hub/methods.py",
            "    @hub_method()\n    def ping(",
            "    @hub_method(cost=3)\n"
            "    async def count_down(\n"
            "        self, connection: HubConnection, from_seq: int = 1\n"
            "    ) -> Stretch[int]:\n"
            "        return Stretch((from_seq,), None)\n\n",
        ),
    ],
    "an error code": [
        Change(
            "handlers/errors.py",
            '    "invalid_request":',
            '    "example": ErrorCode(418, "An example", "Drink it."),\n',
        )
    ],
    "a rate limit": [
        Change(
            "server/config/settings.py",
            "    rate_uploads: Rate = ",
            '    rate_examples: Rate = RATES.setting(RATE, Rate(5, 60.0), "Examples of one user.")\n',
        ),
        Change(
            "server/config/rate_limits.py",
            "        self.uploads = ",
            '        self.examples = self._limiter("examples", "examples", lambda to: to.rate_examples)\n',
        ),
    ],
    "a check of `parley check`": [
        Change(
            "server/cli/checks.py",
            "\n\nCHECKS: ",
            '\n\nasync def _example(settings: Settings) -> str:\n    return "as it should be"\n',
        ),
        Change("server/cli/checks.py", '    "tls": _tls,', '    "example": _example,\n'),
    ],
    "a command": [
        Change("server/cli/main.py", "from server.cli.inspect.commands", "from server.cli.example import example\n"),
        Change("server/cli/main.py", "    restored,\n", "    example,\n"),
        Change(
            "server/cli/example.py",
            "",
            "import click\n\n\n@click.command()\ndef example():\n    'Do it.'\n    click.echo('done')\n",
        ),
    ],
    "a type of message": [
        Change("store/model.py", "\n\n\nclass MessageStatus", '\n    EXAMPLE = "Example"'),
        Change("handlers/model.py", "MessageType.TEXT, MessageType.EMOJI)", "MessageType.EXAMPLE, "),
        Change(
            f"store/postgres/migrations/versions/{NEXT:04}_example_type.sql",
            "",
            "-- Messages may be examples.\nALTER TABLE messages DROP CONSTRAINT messages_kind_check;\n"
            "ALTER TABLE messages ADD CHECK (kind IN ('Text', 'Image', 'File', 'Emoji', 'System', 'Example'));\n",
        ),
    ],
    "an event to clients of this process": [
        Change(
            "handlers/model.py", "class TypingUpdate(", "class ShownPayload(Wire, frozen=True):\n    what: str\n\n\n"
        ),
        Change("server/hub/events.py", "\n\nclass Event(", "from handlers.model import ShownPayload\n"),
        Change(
            "server/hub/events.py",
            '    "UserStartedTyping":',
            '    "ExampleShown": Event((("example", ShownPayload),), "An example."),\n',
        ),
    ],
    "an event across instances": [
        Change(
            "store/redis/inbox_entries.py",
            "class Entry(Struct",
            "class Example(_OfConversation, frozen=True, array_like=True):\n    what: str\n\n\n",
        ),
        Change("store/redis/inbox_entries.py", "\n    def messages(self)", "    examples: tuple[Example, ...] = ()\n"),
        Change(
            "server/fanout/ephemeral_events.py",
            "        self._gather(entry.receipts)\n",
            "        self._broadcaster.examples = [ExamplePayload(one.what) for one in entry.examples]\n",
        ),
        Change("server/fanout/ephemeral_events.py", "\nTICK = ", "from handlers.model import ExamplePayload\n"),
        Change(
            "handlers/model.py", "class TypingUpdate(", "class ExamplePayload(Wire, frozen=True):\n    what: str\n\n\n"
        ),
    ],
    "a migration": [
        Change(
            f"store/postgres/migrations/versions/{NEXT + 1:04}_examples.sql",
            "",
            "-- Examples.\nCREATE TABLE examples (id uuid PRIMARY KEY);\n",
        )
    ],
    "a statement": [
        Change("store/postgres/queries/users.sql", "-- name: insert_user\n", "-- name: example\nSELECT 42\n\n")
    ],
    "a metric": [
        Change(
            "server/metrics/sources.py",
            '    yield gauge(\n        "parley_listener_connections"',
            '    yield gauge("parley_examples", "Examples.", 1)\n',
        ),
        Change(
            "docs/monitoring.md", "| `parley_listener_connections` |", "| `parley_examples` | gauge | Examples. |\n"
        ),
    ],
    "an object store": [
        Change(
            "store/objects/__init__.py",
            '    "s3": Scheme(',
            '    "ex": Scheme("ex://", "ex://", "store.objects.ex"),\n',
        ),
        Change("store/objects/ex.py", "", "def open_store(url, *, endpoint, signing):\n    return 'opened'\n"),
    ],
    "a scenario of the load test": [
        Change("loadtest/scenarios/__init__.py", "    Direct,\n", "    Example,\n"),
        Change("loadtest/scenarios/__init__.py", "\n_ALL:", "from loadtest.scenarios.example import Example\n"),
        Change(
            "loadtest/scenarios/example.py",
            "",
            "from loadtest.scenarios.direct import Direct\n\n\nclass Example(Direct):\n    name = 'example'\n",
        ),
    ],
}

# What the copy says of each, as a dict of JSON.
ADDED = """
import json
from types import SimpleNamespace
from unittest.mock import MagicMock
from uuid import UUID
import trio

found = {}

from server.config.declaration import settings_of
from server.config.page import help_rows, page
from server.config.settings import Settings

try:
    settings_of(Settings)["example"].parse("2")
except ValueError as error:
    refused = str(error)
found["a setting"] = [Settings().example, refused, "`EXAMPLE`" in page(), "EXAMPLE" in str(help_rows())]

from server.hub import methods
from server.hub.dispatch import Dispatcher

dispatcher = Dispatcher()
names = "messages conversations reactions threads search receipts users presence connected ephemeral_events sync"
parts = dict.fromkeys([*names.split(), "verifier", "blocks", "reports"])
methods.HubMethods(**parts).register(dispatcher)
[served] = [method for method in dispatcher.methods if method.name == "CountDown"]
[declared] = [method for method in methods.METHODS if method.name == "CountDown"]
taken = [one.name for one in declared.parameters]
found["a hub method"] = [served.cost, served.kind, dispatcher.cost("countdown"), taken]

from handlers.errors import ChatError
from server.rest import openapi, problems

status = problems.CODES["example"].status
found["an error code"] = [ChatError("example", "x").code, status, openapi.CODES is problems.CODES]

import dataclasses
from handlers.rate_limits import Rate
from server.config.rate_limits import RateLimits

limits = RateLimits(Settings(), None)
limits.configure(dataclasses.replace(Settings(), rate_examples=Rate(9, 1.0)))
found["a rate limit"] = [limits.examples.rate.count, limits.refusals()["examples"]]

from server.cli import checks

found["a check of `parley check`"] = trio.run(checks.CHECKS["example"], Settings())

from click.testing import CliRunner
from server.cli.main import main

found["a command"] = [CliRunner().invoke(main, ["example"]).output.strip(), "Do it." in CliRunner().invoke(main).output]

from server.rest import asyncapi

described = asyncapi.document(Settings())
shown = described["components"]["messages"]["ExampleShown"]["payload"]["properties"]["arguments"]
found["an event to clients of this process"] = [
    described["operations"]["ExampleShown"]["action"], "ShownPayload" in str(shown)
]

from handlers.messages import Messages
from handlers.model import CreateMessage

kind = Messages._type(None, CreateMessage(conversation_id=UUID(int=1), content="x", type="example"))
found["a type of message"] = [kind.value, "Example" in str(openapi._ALTERNATIVES)]

from server.cluster.publisher import Publisher
from server.fanout.change_publisher import ChangePublisher
from server.fanout.ephemeral_events import EphemeralEvents
from store.redis.inbox_entries import Example, entry_of, unpack

room = UUID(int=1)
delivered = []

class Instances:
    is_alone = False

    async def deliver_and_ask(self, entries, conversations, users, *, but):
        return {room: ["a", "me"]}, {}, set()

    async def deliver(self, entries):
        delivered.extend(entries)
        return set()

publisher = Publisher(Instances(), SimpleNamespace(instance="me"), None)
trio.run(publisher.deliver, entry_of([Example(room, "hello")]))
[(instance, data)] = delivered
broadcaster = SimpleNamespace()
events = EphemeralEvents(MagicMock(), publisher, broadcaster)
ChangePublisher(MagicMock(), events, publisher, MagicMock(), MagicMock()).receive(unpack(data))
found["an event across instances"] = [instance, [one.what for one in broadcaster.examples]]

from store.postgres import migrate, migrations

found["a migration"] = [[one.doc for one in migrations.load()[-2:]], "CREATE TABLE examples" in migrate.sql()]

from store.postgres import queries

found["a statement"] = queries.example.strip()

from server.metrics import sources

found["a metric"] = [one.name for one in sources._listener(MagicMock())][:1]

from store.objects import open_objects

found["an object store"] = [open_objects("ex://", signing=None), settings_of(Settings)["objects"].parse("ex://")]

from loadtest.scenarios import SCENARIOS

found["a scenario of the load test"] = "example" in SCENARIOS
found["where"] = sources.__file__
print(json.dumps(found))
"""
EXPECTED: dict[str, object] = {
    "a setting": [7, "expected at least 3", True, True],
    "a hub method": [3, "stream", 3, ["from_seq"]],
    "an error code": ["example", 418, True],
    "a rate limit": [9, 0],
    "a check of `parley check`": "as it should be",
    "a command": ["done", True],
    "a type of message": ["Example", True],
    "an event to clients of this process": ["send", True],
    "an event across instances": ["a", ["hello"]],
    "a migration": [["Messages may be examples.", "Examples."], True],
    "a statement": "SELECT 42",
    "a metric": ["parley_examples"],
    "an object store": ["opened", "ex://"],
    "a scenario of the load test": True,
}


def rows() -> dict[str, str]:
    """Of the table, by what is to be added: where."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    [table] = re.findall(r"^\| to add \| change \|.*?\n\n", text, re.MULTILINE | re.DOTALL)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:] if line]
    return {what: where for what, where, _ in lines}


def added(copy: Path) -> dict[str, object]:
    """What a copy of the project with every change says of each. What was compiled before comes along."""
    for name in ("server", "handlers", "store", "loadtest", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.png", "*.html", "*.pyc.*"))
    for path, before, text in [change for changes in CHANGES.values() for change in changes]:
        file = copy / path
        if not before:
            file.write_text(text)
            continue
        found = file.read_text()
        assert found.count(before) == 1, f"{path} has not exactly one {before!r}: write another one into CHANGES"
        file.write_text(found.replace(before, text + before))
    done = subprocess.run([sys.executable, "-c", ADDED], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said: dict[str, object] = json.loads(done.stdout)
    assert str(said.pop("where")).startswith(str(copy))
    return said


def test_the_table_is_all_here() -> None:
    """Every row is tried, and names every place that the change was made in."""
    said = rows()
    assert set(said) == {*CHANGES, *WITHOUT_REGISTRY}
    for what, changes in CHANGES.items():
        for path in {change.path for change in changes}:
            folder, _, name = path.rpartition("/")
            assert path in said[what] or f"`{folder}/`" in said[what], f"{what}: {path} ({name}) is not named"


def test_one_more(tmp_path: Path) -> None:
    """Nothing else has to be changed: the new ones are there, all in one copy, whose imports take most of the time."""
    assert added(tmp_path / "copy") == EXPECTED


@pytest.mark.parametrize(
    ("what", "files"),
    [
        ("a setting", 1),
        ("a hub method", 1),
        ("an error code", 1),
        ("a migration", 1),
        ("a statement", 1),
        ("a metric", 2),
        ("an object store", 2),
        ("a scenario of the load test", 2),
        ("a type of message", 3),
        ("an event to clients of this process", 2),
        ("an event across instances", 3),
    ],
)
def test_how_many_files(what: str, files: int) -> None:
    """As few as when this was written."""
    assert len({change.path for change in CHANGES[what]}) == files
