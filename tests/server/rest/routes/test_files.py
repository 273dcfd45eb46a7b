"""REST of files: uploads through the server and directly, access, and refusals; against both stores."""

import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import trio
from quart_trio import QuartTrio

from handlers import files
from loadtest.client import connect
from server.rest import upload_backpressure
from server.rest.routes.files import _Form
from store.errors import ObjectsUnavailable, Unavailable
from store.objects.directory import DirectoryObjects
from store.postgres import users
from store.postgres.connection import Connection
from store.postgres.files import Facts, File
from tests import plain_http
from tests.gateway import BUCKET
from tests.handlers.test_file_types import PNG
from tests.site import Site, open_site
from tests.store.world import fetch_value, wait_for_lock
from tests.waiting import wait_until

LATER = timedelta(days=2)
MIB = 1024 * 1024


@pytest.fixture(params=["directory", "s3"])
async def options(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    if request.param == "directory":
        return {"objects": f"file://{tmp_path}/files"}
    environment: dict[str, str] = request.getfixturevalue("s3")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    prefix = os.urandom(4).hex()
    return {"objects": f"s3://{BUCKET}/{prefix}", "s3_endpoint_url": environment["AWS_ENDPOINT_URL"]}


FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nx\r\n--b--\r\n'


@pytest.fixture
async def site(options: dict[str, Any], database: str, redis_url: str, nursery: trio.Nursery) -> AsyncIterator[Site]:
    async with open_site(database, redis_url, nursery, max_upload_bytes=6 * MIB, **options) as found:
        yield found


async def upload(site: Site, token: str, data: bytes, name: str = "a.txt", status: int = 201, **headers: str) -> Any:
    headers = {"Authorization": f"Bearer {token}", **{key.replace("_", "-"): value for key, value in headers.items()}}
    files = {"file": (name, data, "made/up")}
    answer = await site.http.post("/api/files/upload", files=files, data={"note": "x"}, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def _unfinished(root: Path) -> list[Path]:
    return list(root.glob("files/unfinished/*"))


async def objects_left(site: Site) -> list[str]:
    """The objects that are not empty; an empty one marks a used link."""
    store = site.process.handlers.files._objects
    return [key async for key in store.list_before(datetime.now(UTC) + LATER) if await store.size(key)]


async def test_an_upload_of_who_is_being_erased(site: Site, database: str) -> None:
    """It waits for the end of the erasure, is refused then, and leaves no file with their name."""
    alice, a = await site.user("alice")
    async with (
        await Connection.open(database) as other,
        await Connection.open(database) as watcher,
        trio.open_nursery() as nursery,
        other.transaction(),
    ):
        await users.delete_user(other, UUID(alice))
        nursery.start_soon(upload, site, a, b"text", "alice.txt", 401)
        await wait_for_lock(watcher)
    async with await Connection.open(database) as conn:
        assert await fetch_value(conn, "SELECT count(*) FROM files") == 0
    assert await objects_left(site) == []


async def test_upload_and_have(site: Site) -> None:
    """An uploaded file is described by its content, can be attached to a message, and only members can read it."""
    (alice, a), (bob, b), (_, c) = [await site.user(name) for name in ("alice", "bob", "carol")]
    stored = await upload(site, a, PNG, "../my cat \U0001f431.png")
    assert stored["name"] == "my cat \U0001f431.png" and stored["contentType"] == "image/png"
    assert (stored["width"], stored["height"], stored["size"]) == (640, 480, len(PNG))
    assert stored["sha256"] == hashlib.sha256(PNG).hexdigest() and stored["url"] == f"/api/files/{stored['key']}"
    direct = {"type": "Direct", "memberIds": [bob]}
    made = await site.call("POST", "/api/conversations", direct, token=a, status=201)
    link = f"/api/files/presigned-url?fileKey={stored['key']}"
    await site.call("GET", link, token=b, status=404)  # no message holds it yet
    received: list[Any] = []
    async with connect(f"{site.url}/hubs/chat", b, on_event=lambda name, args: received.append((name, args))):
        message = {"conversationId": made["id"], "content": "", "type": "Image", "fileId": stored["id"]}
        await site.call("POST", "/api/messages", message, token=b, status=404)  # not a file of this user
        sent = await site.call("POST", "/api/messages", message, token=a, status=201)
        await wait_until(
            lambda: any(name == "ReceiveMessage" and args[0]["id"] == sent["id"] for name, args in received)
        )
    fields = ("id", "key", "url", "name", "size", "contentType", "width", "height")
    assert sent["file"] == {name: stored[name] for name in fields}
    assert (await site.call("GET", f"/api/messages/{sent['id']}", token=b))["file"] == sent["file"]
    await site.call("GET", link, token=c, status=404)
    async with plain_http.client() as web:
        for token in (a, b):
            found = await site.call("GET", link, token=token)
            answer = await web.get(found["url"])
            assert answer.content == PNG and answer.headers["Content-Type"] == "image/png"
            assert "attachment" in answer.headers["Content-Disposition"]
            assert "my%20cat" in answer.headers["Content-Disposition"]
        redirect = await site.http.get(stored["url"], headers={"Authorization": f"Bearer {b}"})
        assert redirect.status_code == 302
        part = await web.get(redirect.headers["Location"], headers={"Range": "bytes=1-3"})
        assert part.status_code == 206 and part.content == PNG[1:4]
    where = f"/api/files?fileUrl={site.url}{stored['url']}"
    await site.call("DELETE", where, token=c, status=404)
    await site.call("DELETE", where, token=b, status=403)
    await site.call("DELETE", where, token=a, status=204)
    assert (await site.call("GET", f"/api/messages/{sent['id']}", token=b))["file"] is None
    await site.call("GET", link, token=a, status=404)
    assert await objects_left(site) == [] and alice


async def test_a_deleted_file_is_a_change(
    database: str, redis_url: str, nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members are notified once that a message has lost its file: live, by replay, with a changedSeq."""
    monkeypatch.setattr(files, "HOLDERS", 2)
    async with open_site(database, redis_url, nursery, objects=f"file://{tmp_path}/files") as site:
        (_, a), (bob, b) = await site.user("alice"), await site.user("bob")
        stored = await upload(site, a, b"hello")
        heads, held = {}, []
        for body in ({"type": "Direct", "memberIds": [bob]}, {"type": "Group", "memberIds": [bob]}):
            made = await site.call("POST", "/api/conversations", body, token=a, status=201)
            message = {"conversationId": made["id"], "content": "see", "type": "File", "fileId": stored["id"]}
            held += [await site.call("POST", "/api/messages", message, token=a, status=201) for _ in range(3)]
            heads[made["id"]] = held[-1]["seq"]
        changes: list[Any] = []
        heard = trio.Event()

        def listen(target: str, arguments: list[Any]) -> None:
            if target == "MessageChanged":
                changes.append(arguments[0])
                if len(changes) == len(held):
                    heard.set()

        async with connect(f"{site.url}/hubs/chat", b, on_event=listen) as client:
            await client.invoke("Sync", heads)
            await site.call("DELETE", f"/api/files?fileUrl={stored['url']}", token=a, status=204)
            with trio.fail_after(30):
                await heard.wait()
        changes.sort(key=lambda message: (message["conversationId"], message["changedSeq"]))
        replayed: list[Any] = []
        async with connect(
            f"{site.url}/hubs/chat",
            b,
            query={"sync": "manual"},
            on_event=lambda name, args: replayed.append((name, *args)),
        ) as client:
            assert (await client.invoke("Sync", heads))["heads"] == {key: seq + 3 for key, seq in heads.items()}
            with trio.fail_after(30):
                while len(replayed) < len(held):
                    await client.invoke("Ping")
        assert {name for name, _ in replayed} == {"MessageChanged"}
        replayed.sort(key=lambda said: (said[1]["conversationId"], said[1]["changedSeq"]))
        assert [message for _, message in replayed] == changes
        assert sorted(message["id"] for message in changes) == sorted(message["id"] for message in held)
        for message in changes:
            assert await site.call("GET", f"/api/messages/{message['id']}", token=b) == message
            assert message["file"] is None and message["editedAt"] is None and message["content"] == "see"
        for key, head in heads.items():
            assert [m["changedSeq"] for m in changes if m["conversationId"] == key] == [head + 1, head + 2, head + 3]
        await site.call("DELETE", f"/api/files?fileUrl={stored['url']}", token=a, status=404)


async def test_names(database: str, redis_url: str, nursery: trio.Nursery, tmp_path: Path) -> None:
    """Names in UTF-8, old pages' Latin-1 and percent-encoding are read; a lone surrogate gets a clear error."""
    async with open_site(database, redis_url, nursery, objects=f"file://{tmp_path}/files") as site:
        _, token = await site.user("alice")
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "multipart/form-data; boundary=b"}
        for said, name in (
            ('filename="grüße.txt"'.encode(), "grüße.txt"),
            ('filename="grüße.txt"'.encode("latin-1"), "grüße.txt"),
            ('filename="10 € – “x”.txt"'.encode("windows-1252"), "10 € – “x”.txt"),
            (b'filename="x"\r\nX-Other: gr\xfc\xdfe'.replace(b'"x"', '"grüße.txt"'.encode()), "grüße.txt"),
            (b"filename*=UTF-8''gr%C3%BC%C3%9Fe.txt", "grüße.txt"),
            (b"filename*=iso-8859-1'de'gr%FC%DFe.txt", "grüße.txt"),
            (b'filename="' + b"x" * 300 + b'.txt"', "x" * 251 + ".txt"),
            (b'filename="\xed\xa0\xbd.txt"', None),
            (b"filename*=UTF-8''%ED%A0%BD.txt", None),
        ):
            body = FORM.replace(b'filename="x"', said)
            answer = await site.http.post("/api/files/upload", content=body, headers=headers)
            if name is None:
                assert answer.status_code == 400 and "surrogate" in answer.json()["detail"], answer.text
            else:
                assert answer.status_code == 201 and answer.json()["name"] == name, answer.text


async def test_refused(site: Site) -> None:
    """Types that are not allowed and content that is too large or malformed get an error and leave nothing."""
    _, token = await site.user("alice")
    assert (await upload(site, token, b"<html><script>", "cat.png", 415))["code"] == "unsupported_media_type"
    assert (await upload(site, token, b"\x7fELF\x02\x01", "cat.png", 415))["code"] == "unsupported_media_type"
    assert (await upload(site, token, bytes(7 * MIB), status=413))["code"] == "too_large"
    assert (await upload(site, token, b"x" * (6 * MIB + 1), status=413))["code"] == "too_large"
    await upload(site, token, b"x" * (6 * MIB))
    headers = {"Authorization": f"Bearer {token}"}
    form = {"Content-Type": "multipart/form-data; boundary=b"}

    async def endless() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        for _ in range(100):
            yield b"x" * 100_000

    chunked = await site.http.post("/api/files/upload", content=endless(), headers={**headers, **form})
    assert chunked.status_code == 413 and chunked.json()["code"] == "too_large"
    for body, status in (
        (b"", 400),
        (b"--b--\r\n", 400),
        (b"garbage", 400),
        (bytes(MIB) + FORM, 400),  # text before the first part is not buffered without a limit,
        (FORM.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * MIB + b"\r\n\r\n", 1), 400),  # nor the head of one,
        (FORM + b"x" * MIB, 400),  # nor text after the last part
        (b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\ncut off', 400),
        (b'--b\r\nContent-Disposition: form-data; name="other"; filename="x"\r\n\r\nx\r\n--b--\r\n', 400),
    ):
        answer = await site.http.post("/api/files/upload", content=body, headers={**headers, **form})
        assert answer.status_code == status and answer.json()["code"] == "invalid_request", body
    field = FORM.partition(b"--b--")[0].replace(b'"file"', b'"x"')
    for body, many in ((field * 99 + FORM, 201), (field * 100 + FORM, 413), (FORM[:-7] + field * 100 + FORM, 413)):
        answer = await site.http.post("/api/files/upload", content=body, headers={**headers, **form})
        assert answer.status_code == many, answer.text  # parts of one form are counted, wherever they stand
    for size, status in ((6_000, 201), (10_000, 413)):  # and their heads have a length
        body = FORM.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * size + b"\r\n\r\n", 1)
        answer = await site.http.post("/api/files/upload", content=body, headers={**headers, **form})
        assert answer.status_code == status, answer.text
    answer = await site.http.post("/api/files/upload", content=b"x", headers=headers)
    assert answer.status_code == 415
    assert (await site.http.post("/api/files/upload", content=b"x")).status_code == 401
    await site.call("GET", "/api/files/presigned-url", token=token, status=400)
    await site.call("DELETE", "/api/files", token=token, status=400)
    await site.call("DELETE", "/api/files?fileUrl=..%2f..%2fx", token=token, status=404)
    for broken in ("http://[x", "http://[x]y/", "//\u2100.com"):
        problem = await site.call("DELETE", "/api/files", params={"fileUrl": broken}, token=token, status=400)
        assert (problem["code"], problem["errors"]) == ("invalid_request", {"fileUrl": "not a URL"})
    assert len(await objects_left(site)) == 3


async def test_a_client_that_goes_away(site: Site) -> None:
    """If the client disconnects during an upload, before or after its first part was stored, nothing is kept."""
    _, token = await site.user("alice")
    host, port = urlsplit(site.url).hostname or "", urlsplit(site.url).port or 0
    head = (
        f"POST /api/files/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 6000000\r\n"
        'Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\nContent-Disposition: form-data; name="file"; '
        'filename="x"\r\n\r\n'
    ).encode()
    for size in (1000, 5_500_000):
        stream = await trio.open_tcp_stream(host, port)
        await stream.send_all(head + b"x" * size)
        await trio.sleep(0.2)  # so that the server may have begun: either is to end well
        await stream.aclose()

    async def is_cleared() -> bool:
        return not (await objects_left(site) or await pending(site))

    await wait_until(is_cleared)


async def pending(site: Site) -> int:
    async with site.process.pool.connection() as conn:
        row = await (await conn.execute("SELECT count(*) FROM files")).fetchone()
        assert row is not None
        return int(row[0])


async def test_directly(site: Site) -> None:
    """Presign, put, complete: only announced content is accepted, and it cannot be changed afterwards."""
    (_, a), (_, b) = await site.user("alice"), await site.user("bob")
    body = {"name": "cat.png", "contentType": "image/png", "size": len(PNG)}
    asked = await site.call("POST", "/api/files/presign", body, token=a, status=201)
    await site.call("POST", f"/api/files/{asked['id']}/complete", token=a, status=409)  # not there yet
    async with plain_http.client() as web:
        headers = asked["headers"]
        for wrong in (PNG + b"x", PNG[:-1]):
            assert (await web.put(asked["uploadUrl"], content=wrong, headers=headers)).status_code >= 400
        other = {**headers, "Content-Type": "text/html"}
        assert (await web.put(asked["uploadUrl"], content=PNG, headers=other)).status_code >= 400
        assert (await web.put(asked["uploadUrl"], content=PNG, headers=headers)).status_code == 200
        await site.call("POST", f"/api/files/{asked['id']}/complete", token=b, status=404)
        done = await site.call("POST", f"/api/files/{asked['id']}/complete", token=a)
        assert (done["width"], done["sha256"]) == (640, hashlib.sha256(PNG).hexdigest())
        assert await site.call("POST", f"/api/files/{asked['id']}/complete", token=a) == done
        evil = b"x" * len(PNG)
        await web.put(asked["uploadUrl"], content=evil, headers=headers)  # the link is still good
        link = await site.call("GET", f"/api/files/presigned-url?fileKey={done['key']}", token=a)
        assert (await web.get(link["url"])).content == PNG
        lie = await site.call("POST", "/api/files/presign", {**body, "name": "x"}, token=a, status=201)
        assert (await web.put(lie["uploadUrl"], content=evil, headers=lie["headers"])).status_code == 200
        await site.call("POST", f"/api/files/{lie['id']}/complete", token=a, status=415)
        await site.call("POST", f"/api/files/{lie['id']}/complete", token=a, status=404)
    for change, status in (({"size": 7 * MIB}, 413), ({"contentType": "text/html"}, 415), ({"size": -1}, 400)):
        await site.call("POST", "/api/files/presign", {**body, **change}, token=a, status=status)


async def test_a_completion_that_is_broken_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a completion stops after the object was copied, repeating it completes the upload."""
    _, token = await site.user("alice")
    body = {"name": "a.txt", "contentType": "text/plain", "size": 5}
    asked = await site.call("POST", "/api/files/presign", body, token=token, status=201)
    async with plain_http.client() as web:
        await web.put(asked["uploadUrl"], content=b"hello", headers=asked["headers"])
    path = f"/api/files/{asked['id']}/complete"
    with monkeypatch.context() as patch:
        patch.setattr("store.postgres.files.finish_file", away)
        assert (await site.call("POST", path, token=token, status=503))["code"] == "unavailable"
    done: list[Any] = []

    async def complete() -> None:
        done.append(await site.call("POST", path, token=token))

    async with trio.open_nursery() as nursery:
        for _ in range(3):  # by three impatient windows
            nursery.start_soon(complete)
    assert done[0] == done[1] == done[2] and done[0]["sha256"] == hashlib.sha256(b"hello").hexdigest()
    assert len(await objects_left(site)) == 1


async def test_completions_that_overtake_each_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content that was checked is served, no matter what is uploaded or completed at the same time."""
    _, token = await site.user("alice")
    body = {"name": "cat.png", "contentType": "image/png", "size": len(PNG)}
    asked = await site.call("POST", "/api/files/presign", body, token=token, status=201)
    path = f"/api/files/{asked['id']}/complete"
    inspect, calls, came, go_on = files.Files._inspect, iter((0, 1)), [trio.Event(), trio.Event()], trio.Event()

    async def slow(self: files.Files, file: File, key: str) -> Facts:
        """The first has looked when the second has its object, and is through before the second looks."""
        number = next(calls)
        facts = await inspect(self, file, key) if number == 0 else None
        came[number].set()
        await (came[1] if number == 0 else go_on).wait()
        return facts or await inspect(self, file, key)

    monkeypatch.setattr(files.Files, "_inspect", slow)
    answers: list[Any] = []

    async def complete() -> None:
        answers.append(await site.call("POST", path, token=token))

    async with plain_http.client() as web, trio.open_nursery() as nursery:
        assert (await web.put(asked["uploadUrl"], content=PNG, headers=asked["headers"])).status_code == 200
        nursery.start_soon(complete)
        with trio.fail_after(60):
            await came[0].wait()
            await web.put(asked["uploadUrl"], content=PNG[:-9] + b"different", headers=asked["headers"])
            nursery.start_soon(complete)
            await wait_until(lambda: answers)
        go_on.set()
    assert answers[0] == answers[1] and answers[0]["sha256"] == hashlib.sha256(PNG).hexdigest()
    link = await site.call("GET", f"/api/files/presigned-url?fileKey={answers[0]['key']}", token=token)
    async with plain_http.client() as web:
        assert (await web.get(link["url"])).content == PNG
    assert len(await objects_left(site)) == 1


async def test_an_upload_that_is_complete_after_all(site: Site, database: str) -> None:
    """If the connection is lost while a file is made ready, what is thrown away waits for that to end: a file that is
    there then stays, with its content."""
    _, token = await site.user("alice")
    made = await upload(site, token, b"hello")
    handler, file_id = site.process.handlers.files, UUID(made["id"])
    async with (
        await Connection.open(database) as backend,
        await Connection.open(database) as watcher,
        trio.open_nursery() as nursery,
    ):
        await backend.execute("UPDATE files SET state = 'Pending' WHERE id = %s", [file_id])
        async with backend.transaction():  # it goes on, though its client is gone
            await backend.execute("UPDATE files SET state = 'Ready' WHERE id = %s", [file_id])
            nursery.start_soon(handler._give_up, file_id, made["key"])
            await wait_for_lock(watcher)
    assert (await site.call("GET", f"/api/files/presigned-url?fileKey={made['key']}", token=token))["url"]
    assert await objects_left(site) == [made["key"]]


async def away(*arguments: object) -> None:
    raise Unavailable("PostgreSQL: away")


async def test_with_a_key(site: Site) -> None:
    """An upload repeated with an Idempotency-Key is one file; other content under the key is refused."""
    _, token = await site.user("alice")
    first = await upload(site, token, b"hello", Idempotency_Key="k1")
    assert await upload(site, token, b"hello", Idempotency_Key="k1") == first
    assert (await upload(site, token, b"other", status=422, Idempotency_Key="k1"))["code"] == "idempotency_mismatch"
    assert len(await objects_left(site)) == await pending(site) == 1
    body = {"name": "x", "contentType": "text/plain", "size": 5}
    headers = {"Idempotency-Key": "k2"}
    asked = [
        await site.call("POST", "/api/files/presign", body, token=token, status=201, headers=headers) for _ in "ab"
    ]
    assert asked[0]["id"] == asked[1]["id"]


async def test_orphans_are_purged(site: Site) -> None:
    """The purge removes files in no message, unfinished uploads and objects without a row, and nothing else."""
    (_, a), (bob, _) = await site.user("alice"), await site.user("bob")
    direct = {"type": "Direct", "memberIds": [bob]}
    made = await site.call("POST", "/api/conversations", direct, token=a, status=201)
    kept, orphan = await upload(site, a, b"kept"), await upload(site, a, b"orphan")
    message = {"conversationId": made["id"], "content": "x", "fileId": kept["id"]}
    await site.call("POST", "/api/messages", message, token=a, status=201)
    stopped = {"name": "x", "contentType": "text/plain", "size": 5}
    await site.call("POST", "/api/files/presign", stopped, token=a, status=201)

    async def stray() -> AsyncIterator[bytes]:
        yield b"stray"

    files = site.process.handlers.files
    await files._objects.write("s" * 32, stray(), "text/plain")
    assert sum(await files.purge(datetime.now(UTC))) == 0
    purged = await files.purge(datetime.now(UTC) + LATER)
    assert (purged.retired, purged.strays) == (1, 1) and purged.objects == 2
    assert await objects_left(site) == [kept["key"]] and await pending(site) == 1
    message["fileId"] = orphan["id"]
    refused = await site.call("POST", "/api/messages", message, token=a, status=404)
    assert "no such file" in refused["detail"]


async def test_memory_is_bounded(
    tmp_path: Path, database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is slower than the client slows the client down, and little is buffered in between."""
    from store.objects.directory import DirectoryObjects  # noqa: PLC0415

    held = 0
    original = DirectoryObjects.write

    async def slow(self: DirectoryObjects, key: str, chunks: AsyncIterator[bytes], kind: str) -> None:
        async def paced() -> AsyncIterator[bytes]:
            nonlocal held
            async for chunk in chunks:
                await trio.sleep(0.001)  # the slow store
                held = max(held, tracemalloc.get_traced_memory()[0])
                yield chunk

        await original(self, key, paced(), kind)

    monkeypatch.setattr(DirectoryObjects, "write", slow)
    async with open_site(database, redis_url, nursery, objects=f"file://{tmp_path}/files") as site:
        _, token = await site.user("alice")
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        piece = b"x" * 65536

        async def body() -> AsyncIterator[bytes]:
            yield head
            for _ in range(256):
                yield piece
            yield b"\r\n--b--\r\n"

        headers = {"Authorization": f"Bearer {token}", "Content-Type": "multipart/form-data; boundary=b"}
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            answer = await site.http.post("/api/files/upload", content=body(), headers=headers, timeout=60)
        finally:
            tracemalloc.stop()
        assert answer.status_code == 201 and answer.json()["size"] == 16 * MIB
        assert held - before < 6 * MIB, held - before


async def test_a_link_of_the_directory_store(
    tmp_path: Path, database: str, redis_url: str, nursery: trio.Nursery
) -> None:
    """Changing any part of a signed URL makes it invalid; browsers may save its content, and not run it."""
    async with open_site(database, redis_url, nursery, objects=f"file://{tmp_path}/files") as site:
        _, token = await site.user("alice")
        stored = await upload(site, token, b"hello")
        url = (await site.call("GET", f"/api/files/presigned-url?fileKey={stored['key']}", token=token))["url"]
        answer = await site.http.get(url)
        assert answer.text == "hello" and answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        assert (await site.http.head(url)).status_code == 200
        assert (await site.http.get(url, headers={"Range": "bytes=9-"})).status_code in (200, 416)
        for validator in ('"x"', "Sat, 28 Nov 2026 09:00:00 GMT", "Sat, 99 Nov 9999999 00:00:00 GMT"):  # it has none
            whole = await site.http.get(url, headers={"Range": "bytes=0-1", "If-Range": validator})
            assert (whole.status_code, whole.text) == (200, "hello")
        for change in (("expires=", "expires=1"), ("text%2Fplain", "text%2Fhtml"), ("name=a.txt", "name=b.txt"),
                       ("signature=", "signature=0"), (stored["key"], "k" * 32)):  # fmt: skip
            refused = await site.http.get(url.replace(*change))
            assert refused.status_code == 403 and refused.json()["code"] == "forbidden", change
        assert (await site.http.get(f"/objects/{stored['key']}")).status_code == 403
        assert (await site.http.put(url, content=b"evil")).status_code == 403


async def test_without_a_store(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """A server without OBJECTS says so."""
    async with open_site(database, redis_url, nursery) as site:
        _, token = await site.user("alice")
        assert (await upload(site, token, b"x", status=503))["code"] == "unavailable"


async def test_parts_one_by_one(nursery: trio.Nursery) -> None:
    """A form of many parts that came in one piece is not read in one step: others get their turn after each."""
    field = FORM.partition(b"--b--")[0].replace(b'"file"', b'"x"')

    async def pieces() -> AsyncIterator[bytes]:
        yield field * 80 + FORM

    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with QuartTrio(__name__).test_request_context("/", method="POST", headers=headers):
        form = _Form(pieces(), MIB)
        nursery.start_soon(other)
        assert await form.begin() == "x"
    assert turns >= 80


async def test_one_upload_to_a_link_at_a_time(
    tmp_path: Path, database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several uploads to one link of the directory store the newest continues, and earlier ones are cancelled."""
    monkeypatch.setattr(upload_backpressure, "PATIENCE", 1e6)
    async with open_site(database, redis_url, nursery, objects=f"file://{tmp_path}/files") as site:
        _, token = await site.user("alice")
        announced = {"name": "x", "size": 100_000, "contentType": "text/plain"}
        made = await site.call("POST", "/api/files/presign", announced, token=token, status=201)
        begun = trio.Event()

        async def stalled() -> AsyncIterator[bytes]:
            yield b"a" * 70_000
            await wait_until(lambda: _unfinished(tmp_path))
            begun.set()
            await trio.sleep_forever()

        async def put_first() -> None:
            headers = {**made["headers"], "Content-Length": "100000"}
            await site.http.put(made["uploadUrl"], content=stalled(), headers=headers)

        with trio.fail_after(60):
            async with trio.open_nursery() as uploads:
                uploads.start_soon(put_first)
                await begun.wait()
                content = b"b" * 100_000
                answer = await site.http.put(made["uploadUrl"], content=content, headers=made["headers"])
                assert answer.status_code == 200
                # The first upload is discarded while its client waits.
                await wait_until(lambda: not _unfinished(tmp_path))
                uploads.cancel_scope.cancel()
        stored = await site.call("POST", f"/api/files/{made['id']}/complete", token=token)
        assert stored["sha256"] == hashlib.sha256(content).hexdigest()


async def test_an_upload_that_ends_after_the_one_that_took_its_place(
    tmp_path: Path, database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload that was cancelled in the middle of a disk operation gets its answer, even if the newer one failed."""
    begun, go_on, answers = trio.Event(), trio.Event(), []

    async def write(self: DirectoryObjects, *arguments: object, **options: object) -> None:
        if begun.is_set():
            raise ObjectsUnavailable("the disk is full")
        begun.set()
        with trio.CancelScope(shield=True):  # as a thread is
            await go_on.wait()
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(DirectoryObjects, "write", write)
    async with open_site(database, redis_url, nursery, objects=f"file://{tmp_path}/files") as site:
        _, token = await site.user("alice")
        announced = {"name": "x", "size": 1, "contentType": "text/plain"}
        made = await site.call("POST", "/api/files/presign", announced, token=token, status=201)

        async def put() -> None:
            answers.append(await site.http.put(made["uploadUrl"], content=b"x", headers=made["headers"]))

        async with trio.open_nursery() as uploads:
            uploads.start_soon(put)
            await begun.wait()
            await put()
            go_on.set()
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
            (503, "unavailable"),
            (409, "conflict"),
        ]
