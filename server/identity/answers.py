"""Read the answers of identity providers: a bounded size, in a bounded number of pieces, as they were sent.

Owns the bounds of a body; those of what comes before it are the connection's (`store.bounded_streams`). The sender
decides how an answer is cut: each piece is a step of work, and others take turns between two of them. Touches only the
answer.
"""

import httpx
import trio

from store import bounded_streams

MAX_BYTES = 1024 * 1024
LEAST = 256  # bytes for which a piece counts at least: an answer has some thousands at most
UNCOMPRESSED = {"Accept-Encoding": "identity"}  # what is asked for, as what is compressed may expand without bound


async def read(answer: httpx.Response) -> bytes:
    """Return the body. Raise ValueError if it is too large, or compressed."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise ValueError("the answer is compressed, which was not requested")
    bounded_streams.allow(answer, 2 * MAX_BYTES)  # with what frames its pieces
    body, size = bytearray(), 0
    async for piece in answer.aiter_raw():
        body += piece
        size += max(len(piece), LEAST)
        if size > MAX_BYTES:
            raise ValueError("the answer is too large, or in too many pieces")
        await trio.lowlevel.checkpoint()
    return bytes(body)
