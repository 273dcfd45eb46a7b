"""The signed URLs of the directory store. With S3, the store itself serves them.

Owns the two routes. A valid signature is the only authorization. Stored content may be anything, so headers make
browsers save it, and run no script in it.
"""

from collections.abc import AsyncIterator

import trio
from quart import Blueprint, Response, request

from handlers import permissions
from handlers.errors import ChatError
from server.rest import upload_backpressure
from server.rest.operations import left_out
from server.rest.requests import open_route
from store.objects import attachment
from store.objects.directory import PATH, DirectoryObjects, Grant

LINKS = "clients use its signed links as they are and never build such a request themselves"


def blueprint(objects: DirectoryObjects) -> Blueprint:
    routes = Blueprint("objects", __name__, url_prefix=PATH.rstrip("/"))
    uploads: dict[str, trio.CancelScope] = {}  # in progress, by key

    def granted(key: str) -> Grant:
        grant = objects.verify(request.method, key, request.args)
        if grant is None:
            raise ChatError("forbidden", "The link is not ours, was changed, or is too old.")
        return grant

    @routes.put("/<key>")
    @left_out(LINKS)
    @open_route
    async def put(key: str) -> Response:
        """Store the content of an upload whose size and type are part of the signed link.

        A link stores one object: it is refused once an object is there, and `is_first` makes the store refuse the
        second of two that finish at the same time. While uploads are in progress, the newest one cancels the one before
        it, since a client that lost its connection repeats its request before the server notices the loss. So at most
        one upload per link uses disk space, and a repeated upload never waits for a dead one.
        """
        grant = granted(key)
        if request.content_length != grant.size or request.content_type != grant.content_type:
            raise ChatError("invalid_request", "The upload is not of the size and type that were announced.")
        if await objects.size(key) is not None:
            raise ChatError("conflict", "The link was used.")
        if key in uploads:
            uploads[key].cancel()
        with trio.CancelScope() as scope:
            uploads[key] = scope
            try:
                await objects.write(key, _exactly(grant.size), grant.content_type, is_first=True)
            except FileExistsError:
                raise ChatError("conflict", "The link was used.") from None
            finally:
                if uploads.get(key) is scope:  # one that took its place may have ended before this one
                    del uploads[key]
        if scope.cancelled_caught:
            raise ChatError("conflict", "Another upload to this link took the place of this one.")
        return Response("", status=200)

    @routes.get("/<key>")
    @left_out(LINKS)
    @open_route
    async def get(key: str) -> Response:
        grant = granted(key)
        size = await objects.size(key)
        if size is None:
            raise permissions.not_found("object")
        # Objects have no validator, so an If-Range never matches, and the whole object is sent (RFC 9110, 13.1.5).
        wanted = None if "If-Range" in request.headers else request.range
        span = wanted.range_for_length(size) if wanted else None
        start, stop = span or (0, size)
        headers = {
            "Content-Type": grant.content_type,
            "Content-Disposition": attachment(grant.name),
            "Content-Length": str(stop - start),
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, max-age=300",
        }
        if span is not None:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        response = Response(objects.read(key, start, stop - start), status=206 if span else 200, headers=headers)
        response.timeout = None  # long files take time; the listener closes connections that do not read
        return response

    return routes


async def _exactly(size: int) -> AsyncIterator[bytes]:
    """Yield the body. Raises ChatError if it is not of this size."""
    async for piece in upload_backpressure.pieces():
        size -= len(piece)
        yield piece
    if size != 0:
        raise ChatError("invalid_request", "The upload was cut off.")
