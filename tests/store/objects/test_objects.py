"""store.objects: what every store promises, against a directory and a real S3 gateway."""

import os
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from store.objects import SCHEMES, Objects, attachment, open_objects
from store.objects.directory import DirectoryObjects
from store.objects.s3 import PART, S3Objects
from store.signing import SigningKeys
from tests import plain_http
from tests.gateway import BUCKET
from tests.waiting import wait_until

SOON = timedelta(minutes=1)
PREFIX = "some/where"


@pytest.fixture(params=SCHEMES)
def objects(request: pytest.FixtureRequest) -> Objects:
    """Each store that there is. One of a new scheme has a fixture `SCHEME_objects`."""
    found: Objects = request.getfixturevalue(f"{request.param}_objects")
    return found


@pytest.fixture
def file_objects(tmp_path: Path) -> Objects:
    return open_objects(f"file://{tmp_path}/files", signing=SigningKeys("k" * 32))


@pytest.fixture
def s3_objects(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Objects:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/{PREFIX}/{secrets.token_hex(4)}"
    return open_objects(url, endpoint=s3["AWS_ENDPOINT_URL"], signing=SigningKeys("k" * 32))


def new_key() -> str:
    return secrets.token_urlsafe(24)


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        await trio.lowlevel.checkpoint()
        yield data[start : start + size]


async def content(objects: Objects, key: str, *span: int) -> bytes:
    return b"".join([chunk async for chunk in objects.read(key, *span)])


async def left(objects: Objects) -> list[str]:
    """Every object there is; what was begun and not ended goes."""
    return [key async for key in objects.list_before(datetime.now(UTC) + SOON)]


async def test_names_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written, or copied, has its name there when that is said, and so has the directory that it is the first
    of: a machine that loses its power then has the object."""
    synced: list[str] = []

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", note)
    root = tmp_path / "files"
    objects = DirectoryObjects(root, SigningKeys("k" * 32))
    await objects.write("a" * 32, pieces(b"hello"), "text/plain")
    assert synced[1:] == [str(root), str(root / "aa")]
    synced.clear()
    await objects.copy("a" * 32, "b" * 32)
    await objects.copy("a" * 32, "b" * 31 + "c")
    assert synced == [str(root), str(root / "bb"), str(root / "bb")]
    assert await content(objects, "b" * 32) == b"hello"


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, 2 * PART + 12345])
async def test_written_and_read(objects: Objects, size: int) -> None:
    """What was written is read, whole or in part, whatever its size; then it can be deleted, twice."""
    data, key = secrets.token_bytes(size), new_key()
    assert await objects.size(key) is None
    await objects.write(key, pieces(data), "text/plain")
    assert await objects.size(key) == size
    assert await content(objects, key) == data
    assert await content(objects, key, 1, 10) == data[1:11]
    assert await left(objects) == [key]
    other = new_key()
    await objects.copy(key, other)
    assert await content(objects, key) == data and await content(objects, other) == data
    await objects.write(key, pieces(b"something else"), "text/plain")
    assert await content(objects, other) == data
    await objects.delete(key)
    assert await content(objects, other) == data
    for _ in range(2):
        await objects.delete(other)
    assert await objects.size(other) is None
    with pytest.raises(FileNotFoundError):
        await content(objects, other)
    with pytest.raises(FileNotFoundError):
        await objects.copy(other, key)


@pytest.mark.parametrize("sent", [10, PART + 10])
async def test_what_is_cut_off_leaves_nothing(objects: Objects, sent: int) -> None:
    """An error of the source, or a cancellation, before and after the first part."""

    async def broken() -> AsyncIterator[bytes]:
        async for piece in pieces(bytes(sent)):
            yield piece
        raise RuntimeError("cut off")

    async def endless() -> AsyncIterator[bytes]:
        async for piece in pieces(bytes(sent)):
            yield piece
        cancelled.cancel()
        await trio.sleep_forever()

    with pytest.raises(RuntimeError, match="cut off"):
        await objects.write(new_key(), broken(), "text/plain")
    with trio.CancelScope() as cancelled:
        await objects.write(new_key(), endless(), "text/plain")
    assert cancelled.cancelled_caught
    assert await left(objects) == [] and unfinished(objects) == []


def unfinished(objects: Objects) -> list[Any]:
    """What is begun and not ended, looked at behind the port's back."""
    if isinstance(objects, DirectoryObjects):
        return [path for path in objects._root.rglob("*") if path.is_file()]
    assert isinstance(objects, S3Objects)
    found = objects._client.list_multipart_uploads(Bucket=BUCKET, Prefix=objects._prefix)
    return list(found.get("Uploads", ()))


async def test_list_before(objects: Objects) -> None:
    """Only what is older; uploads of a process that died are thrown away."""
    key = new_key()
    await objects.write(key, pieces(b"x"), "text/plain")
    if isinstance(objects, DirectoryObjects):
        (objects._root / "unfinished" / "dead").write_bytes(b"x")
    else:
        assert isinstance(objects, S3Objects)
        objects._client.create_multipart_upload(**objects._at(new_key()))
    assert [key async for key in objects.list_before(datetime.now(UTC) - SOON)] == []
    assert await left(objects) == [key]
    await objects.delete(key)
    assert unfinished(objects) == []
    await objects.check()


async def test_what_is_not_ours(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket that others use too: their objects and uploads are not listed, and so not purged."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    prefix = secrets.token_hex(4)
    objects = open_objects(f"s3://{BUCKET}/{prefix}", endpoint=s3["AWS_ENDPOINT_URL"], signing=SigningKeys("k" * 32))
    assert isinstance(objects, S3Objects)
    client, key = objects._client, new_key()
    theirs = {"Bucket": BUCKET, "Key": f"{prefix}/backups/2026-11-01.tar"}
    client.put_object(**theirs, Body=b"x")
    begun = client.create_multipart_upload(**theirs)["UploadId"]
    await objects.write(key, pieces(b"x"), "text/plain")
    assert await left(objects) == [key]
    await objects.delete(key)
    client.upload_part(**theirs, UploadId=begun, PartNumber=1, Body=b"x")  # it was not aborted
    client.abort_multipart_upload(**theirs, UploadId=begun)
    client.delete_object(**theirs)


async def test_s3_links(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Links of S3: for this size and type only, for this object only, for so long only, with the name to save under."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    objects = open_objects(f"s3://{BUCKET}", endpoint=s3["AWS_ENDPOINT_URL"], signing=SigningKeys("k" * 32))
    key = new_key()
    target = await objects.upload_url(key, content_type="text/plain", size=5, seconds=60)
    async with plain_http.client() as http:
        for body, kind in ((b"123456", "text/plain"), (b"1234", "text/plain"), (b"12345", "text/html")):
            refused = await http.put(target.url, content=body, headers={"Content-Type": kind})
            assert refused.status_code >= 400
        elsewhere = target.url.replace(key, new_key())
        assert (await http.put(elsewhere, content=b"12345", headers=dict(target.headers))).status_code == 403
        assert (await http.put(target.url, content=b"12345", headers=dict(target.headers))).status_code == 200
        url = await objects.download_url(key, name="ünï\r\n.txt", content_type="text/plain", seconds=60)
        answer = await http.get(url)
        assert answer.content == b"12345" and answer.headers["Content-Type"] == "text/plain"
        assert "filename*=UTF-8''%C3%BCn%C3%AF%0D%0A.txt" in answer.headers["Content-Disposition"]
        assert (await http.get(url.replace("Signature=", "Signature=0"))).status_code == 403
        gone = await objects.download_url(key, name="x", content_type="text/plain", seconds=1)

        async def has_expired() -> bool:
            return (await http.get(gone)).status_code == 403

        await wait_until(has_expired)
    await objects.delete(key)


def test_attachment() -> None:
    """Both forms of the name, and nothing that could begin another header."""
    assert attachment("a b.txt") == "attachment; filename=\"a b.txt\"; filename*=UTF-8''a%20b.txt"
    assert attachment('x"\\\r\né') == "attachment; filename=\"x_____\"; filename*=UTF-8''x%22%5C%0D%0A%C3%A9"


@pytest.mark.parametrize("url", ["", "s3://", "file://host/x", "file:x", "http://x", "/tmp/x"])
def test_no_store(url: str) -> None:
    """An address without a known scheme or place is refused with the schemes that are expected."""
    with pytest.raises(ValueError, match="expected s3"):
        open_objects(url, signing=SigningKeys("k"))


async def test_no_way_out_of_the_directory(tmp_path: Path) -> None:
    """A key that is none of ours names nothing."""
    objects = open_objects(f"file://{tmp_path}/files", signing=SigningKeys("k"))
    (tmp_path / "secret").write_text("x")
    for key in ("../secret", "..", "/etc/passwd", "x", "a" * 31 + "/", ""):
        assert await objects.size(key) is None
        with pytest.raises(FileNotFoundError):
            await objects.write(key, pieces(b"x"), "text/plain")
