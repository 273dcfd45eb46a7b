"""docs/webhooks.md: its examples have the form of what is sent, and its code verifies what is signed."""

import inspect
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.webhooks import payloads
from server.webhooks.signatures import sign
from store.model import WebhookEvent

PAGE = (Path(__file__).parents[1] / "docs" / "webhooks.md").read_text()
SECRET = b"s" * 32
SHOWN = "whsec_c3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3M="
BODY = '{"type":"message.created","data":{"content":"é \\u2028"}}'.encode()
FORMS: dict[str, type[payloads.Data]] = {
    "message.created": payloads.MessageData,
    "conversation.created": payloads.FoundedData,
    "conversation.updated": payloads.UpdatedData,
    "member.added": payloads.RoleData,
    "report.created": payloads.ReportData,
    "user.offline_with_unread": payloads.UnreadData,
}


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_type_is_listed() -> None:
    """The table has each type of event, and no other."""
    assert re.findall(r"^\| `(\w+\.\w+)` \|", PAGE, re.MULTILINE) == [event.value for event in WebhookEvent]


def test_the_examples_have_the_form() -> None:
    """Each is read as what is sent, and written again is the same: no field is missing, and none too many."""
    shown = {}
    for text in examples("json"):
        example: dict[str, Any] = json.loads(text)
        assert list(example) == ["type", "timestamp", "data"]
        data = msgspec.convert(example["data"], FORMS[example["type"]])
        assert json.loads(msgspec.json.encode(data)) == example["data"]
        shown[example["type"]] = example
    assert set(shown) == set(FORMS)


def cases() -> list[tuple[dict[str, str], str, bool]]:
    """Headers, body, and whether they are to be accepted."""
    now = int(time.time())
    good = dict(sign([SECRET], "evt_1", now, BODY))
    both = dict(sign([b"o" * 32, SECRET], "evt_1", now, BODY))
    other = dict(sign([b"o" * 32], "evt_1", now, BODY))
    late = dict(sign([SECRET], "evt_1", now - 3600, BODY))
    early = dict(sign([SECRET], "evt_1", now + 3600, BODY))
    text = BODY.decode()
    return [
        (good, text, True),
        (both, text, True),
        (other, text, False),
        (late, text, False),
        (early, text, False),
        (good, text + " ", False),
        (good | {"webhook-id": "evt_2"}, text, False),
        (good | {"webhook-timestamp": str(now - 1)}, text, False),
        (good | {"webhook-signature": "v1,"}, text, False),
    ]


def test_the_python_example() -> None:
    """As it is printed it accepts what is ours, with either signature, and refuses all else."""
    [source] = examples("python")
    scope: dict[str, Any] = {}
    exec(source, scope)
    assert inspect.isfunction(scope["verify"])
    for headers, body, is_good in cases():
        assert scope["verify"](SHOWN, headers, body.encode()) is is_good, headers


def test_the_node_example() -> None:
    """The same in Node."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    [source] = examples("javascript")
    given = json.dumps([[headers, body] for headers, body, _ in cases()])
    script = (
        f"{source}\nconst cases = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));\n"
        f"console.log(JSON.stringify(cases.map(([h, b]) => verify({SHOWN!r}, h, Buffer.from(b)))));"
    )
    done = subprocess.run([node, "-e", script], input=given, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [is_good for _, _, is_good in cases()]
