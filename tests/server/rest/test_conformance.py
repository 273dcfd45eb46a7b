"""The server conforms to its description: Schemathesis sends valid and invalid requests and checks the answers."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from server.config.loading import load
from server.identity.access_tokens import mint_token
from tests.running import JWT_KEY, Running, checked, running

SEED = 20261125
RANDOM = 20  # values for each operation in the long run, valid ones and invalid ones
TIMEOUT = 1200.0  # seconds: only against a run that hangs; alone on the machine it takes about 40

# A valid request may also be refused because of the state, which no schema can express: 410 for a message that another
# request has deleted, 412 for an ETag that is not the current one, 415 for an upload whose content is not of an allowed
# type, 422 for an Idempotency-Key that was used for another request. So are a cursor that is well-formed and that no
# page has given, and two access tokens that differ: these are not sent.
ACCEPTED = ["2xx", "3xx", "401", "403", "404", "409", "410", "412", "415", "422"]
# 413 is the answer to values that are longer than their schema allows.
REJECTED = ["400", "401", "403", "404", "405", "409", "413", "415", "422"]

CONFIG = """
seed = {seed}
continue-on-failure = true
workers = 1
headers = {{ Authorization = "Bearer {token}" }}

[generation]
deterministic = true
max-examples = {examples}

[phases.coverage]
unexpected-methods = ["TRACE", "PATCH"]

[phases.fuzzing]
enabled = {fuzzing}

[phases.stateful]
enabled = true
generation = {{ max-examples = 3 }}

[checks]
positive_data_acceptance = {{ expected-statuses = {accepted} }}
negative_data_rejection = {{ expected-statuses = {rejected} }}

[[operations]]
include-path = "/api/users/{{userId}}"
include-method = "DELETE"
headers = {{ Authorization = "Bearer {token_of_carol}" }}
parameters = {{ "path.userId" = "{carol}" }}

[[operations]]
include-path = "/auth/logout"
headers = {{ Authorization = "Bearer {token_of_bob}" }}

[[operations]]
include-tag = "provisioning"
headers = {{ Authorization = "Bearer {token_of_admin}" }}

[[operations]]
include-path = "/hubs/chat/negotiate"
parameters = {{ "query.access_token" = "{token}" }}

[dictionaries]
conversations = {{ values = ["{conversation}", "{group}"] }}
messages = {{ values = ["{message}"] }}
users = {{ values = ["{bob}", "{carol}"] }}
keys = {{ values = ["{key}"] }}
cursors = {{ values = [""] }}

[parameters]
"path.conversationId" = {{ dictionary = "conversations", probability = 0.8 }}
"path.messageId" = {{ dictionary = "messages", probability = 0.8 }}
"path.userId" = {{ dictionary = "users", probability = 0.8 }}
"path.fileKey" = {{ dictionary = "keys", probability = 0.8 }}
"query.cursor" = {{ dictionary = "cursors", probability = 1.0 }}
"query.conversationId" = {{ dictionary = "conversations", probability = 0.8 }}
"query.fileKey" = {{ dictionary = "keys", probability = 0.8 }}
"body.conversationId" = {{ dictionary = "conversations", probability = 0.8 }}
"body.memberIds[*]" = {{ dictionary = "users", probability = 0.8 }}
"body.userId" = {{ dictionary = "users", probability = 0.8 }}
"""


async def test_schemathesis(database: str, redis_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """All checks pass on every operation, with ids of things that exist and of things that do not: the limits of each
    schema, just within and just beyond. `make test-hostile` adds random values, which take longer to make than to send.

    With one worker: two would share CPython's `ast`, which is not thread-safe (3.11), and their order would differ.
    """
    examples = RANDOM if request.config.getoption("--hostile-minutes") else 0
    async with running(database, redis_url, objects=f"file://{tmp_path}/files") as server:
        config = tmp_path / "schemathesis.toml"
        config.write_text(CONFIG.format(**await inhabit(server, examples)))
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", "--no-color"]
        with trio.fail_after(TIMEOUT):
            run = await trio.run_process(
                [*command, f"{server.url}/openapi.json"],
                check=False,
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                env={**os.environ, "COLUMNS": "160"},
                cwd=tmp_path,
            )
        assert run.returncode == 0, run.stdout.decode()


async def inhabit(server: Running, examples: int) -> dict[str, Any]:
    """Create users and messages for the requests to find."""
    alice, bob, carol = [await server.register(name) for name in ("alice", "bob", "carol")]
    conversation, group = await server.direct(alice, bob), await server.group(alice, bob)
    async with server.http(alice) as http:
        body = {"conversationId": conversation, "content": "hello", "clientMessageId": str(uuid4())}
        message = checked(await http.post("/api/messages", json=body))
        stored = checked(await http.post("/api/files/upload", files={"file": ("a.txt", b"some text")}))
    return {
        "seed": SEED,
        "examples": examples or 1,
        "fuzzing": str(examples > 0).lower(),
        "accepted": ACCEPTED,
        "rejected": REJECTED,
        "token": str(mint_token(load({}, None, jwt_key=JWT_KEY), UUID(alice.id))),  # without a session to log out
        "token_of_admin": str(mint_token(load({}, None, jwt_key=JWT_KEY), UUID(alice.id), admin=True)),
        "token_of_bob": bob.token,
        "token_of_carol": carol.token,
        "conversation": conversation,
        "group": group,
        "message": message["id"],
        "bob": bob.id,
        "carol": carol.id,
        "key": stored["key"],
    }
