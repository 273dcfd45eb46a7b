"""REST for files (docs/rest.md). Owns the routes, and the reading of multipart bodies as they come (RFC 7578).

`handlers.files` decides which files are accepted and who may read them.
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
FORM_OVERHEAD = 16 * 1024  # bytes of a form besides the file, which do not count against its size
HELD_MAX = 256 * 1024  # bytes of a form that may be buffered before the parser can interpret them
PARTS_MAX = 100  # of one form; browsers send one for each field
PART_HEAD_MAX = 8 * 1024  # bytes of the head of a part: the longest name that is kept takes 6 KiB, escaped and twice

TEXT = {"type": "string", "minLength": 1, "maxLength": 2048, "pattern": "^[^\\u0000]*$"}
FORM = {
    "type": "object",
    "properties": {PART: {"type": "string", "format": "binary", "description": "The content, with its file name."}},
    "required": [PART],
}


class StoredFile(Wire, frozen=True):
    """A file. `url` never changes; reading it needs an access token, or use a link from presigned-url."""

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
        refuses=("storage_full",),
    )
    @upload_route
    async def upload() -> Response:
        """Upload a file.

        The type of the file is determined from its content. Nothing is kept of an upload that ends early.
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
        Answer(201, Upload, "The URL to which the content is sent."),
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
        refuses=("conflict", "gone", "unsupported_media_type", "storage_full"),
    )
    async def complete(file_id: str) -> Response:
        """Complete an upload: check the stored content against the announced size and type.

        Safe to repeat: it answers the same file.
        """
        return answer(_shown(await files.complete(caller(), path_id(file_id), await once())))

    @routes.get("/presigned-url")
    @operation(
        Answer(200, Link, "A link that is valid for a few minutes. It can be used without an access token."),
        parameters=(query("fileKey", TEXT, "The file's `key`.", is_required=True),),
        refuses=("not_found",),
    )
    async def presigned_url() -> Response:
        """Get a link to a file of the caller, or of a conversation of the caller."""
        url, seconds = await _link(_required("fileKey"))
        return answer(Link(url, _in(seconds)))

    @routes.get("/<key:file_key>")
    @operation(Answer(302, None, "Redirect to a link as from presigned-url.", ("Location",)))
    async def download(file_key: str) -> Response:
        """Redirect to a link to the file's content."""
        url, _ = await _link(file_key)
        return Response("", status=302, headers={"Location": url})

    @routes.delete("")
    @operation(
        done("The file is deleted; messages with it show none from now on."),
        parameters=(query("fileUrl", TEXT, "The file's `url`.", is_required=True),),
        refuses=("forbidden", "not_found"),
    )
    async def delete() -> Response:
        """Delete a file of the caller."""
        await files.delete(caller(), _path_of("fileUrl").removeprefix(FILE_PATH))
        return nothing()

    async def _link(key: str) -> tuple[str, int]:
        url, seconds = await files.download_url(caller(), key)
        return (base_url() + url if url.startswith("/") else url), seconds

    return routes


class _Decoder(MultipartDecoder):
    """Werkzeug's decoder, which accepts part heads of any length and in UTF-8 only.

    This one limits their length, and converts heads from pages in Latin-1, which send file names in that encoding.
    """

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        if len(data) > PART_HEAD_MAX:
            raise ChatError("too_large", f"The head of a part of the form is longer than {PART_HEAD_MAX} bytes.")
        return super()._parse_headers(b"".join(_in_utf8(line) for line in bytes(data).splitlines(keepends=True)))


class _Form:
    """A multipart body with one file, parsed while it arrives. Other fields are skipped.

    Call `begin` once, then iterate over `content` to its end. Guaranteed: `content` ends normally only if the form is
    complete, so a file that was cut off raises an error and the caller discards what it stored. Memory is bounded by
    HELD_MAX and one piece of the body, the whole form by the file's maximum and FORM_OVERHEAD. The parser yields
    to the event loop at each part, because one small piece of the body can contain very many parts.
    """

    def __init__(self, pieces: AsyncIterator[bytes], max_bytes: int) -> None:
        kind, options = request.mimetype, request.mimetype_params
        if kind != "multipart/form-data" or not options.get("boundary"):
            raise ChatError("unsupported_media_type", "Send multipart/form-data with the field `file`.")
        self._pieces = pieces
        self._decoder = _Decoder(options["boundary"].encode("latin-1", "replace"), HELD_MAX)
        self._left = max_bytes + FORM_OVERHEAD
        self._parts = 0

    async def begin(self) -> str:
        """Skip to the file and return its name. Raises ChatError if the form has none."""
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
        """Yield the file's content, then read to the end of the form. Raises ChatError if that does not come."""
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
    """Return the file name. Raises ChatError if it (RFC 8187: percent-encoded) is not valid UTF-8.

    The decoder replaces invalid bytes by U+FFFD. A name that contains that character itself is accepted.
    """
    said = part.headers.get("Content-Disposition", "")
    if "\ufffd" in part.filename and "\ufffd" not in said and "%EF%BF%BD" not in said.upper():
        raise ChatError("invalid_request", f"The file name is not UTF-8: {NO_TEXT}.", errors={PART: NO_TEXT})
    return part.filename


def _in_utf8(line: bytes) -> bytes:
    """Return a line of a part's head in UTF-8. Raises ChatError if it contains encoded lone surrogates."""
    try:
        line.decode()
    except UnicodeDecodeError:
        try:
            line.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            # What browsers mean by Latin-1 (WHATWG Encoding). The few bytes that it leaves undefined are replaced.
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


def _path_of(name: str) -> str:
    """Return the path of the URL in this parameter. Raises ChatError."""
    try:
        return urlsplit(_required(name)).path
    except ValueError:  # brackets that do not close, or a host that normalizes to something else
        raise ChatError("invalid_request", f"The parameter {name} is not a URL.", errors={name: "not a URL"}) from None


def _required(name: str) -> str:
    found = request.args.get(name, "")
    if not found or "\0" in found:
        raise ChatError("invalid_request", f"The parameter {name} is required.", errors={name: "required"})
    return found
