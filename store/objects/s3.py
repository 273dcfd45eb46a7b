"""Objects in S3, or whatever speaks its protocol, through boto3.

Owns the client, and the threads that it blocks: at most `BODIES` with content and `CALLS` with anything else, so that
slow files keep nothing but other files waiting. How long they may be blocked, and how much they read, is
`store.objects.s3_connections`'.
Credentials and region come as boto3 finds them (AWS_*). Bodies of up to one part go as one request, longer ones as a
multipart upload, which is aborted whatever ends it.
"""

import logging
import os
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import SplitResult

import boto3
import httpx
import structlog
import trio
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from store import tcp
from store.bounded_streams import open_client
from store.errors import ObjectsFull, ObjectsUnavailable
from store.objects import CHUNK, KEY, PROBE, Objects, UploadUrl, attachment, new_key, new_trouble, noted
from store.objects.s3_connections import ANSWER, OutOfBounds, Transfer, hold_connections
from store.reasons import cut, reason
from store.signing import SigningKeys

BODIES = 12  # threads for what files consist of
CALLS = 4  # threads for all else that is asked
SIGNERS = 4  # threads for links: what hangs there keeps no upload waiting
SIGN_WITHIN = 10.0  # seconds
PART = 5 * 1024 * 1024  # bytes: the least that S3 takes for a part that is not the last
CONNECT_TIMEOUT, READ_TIMEOUT = 5, 20  # seconds
LINK_TIMEOUT = 10.0  # seconds for all of the way of a link
CLEAN_UP = 15.0  # seconds for aborting an upload
LISTED = 250  # objects in one page of a list
LIST = 1024 * 1024  # bytes of such a page: a key has up to 1 KiB, three times as long in a URL's encoding
MISSING = ("404", "NoSuchKey", "NotFound", "NoSuchUpload")
INSUFFICIENT_STORAGE = 507
NO_ROOM = ("QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded")
# What botocore, and who looks into its answers, make of one that is none: ValueError, also of an endpoint that is no
# URL; RuntimeError of times, or of what is nested too deep.
NONSENSE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

T = TypeVar("T")

log = structlog.get_logger("parley.objects")
for _name in ("botocore", "urllib3"):  # a traceback, or a line with a URL, for each attempt; we say what came of it
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def open_store(url: SplitResult, *, endpoint: str, signing: SigningKeys) -> Objects:
    """s3://bucket[/prefix]. Links are signed with the credentials of S3, not with keys of ours."""
    return S3Objects(url.netloc, prefix=url.path.strip("/"), endpoint=endpoint)


class S3Objects:
    def __init__(self, bucket: str, *, prefix: str = "", endpoint: str = "") -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint = endpoint
        self._bodies = trio.CapacityLimiter(BODIES)
        self._calls = trio.CapacityLimiter(CALLS)
        self._signers = trio.CapacityLimiter(SIGNERS)
        self.trouble = new_trouble()
        self._made: Any = None
        self._making = threading.Lock()

    @property
    def _client(self) -> Any:
        """Made at the first use, in a thread: boto3 looks for credentials then, and that may be a network call."""
        with self._making:
            if self._made is None:
                made = boto3.session.Session(region_name=_region()).client(
                    "s3",
                    endpoint_url=self._endpoint or None,
                    config=Config(
                        signature_version="s3v4",
                        connect_timeout=CONNECT_TIMEOUT,
                        read_timeout=READ_TIMEOUT,
                        max_pool_connections=BODIES + CALLS,
                        retries={"max_attempts": 3, "mode": "standard"},
                        # Other makers' S3 do not know the newer checksums; TLS and our own SHA-256 guard the content.
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                        s3={"addressing_style": "path" if self._endpoint else "auto"},
                    ),
                )
                _keep_alive(made)
                hold_connections(made)
                self._made = made
            return self._made

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    async def _run(
        self,
        call: Callable[[], T],
        *,
        of: Transfer | None = None,
        size: int = 0,
        answer: int = ANSWER,
        shield: bool = True,
        abandon: bool = False,
    ) -> T:
        """`of`: the transfer of content to which this call belongs, with `size` bytes of it. `answer`, `shield` and
        `abandon`: as `Transfer.run` has them. What is needed of the answer is read from it in `call`: it may be
        anything."""
        try:
            if of is not None:
                return await of.run(call, self._bodies, size=size, answer=answer, shield=shield, abandon=abandon)
            with Transfer() as alone:
                return await alone.run(call, self._calls, answer=answer, shield=shield, abandon=abandon)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in MISSING:
                raise FileNotFoundError from None
            kind = ObjectsFull if _has_no_room(error) else ObjectsUnavailable
            raise kind(f"S3: {reason(error)}") from error
        except OutOfBounds as error:
            raise ObjectsUnavailable(f"S3: {error}") from error
        except (BotoCoreError, *NONSENSE) as error:
            raise ObjectsUnavailable(f"S3: {reason(error)}") from error

    async def _sign(self, call: Callable[[], str]) -> str:
        """In a thread: botocore asks for credentials when the ones it has are about to end, and waits for the answer.
        Threads that wait longer than anybody are left to themselves; there are SIGNERS at most."""
        with trio.move_on_after(SIGN_WITHIN):
            try:
                return await trio.to_thread.run_sync(call, limiter=self._signers, abandon_on_cancel=True)
            except (ClientError, BotoCoreError, ValueError) as error:
                raise ObjectsUnavailable(f"S3: {reason(error)}") from error
        raise ObjectsUnavailable(f"S3: no credentials within {SIGN_WITHIN:g} s")

    # -- objects --------------------------------------------------------------------------------

    async def write(self, key: str, chunks: AsyncIterable[bytes], content_type: str) -> None:
        with noted(self.trouble), Transfer() as transfer:
            await self._write(transfer, key, chunks, content_type)

    async def _write(self, transfer: Transfer, key: str, chunks: AsyncIterable[bytes], content_type: str) -> None:
        upload: _Multipart | None = None
        buffer = bytearray()
        try:
            async for chunk in chunks:
                buffer += chunk
                if len(buffer) >= PART:
                    upload = upload or await self._begin(key, content_type)
                    await upload.add(transfer, buffer)
                    buffer = bytearray()
            if upload is None:
                values = {**self._at(key), "Body": buffer, "ContentType": content_type}
                await self._run(lambda: self._client.put_object(**values), of=transfer, size=len(buffer))
                return
            if buffer:
                await upload.add(transfer, buffer)
            await upload.complete()
        except BaseException:
            await self._throw_away(key, upload)
            raise

    async def _begin(self, key: str, content_type: str) -> "_Multipart":
        at = self._at(key)
        # Not cancelled in the middle: an upload whose id is lost could not be aborted.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEAN_UP):
            upload_id = await self._run(
                lambda: str(self._client.create_multipart_upload(**at, ContentType=content_type)["UploadId"])
            )
            return _Multipart(self._made, {**at, "UploadId": upload_id}, self._run)
        raise ObjectsUnavailable("S3: no answer in time")

    async def _throw_away(self, key: str, upload: "_Multipart | None") -> None:
        """Best effort: what it cannot do is found by the purge."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEAN_UP):
            try:
                if upload is not None:
                    await upload.abort()
                await self.delete(key)
            except (ObjectsUnavailable, FileNotFoundError) as error:
                log.warning("upload_not_aborted", reason=str(error), advice="`parley purge` removes what is left")

    async def size(self, key: str) -> int | None:
        try:
            return await self._run(lambda: int(self._client.head_object(**self._at(key))["ContentLength"]))
        except FileNotFoundError:
            return None

    async def read(self, key: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        if length == 0:
            return
        if length is None and start == 0:
            span: dict[str, str] = {}
        else:
            span = {"Range": f"bytes={start}-{'' if length is None else start + length - 1}"}
        with Transfer() as transfer:
            try:
                values = {**self._at(key), **span}
                body = await self._run(lambda: self._client.get_object(**values)["Body"], of=transfer, shield=False)
            except ObjectsUnavailable as error:
                if "InvalidRange" in str(error):
                    return  # an empty object, or past its end
                raise

            def read_on() -> bytes:
                return bytes(body.read(CHUNK))

            try:
                while chunk := await self._run(read_on, of=transfer, size=CHUNK, answer=CHUNK + ANSWER, shield=False):
                    yield chunk
            finally:
                body.close()

    async def copy(self, source: str, target: str) -> None:
        origin = self._at(source)
        await self._run(lambda: self._client.copy_object(**self._at(target), CopySource=origin))

    async def delete(self, key: str) -> None:
        try:
            await self._run(lambda: self._client.delete_object(**self._at(key)))
        except FileNotFoundError:
            pass

    async def use_up(self, key: str) -> None:
        """Links stay good until they expire: not every maker's S3 heeds If-None-Match on PUT, some refuse it."""
        await self.delete(key)

    async def list_before(self, when: datetime) -> AsyncIterator[str]:
        await self._abort_before(when)
        async for entry in self._list_older("list_objects_v2", "Contents", "LastModified", when):
            yield entry["Key"].removeprefix(self._prefix)

    def _is_ours(self, name: str) -> bool:
        """Others may keep their objects in the same bucket."""
        return KEY.fullmatch(name.removeprefix(self._prefix)) is not None

    async def _abort_before(self, when: datetime) -> None:
        async for entry in self._list_older("list_multipart_uploads", "Uploads", "Initiated", when):
            at = {"Bucket": self._bucket, "Key": entry["Key"], "UploadId": entry.get("UploadId")}
            try:
                await self._run(lambda at=at: self._client.abort_multipart_upload(**at))  # type: ignore[misc]
            except FileNotFoundError:
                pass

    async def _list_older(self, operation: str, name: str, time: str, when: datetime) -> AsyncIterator[dict[str, Any]]:
        """Those of our objects in a list of S3's, which it has under `name`, whose `time` is before `when`."""
        pages: Iterator[Any] | None = None

        def read() -> list[dict[str, Any]] | None:
            nonlocal pages
            if pages is None:
                paginator = self._client.get_paginator(operation)
                settings = {"PageSize": LISTED}
                pages = iter(paginator.paginate(Bucket=self._bucket, Prefix=self._prefix, PaginationConfig=settings))
            page = next(pages, None)
            if page is None:
                return None
            return [entry for entry in page.get(name, ()) if entry[time] < when and self._is_ours(entry["Key"])]

        while (entries := await self._run(read, answer=LIST)) is not None:
            for entry in entries:
                yield entry

    async def check(self) -> None:
        """By every way that users' files take: through us, and through links to put and to get."""
        keys = new_key(), new_key()
        is_fine = False
        try:
            first = {**self._at(keys[0]), "Body": PROBE, "ContentType": "text/plain"}
            await self._run(lambda: self._client.put_object(**first), abandon=True)
            put = await self.upload_url(keys[1], content_type="text/plain", size=len(PROBE), seconds=60)
            await _follow(put.method, put.url, put.headers, PROBE)
            for key in keys:
                got = await self.download_url(key, name="check.txt", content_type="text/plain", seconds=60)
                if await _follow("GET", got, {}, b"") != PROBE:
                    raise ObjectsUnavailable("S3: a link leads to something else than what was written")
            is_fine = True
        except FileNotFoundError:
            raise ObjectsUnavailable(f"S3: there is no bucket {self._bucket!r}") from None
        finally:
            for key in keys:
                try:
                    await self.delete(key)
                except ObjectsUnavailable as error:
                    if is_fine:  # otherwise it is said already what is wrong
                        raise ObjectsUnavailable(f"{error}: what was written cannot be deleted") from error

    # -- signed URLs ----------------------------------------------------------------------------

    async def upload_url(self, key: str, *, content_type: str, size: int, seconds: int) -> UploadUrl:
        values = {**self._at(key), "ContentType": content_type, "ContentLength": size}
        url = await self._sign(
            lambda: self._client.generate_presigned_url("put_object", Params=values, ExpiresIn=seconds)
        )
        return UploadUrl(url, {"Content-Type": content_type})

    async def download_url(self, key: str, *, name: str, content_type: str, seconds: int) -> str:
        values = {
            **self._at(key),
            "ResponseContentDisposition": attachment(name),
            "ResponseContentType": content_type,
        }
        return await self._sign(
            lambda: self._client.generate_presigned_url("get_object", Params=values, ExpiresIn=seconds)
        )


def _keep_alive(client: Any) -> None:
    """The TCP options of all our connections. botocore has none but SO_KEEPALIVE, with the kernel's two hours; they are
    added to those that it hands to urllib3, before the first connection."""
    client._endpoint.http_session._socket_options.extend(tcp.SOCKET_OPTIONS)


def _has_no_room(error: ClientError) -> bool:
    """HTTP 507, or the code of one of the makers that have a quota."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status == INSUFFICIENT_STORAGE or error.response.get("Error", {}).get("Code") in NO_ROOM


def _region() -> str | None:
    """Other programs read AWS_REGION, and machines of Amazon's set it; boto3 does not. None: as the profile says."""
    return os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION") or None


async def _follow(method: str, url: str, headers: Mapping[str, str], content: bytes) -> bytes:
    """What a link of ours gives, asked as a browser would."""
    try:
        with trio.fail_after(LINK_TIMEOUT):
            async with open_client(timeout=LINK_TIMEOUT) as client:
                answer = await client.request(method, url, headers=dict(headers), content=content)
    except (httpx.HTTPError, trio.TooSlowError) as error:
        raise ObjectsUnavailable(f"S3: a link cannot be followed: {reason(error)}") from error
    if answer.is_success:
        return answer.content
    why = f"S3: a link ({method}) is refused with HTTP {answer.status_code}"
    region = answer.headers.get("x-amz-bucket-region")
    raise ObjectsUnavailable(f"{why}; the bucket's region is {cut(region)}: set AWS_DEFAULT_REGION" if region else why)


class _Multipart:
    """One multipart upload under way."""

    def __init__(self, client: Any, at: dict[str, str], run: Callable[..., Any]) -> None:
        self._client = client
        self._at = at
        self._run = run
        self._parts: list[dict[str, Any]] = []

    async def add(self, transfer: Transfer, data: bytearray) -> None:
        values = {**self._at, "PartNumber": len(self._parts) + 1, "Body": data}
        tag = await self._run(lambda: str(self._client.upload_part(**values)["ETag"]), of=transfer, size=len(data))
        self._parts.append({"PartNumber": values["PartNumber"], "ETag": tag})

    async def complete(self) -> None:
        parts = {"Parts": self._parts}
        await self._run(lambda: self._client.complete_multipart_upload(**self._at, MultipartUpload=parts))

    async def abort(self) -> None:
        try:
            await self._run(lambda: self._client.abort_multipart_upload(**self._at))
        except FileNotFoundError:
            pass
