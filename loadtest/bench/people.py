"""Users and conversations to measure with, made over REST as any client would.

Owns one kept-alive HTTP connection to the server under measurement.
"""

import http.client
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from loadtest.bench.process import BenchError
from loadtest.provisioning import TOKEN_TTL, mint

KEY_FILE = "jwt.key"  # of a `parley dev`
MEMBERS = 1000  # that one request may name


class User(NamedTuple):
    id: str
    token: str


class Rest:
    """`POST` as JSON; anything but success ends the run with what the server said."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def __enter__(self) -> "Rest":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()

    def post(self, path: str, body: dict[str, Any], token: str = "") -> Any:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        if not token:
            del headers["Authorization"]
        self._connection.request("POST", path, json.dumps(body), headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise BenchError(f"bench: POST {path} answered {answer.status}: {data.decode()}")
        return json.loads(data)

    def user(self, name: str) -> User:
        made = self.post("/api/users", {"username": name})
        return User(made["id"], made["accessToken"])

    def direct(self, one: User, other: User) -> str:
        return str(self.post("/api/conversations", {"type": "Direct", "memberIds": [other.id]}, one.token)["id"])

    def group(self, owner: User, members: list[User], name: str) -> str:
        """A conversation of them all; those who are more than a request may name are added one by one."""
        ids = [member.id for member in members if member.id != owner.id]
        body = {"type": "Group", "name": name, "memberIds": ids[:MEMBERS]}
        made = self.post("/api/conversations", body, owner.token)
        for one in ids[MEMBERS:]:
            self.post(f"/api/conversations/{made['id']}/members", {"userId": one}, owner.token)
        return str(made["id"])


def fresh_tokens(data: Path, users: Sequence[User], count: int) -> list[str]:
    """So many tokens of these users in turn, none of which a server has seen, with the key of the `parley dev` in
    `data`."""
    key = (data / KEY_FILE).read_text().strip()
    return [mint(key, users[number % len(users)].id, seconds=TOKEN_TTL + number) for number in range(count)]
