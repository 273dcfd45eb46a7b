"""Storage limits of one user: the quota of files, open uploads, links that work once, exports."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from handlers import export, files
from handlers.model import Caller
from store.model import Conversation
from tests.disks import MIB, Disk
from tests.site import Site, open_site
from tests.waiting import wait_until

KIB = 1024


async def post(site: Site, token: str, data: bytes, status: int) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {token}"}
    answer = await site.http.post("/api/files/upload", files={"file": ("a.txt", data)}, headers=headers)
    assert answer.status_code == status, answer.text
    found: dict[str, str] = answer.json()
    return found


async def test_quota(tmp_path: Path, database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """All files of a user count, announced ones, too, even with many uploads at once; deleting makes room."""
    objects = f"file://{tmp_path}/files"
    async with open_site(
        database, redis_url, nursery, objects=objects, max_upload_bytes=64 * KIB, max_user_storage_bytes=100 * KIB
    ) as site:
        (_, a), (_, b) = await site.user("alice"), await site.user("bob")
        kept = await post(site, a, b"x" * 40 * KIB, 201)
        body = {"name": "a.txt", "contentType": "text/plain", "size": 50 * KIB}
        await site.call("POST", "/api/files/presign", body, token=a, status=201)
        refused = await post(site, a, b"x" * 20 * KIB, 413)
        assert refused["code"] == "too_large" and str(100 * KIB) in refused["detail"]
        problem = await site.call("POST", "/api/files/presign", {**body, "size": 20 * KIB}, token=a, status=413)
        assert problem["code"] == "too_large"
        await site.call("DELETE", f"/api/files?fileUrl={kept['url']}", token=a, status=204)
        await post(site, a, b"x" * 20 * KIB, 201)
        statuses: list[int] = []

        async def one() -> None:
            headers = {"Authorization": f"Bearer {b}"}
            data = {"file": ("a.txt", b"x" * 45 * KIB)}
            statuses.append((await site.http.post("/api/files/upload", files=data, headers=headers)).status_code)

        async with trio.open_nursery() as uploads:
            for _ in range(6):
                uploads.start_soon(one)
        assert sorted(statuses) == [201, 201, 413, 413, 413, 413]


async def test_links_to_upload(
    tmp_path: Path, database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of open uploads is limited; a link takes one object of its size, also after a refusal."""
    monkeypatch.setattr(files, "OPEN_UPLOADS", 3)
    async with open_site(database, redis_url, nursery, objects=f"file://{tmp_path}/files") as site:
        _, token = await site.user("alice")
        body = {"name": "a.txt", "contentType": "text/plain", "size": 5}
        asked = [await site.call("POST", "/api/files/presign", body, token=token, status=201) for _ in range(3)]
        problem = await site.call("POST", "/api/files/presign", body, token=token, status=429)
        assert problem["code"] == "rate_limited"
        url, headers = asked[0]["uploadUrl"], asked[0]["headers"]
        assert (await site.http.put(url, content=b"longer than said", headers=headers)).status_code == 400
        assert (await site.http.put(url, content=b"hello", headers=headers)).status_code == 200
        assert (await site.http.put(url, content=b"again", headers=headers)).status_code == 409
        await site.call("POST", f"/api/files/{asked[0]['id']}/complete", token=token)
        assert (await site.http.put(url, content=b"hello", headers=headers)).status_code == 409
        link = asked[1]["uploadUrl"]
        assert (await site.http.put(link, content=b"\x89PNG\r", headers=headers)).status_code == 200
        assert (await site.http.put(link, content=b"hello", headers=headers)).status_code == 409
        await site.call("POST", f"/api/files/{asked[1]['id']}/complete", token=token, status=415)
        assert (await site.http.put(link, content=b"hello", headers=headers)).status_code == 409
        assert sum(path.stat().st_size for path in (tmp_path / "files").rglob("*") if path.is_file()) == 5
        await site.call("POST", "/api/files/presign", body, token=token, status=201)


async def test_exports_at_once(
    database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One export of a user and a few of an instance run at once, outside the pool; one that ends or is cut makes
    room."""
    begun, go_on = [trio.Event() for _ in range(2)], trio.Event()
    waiting = list(begun)
    read = export.Export._all_conversations

    async def slow(self: export.Export, caller: Caller) -> AsyncIterator[Conversation]:
        if waiting:
            waiting.pop(0).set()
        await go_on.wait()
        async for conversation in read(self, caller):
            yield conversation

    monkeypatch.setattr(export.Export, "_all_conversations", slow)
    monkeypatch.setattr(export, "RUNNING", 2)
    async with open_site(database, redis_url, nursery, pool_size=1) as site:
        tokens = [(await site.user(name))[1] for name in ("alice", "bob", "carol")]

        async def take(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            answer = await site.http.get("/api/users/me/export", headers=headers, timeout=120)
            if answer.status_code != 200:
                assert int(answer.headers["Retry-After"]) == 30
            return answer.status_code

        async with trio.open_nursery() as hung_up:
            hung_up.start_soon(take, tokens[0])
            with trio.fail_after(60):
                await begun[0].wait()
            assert await take(tokens[0]) == 429
            hung_up.start_soon(take, tokens[1])
            with trio.fail_after(60):
                await begun[1].wait()
            assert await take(tokens[2]) == 503
            assert (await site.call("GET", "/api/users/me", token=tokens[2]))["username"] == "carol"
            hung_up.cancel_scope.cancel()
        go_on.set()

        async def are_given() -> bool:
            return await take(tokens[0]) == 200 and await take(tokens[2]) == 200

        await wait_until(are_given)


async def test_full_disk(disk: Disk, database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """A full disk under the files: each upload ends with one clear error and leaves nothing, neither on the disk nor in
    the quota; the log says it once, health says it, and both say when there is room again, without an upload."""
    root = disk.path / "files"
    async with open_site(
        database, redis_url, nursery, objects=f"file://{root}", max_user_storage_bytes=7 * MIB // 2
    ) as site:
        _, token = await site.user("alice")
        auth = {"Authorization": f"Bearer {token}"}
        await post(site, token, b"x" * MIB, 201)
        presigned = {"name": "a.txt", "contentType": "text/plain", "size": MIB}
        link = await site.call("POST", "/api/files/presign", presigned, token=token, status=201)

        def kept() -> int:
            return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())

        async def health() -> tuple[str, str]:
            found = await site.call("GET", "/health/ready")
            return found["status"], found["checks"]["files"]

        assert await health() == ("Healthy", "ok")
        disk.fill()
        with capture_logs() as lines:
            for _ in range(5):  # more than the quota, were they charged
                data = {"file": ("a.txt", b"x" * MIB)}
                refused = await site.http.post("/api/files/upload", files=data, headers=auth)
                assert (refused.status_code, refused.json()["code"]) == (507, "storage_full"), refused.text
                assert refused.headers["Retry-After"] == "60"
                put = await site.http.put(link["uploadUrl"], content=b"x" * MIB, headers=link["headers"])
                assert (put.status_code, put.json()["code"]) == (507, "storage_full"), put.text
                assert kept() == MIB
                assert await health() == ("Degraded", "failing")
            disk.free()
            assert await health() == ("Healthy", "ok")
        events = [line["event"] for line in lines if line["event"].startswith("files_fail")]
        assert events == ["files_fail", "files_fail_over"], lines
        assert "exception" not in str(lines) and "No space left" in str(lines)
        assert (await site.http.put(link["uploadUrl"], content=b"x" * MIB, headers=link["headers"])).status_code == 200
        await site.call("POST", f"/api/files/{link['id']}/complete", token=token)
        await post(site, token, b"x" * (MIB - 4 * KIB), 201)
        assert kept() == 3 * MIB - 4 * KIB
