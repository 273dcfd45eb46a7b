"""REST for files (docs/rest.md). Owns the routes, and the reading of multipart bodies as they come (RFC 7578).

What a file is, and who may have it, is `handlers.files`' business.
"""

import hashlib
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import UUID

import trio
from quart import Blueprint, Response, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from handlers.errors import ChatError
from handlers.files import UPLOAD_SECONDS, Files
from handlers.model import Once, PresignFile
from handlers.text_rules import NO_TEXT
from server.rest import upload_backpressure
from server.rest.operations import IDEMPOTENCY_KEY, Answer, done, operation, query
from server.rest.requests import (
    answer,
    base_url,
    caller,
    idempotency_key,
    nothing,
    once,
    path_id,
    upload_route,
)
from store.ids import id_ms, timestamp
from store.model import Timestamp, Wire
from store.postgres import files as store
from store.postgres.messages import FILE_PATH

PART = "file"  # the form field
FORM_OVERHEAD = 16 * 1024  # bytes of a form around the file that are not held against it
HELD_MAX = 256 * 1024  # bytes of a form that wait for their meaning: before and after the parts
PARTS_MAX = 100  # of one form; browsers send one for each field
PART_HEAD_MAX = 8 * 1024  # bytes of the head of a part: the longest name that is kept takes 6 KiB, escaped and twice

TEXT = {"type": "string", "minLength": 1, "maxLength": 2048, "pattern": "^[^\\u0000]*$"}
FORM = {
    "type": "object",
    "properties": {PART: {"type": "string", "format": "binary", "description": "The content, with its file name."}},
    "required": [PART],
}


class StoredFile(Wire, frozen=True):
    """`url` is the same for as long as the file is there; it needs an access token, or a link of presigned-url."""

    id: UUID
    key: str
    url: str
    name: str
    size: int
    content_type: str
    sha256: str
    width: int | None
    height: int | None
    created_at: Timestamp


class Upload(Wire, frozen=True):
    """Send the content to `uploadUrl` with this method and these headers, then complete the upload."""

    id: UUID
    upload_url: str
    method: str
    headers: dict[str, str]
    expires_at: Timestamp


class Link(Wire, frozen=True):
    url: str
    expires_at: Timestamp


def blueprint(files: Files, max_bytes: int) -> Blueprint:
    routes = Blueprint("files", __name__, url_prefix="/api/files")

    @routes.post("/upload")
    @operation(
        Answer(201, StoredFile, "The file.", ("Location",)),
        form=FORM,
        parameters=(IDEMPOTENCY_KEY,),
    )
    @upload_route
    async def upload() -> Response:
        """Upload a file.

        Its type is decided by its content. Nothing is kept of an upload that is cut off.
        """
        key = idempotency_key()
        same = None if key is None else Once(key, hashlib.sha256(b"upload").digest())
        if (request.content_length or 0) > max_bytes + FORM_OVERHEAD:
            files.check_size(request.content_length or 0)
        form = _Form(upload_backpressure.pieces(), max_bytes)
        name = await form.begin()
        stored = await files.upload(caller(), name, form.content(), same, announced=request.content_length)
        response = answer(_shown(stored), 201)
        response.headers["Location"] = f"{FILE_PATH}{stored.key}"
        return response

    @routes.post("/presign")
    @operation(
        Answer(201, Upload, "Where to send the content."),
        takes=PresignFile,
        parameters=(IDEMPOTENCY_KEY,),
        refuses=("conflict", "gone"),
    )
    @upload_route
    async def presign(data: PresignFile) -> Response:
        """Begin an upload directly into the store."""
        made, target = await files.presign(caller(), data, await once())
        url = base_url() + target.url if target.url.startswith("/") else target.url
        return answer(Upload(made.id, url, target.method, dict(target.headers), _in(UPLOAD_SECONDS)), 201)

    @routes.post("/<id:file_id>/complete")
    @operation(
        Answer(200, StoredFile, "The file."),
        parameters=(IDEMPOTENCY_KEY,),
        refuses=("conflict", "gone", "unsupported_media_type"),
    )
    async def complete(file_id: str) -> Response:
        """Complete an upload: what is there is checked against what was announced.

        Safe to repeat: the same file is answered.
        """
        return answer(_shown(await files.complete(caller(), path_id(file_id), await once())))

    @routes.get("/presigned-url")
    @operation(
        Answer(200, Link, "A link that is good for a few minutes, for whoever has it."),
        parameters=(query("fileKey", TEXT, "The file's `key`.", is_required=True),),
        refuses=("not_found",),
    )
    async def presigned_url() -> Response:
        """A link to a file of mine, or of a conversation of mine."""
        url, seconds = await _link(_required("fileKey"))
        return answer(Link(url, _in(seconds)))

    @routes.get("/<key:file_key>")
    @operation(Answer(302, None, "To such a link.", ("Location",)))
    async def download(file_key: str) -> Response:
        """A file: the way to a link to it."""
        url, _ = await _link(file_key)
        return Response("", status=302, headers={"Location": url})

    @routes.delete("")
    @operation(
        done("Messages that held it show none from now on."),
        parameters=(query("fileUrl", TEXT, "The file's `url`.", is_required=True),),
        refuses=("forbidden", "not_found"),
    )
    async def delete() -> Response:
        """Delete a file of mine."""
        path = urlsplit(_required("fileUrl")).path
        await files.delete(caller(), path.removeprefix(FILE_PATH))
        return nothing()

    async def _link(key: str) -> tuple[str, int]:
        url, seconds = await files.download_url(caller(), key)
        return (base_url() + url if url.startswith("/") else url), seconds

    return routes


class _Decoder(MultipartDecoder):
    """Werkzeug's, which takes heads of parts of any length, in UTF-8 only: pages in Latin-1 send names in theirs."""

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        if len(data) > PART_HEAD_MAX:
            raise ChatError("too_large", f"The head of a part of the form is longer than {PART_HEAD_MAX} bytes.")
        return super()._parse_headers(b"".join(_in_utf8(line) for line in bytes(data).splitlines(keepends=True)))


class _Form:
    """A multipart body with one file, read as it comes; the fields before it are passed over."""

    def __init__(self, pieces: AsyncIterator[bytes], max_bytes: int) -> None:
        kind, options = request.mimetype, request.mimetype_params
        if kind != "multipart/form-data" or not options.get("boundary"):
            raise ChatError("unsupported_media_type", "Send multipart/form-data with the field `file`.")
        self._pieces = pieces
        self._decoder = _Decoder(options["boundary"].encode("latin-1", "replace"), HELD_MAX)
        self._left = max_bytes + FORM_OVERHEAD
        self._parts = 0

    async def begin(self) -> str:
        """The name of the file; its content follows. Raises ChatError."""
        while True:
            event = await self._next()
            if isinstance(event, File) and event.name == PART:
                return _name_of(event)
            if isinstance(event, (File, Field)) and event.name == PART:
                break
            if isinstance(event, Epilogue):
                break
        raise ChatError("invalid_request", "The form has no file in the field `file`.", errors={PART: "required"})

    async def content(self) -> AsyncIterator[bytes]:
        """Until the end of the form: a file that is cut off is none."""
        is_over = False
        while True:
            event = await self._next()
            if isinstance(event, Epilogue):
                return
            if isinstance(event, (File, Field)):
                is_over = True  # fields after it
            elif isinstance(event, Data) and not is_over:
                if event.data:
                    yield bytes(event.data)
                is_over = not event.more_data

    async def _next(self) -> Event:
        try:
            while isinstance(event := self._decoder.next_event(), NeedData):
                piece = await anext(self._pieces, None)
                if piece is not None:
                    self._left -= len(piece)
                    if self._left < 0:
                        raise ChatError("too_large", "The form is larger than a file may be.")
                self._decoder.receive_data(piece)
        except (ValueError, RequestEntityTooLarge):
            raise ChatError("invalid_request", "The multipart body is malformed, or ends too early.") from None
        if isinstance(event, (File, Field)):
            self._parts += 1
            if self._parts > PARTS_MAX:
                raise ChatError("too_large", f"The form has more than {PARTS_MAX} parts.")
            await trio.lowlevel.checkpoint()  # one piece of the body may have very many
        return event


def _name_of(part: File) -> str:
    """Raises ChatError when the name (RFC 8187: percent-encoded) is no text."""
    said = part.headers.get("Content-Disposition", "")
    if "\ufffd" in part.filename and "\ufffd" not in said and "%EF%BF%BD" not in said.upper():
        raise ChatError("invalid_request", f"The file name is not UTF-8: {NO_TEXT}.", errors={PART: NO_TEXT})
    return part.filename


def _in_utf8(line: bytes) -> bytes:
    """A line of a part's head. Raises ChatError when it would be UTF-8 if half surrogate pairs were."""
    try:
        line.decode()
    except UnicodeDecodeError:
        try:
            line.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            # What browsers mean by Latin-1 (WHATWG Encoding); the few bytes that it leaves open are nothing to see.
            return line.decode("windows-1252", "replace").encode()
        raise ChatError("invalid_request", f"The form is not UTF-8: {NO_TEXT}.", errors={PART: NO_TEXT}) from None
    return line


def _shown(file: store.File) -> StoredFile:
    return StoredFile(
        id=file.id,
        key=file.key,
        url=f"{FILE_PATH}{file.key}",
        name=file.name,
        size=file.size,
        content_type=file.content_type,
        sha256=(file.sha256 or b"").hex(),
        width=file.width,
        height=file.height,
        created_at=timestamp(id_ms(file.id)),
    )


def _in(seconds: int) -> str:
    return timestamp(int((time.time() + seconds) * 1000))


def _required(name: str) -> str:
    found = request.args.get(name, "")
    if not found or "\0" in found:
        raise ChatError("invalid_request", f"The parameter {name} is required.", errors={name: "required"})
    return found
