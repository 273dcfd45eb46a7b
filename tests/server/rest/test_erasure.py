"""The export of a user's data, and what remains after a user is erased."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import trio

from handlers.transactions import Transactions
from handlers.users import LEAVE_AT_ONCE
from store.postgres.pool import Pool
from tests.handlers.test_file_types import PNG
from tests.server.rest.routes.test_files import upload
from tests.site import Site, open_site


async def test_export_and_erasure(tmp_path: Path, database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """The ZIP file has all data byte for byte; after erasure no personal data is left in whole conversations."""
    async with open_site(database, redis_url, nursery, objects=f"file://{tmp_path}/files") as site:
        body = {"username": "alice", "displayName": "Alice A", "email": "alice@example.org"}
        made = await site.call("POST", "/api/users", body, status=201)
        alice, a = made["id"], made["accessToken"]
        bob, b = await site.user("bob")
        group = {"type": "Group", "name": "g", "memberIds": [bob]}
        conversation = (await site.call("POST", "/api/conversations", group, token=a, status=201))["id"]
        kept, loose = await upload(site, a, PNG, "cat.png"), await upload(site, a, b"loose", "notes.txt")
        for n in range(3):
            message = {"conversationId": conversation, "content": f"m{n}", "clientMessageId": f"c{n}"}
            message |= {"fileId": kept["id"]} if n == 0 else {}
            await site.call("POST", "/api/messages", message, token=a, status=201)
        await site.call("POST", "/api/messages", {"conversationId": conversation, "content": "b"}, token=b, status=201)

        answer = await site.http.get("/api/users/me/export", headers={"Authorization": f"Bearer {a}"})
        assert answer.status_code == 200 and answer.headers["Content-Type"] == "application/zip"
        archive = zipfile.ZipFile(io.BytesIO(answer.content))
        assert archive.testzip() is None
        assert json.loads(archive.read("account.json"))["email"] == "alice@example.org"
        assert json.loads(archive.read("sessions.json"))[0]["id"] == made["sessionId"]
        lines = archive.read(f"conversations/{conversation}.jsonl").splitlines()
        assert [json.loads(line)["content"] for line in lines][1:] == ["m0", "m1", "m2", "b"]
        assert archive.read(f"files/{kept['id']}-cat.png") == PNG
        assert archive.read(f"files/{loose['id']}-notes.txt") == b"loose"
        assert (await site.http.get("/api/users/me/export")).status_code == 401

        await site.call("DELETE", f"/api/users/{alice}", token=a, status=204)
        await site.call("POST", "/auth/refresh", {"refreshToken": made["refreshToken"]}, status=401)
        await site.call("GET", "/api/users/me", token=a, status=401)
        shown = await site.call("GET", f"/api/users/{alice}", token=b)
        assert shown["displayName"] == "Deleted user" and "alice" not in json.dumps(shown).lower()
        page = await site.call("GET", f"/api/messages?conversationId={conversation}&after=0", token=b)
        said = [(m["content"], m["senderId"] == alice) for m in page["items"] if m["type"] == "Text"]
        assert said == [("m0", True), ("m1", True), ("m2", True), ("b", False)]
        held = next(m for m in page["items"] if m["content"] == "m0")
        assert held["file"]["id"] == kept["id"]
        await site.call("GET", f"/api/files/presigned-url?fileKey={kept['key']}", token=b)
        everything = await dump(site.process.pool)
        for trace in ("alice", "Alice A", "notes.txt", "127.0.0.1"):
            assert not [table for table, text in everything.items() if trace in text and table not in OTHERS], trace


OTHERS = ("sessions",)  # bob's


async def dump(pool: Pool) -> dict[str, str]:
    """All of PostgreSQL as text, by table; files that wait for the purge are included."""
    found = {}
    async with pool.connection() as conn:
        for table in ("users", "identities", "sessions", "sends", "creations", "members", "messages"):
            rows = await (await conn.execute(f"SELECT t::text FROM {table} AS t".encode())).fetchall()  # noqa: S608
            found[table] = "\n".join(row for (row,) in rows)
    return found


async def test_leaving_many_conversations(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deleted user leaves a few conversations per transaction, as others' messages wait for its locks."""
    sizes: list[int] = []
    run = Transactions.run

    async def counted(self: Transactions, write: Any, **options: Any) -> Any:
        async def measured(conn: Any) -> Any:
            result, changes = await write(conn)
            sizes.append(len(changes))
            return result, changes

        return await run(self, measured, **options)

    (_, a), (bob, b) = [await site.user(name) for name in ("alice", "bob")]
    group = {"type": "Group", "name": "one of many", "memberIds": [bob]}
    for _ in range(LEAVE_AT_ONCE + 10):
        await site.call("POST", "/api/conversations", group, token=a, status=201)
    monkeypatch.setattr(Transactions, "run", counted)
    await site.call("DELETE", f"/api/users/{bob}", token=b, status=204)
    assert sum(sizes) == LEAVE_AT_ONCE + 10 and max(sizes) == LEAVE_AT_ONCE
