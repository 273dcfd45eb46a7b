"""Where the body of a request ends, sans-I/O: bytes in, bytes for the HTTP server behind us out.

Owns the framing of bodies (RFC 9112, 6 and 7.1). Chunks are written anew, without extensions and trailers, so that the
HTTP server cannot read them in another way than we do.
"""

import re

from server.protocol.http1.head import CHUNKED, BadRequest, Head

LINE_MAX = 256  # bytes of a line that says how long a chunk is, with its extensions
TRAILERS_MAX = 4096  # bytes behind the last chunk
STEP = 256  # lines between chunks that are read at once: a chunk may be a byte, and others wait meanwhile
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*")


class Body:
    """What is still to come of one request's body."""

    __slots__ = ("_buffer", "_is_chunked", "_left", "_trailers", "done", "has_more")

    def __init__(self, head: Head) -> None:
        length = head.length
        self.done = length == 0
        self.has_more = False  # what was fed is not all read yet
        self._is_chunked = length == CHUNKED
        self._left = 0 if self._is_chunked else length  # bytes of the body, or of the chunk with the CR LF behind it
        self._buffer = b""  # an incomplete line, or all that the next step begins with
        self._trailers = -1  # bytes of trailers, once the last chunk has come

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """What goes on to the HTTP server, and what is behind the body once that is `done`. Raises BadRequest.

        One step's worth: while it `has_more`, feed it on, with nothing when nothing has come.
        """
        if not self._is_chunked:
            piece, rest = data[: self._left], data[self._left :]
            self._left -= len(piece)
            self.done = not self._left
            return piece, rest
        return self._feed_chunks(self._buffer + data if self._buffer else data)

    def _feed_chunks(self, data: bytes) -> tuple[bytes, bytes]:
        """`_left` counts down to 2 in a chunk's content, and to 0 in the CR LF behind it."""
        content: list[bytes] = []
        position, self._buffer, self.has_more = 0, b"", False
        lines = 0
        while not self.done and position < len(data):
            if self._left > 2:
                content.append(data[position : position + self._left - 2])
                position += len(content[-1])
                self._left -= len(content[-1])
                continue
            if self._left:
                expected = b"\r\n"[2 - self._left :]
                found = data[position : position + self._left]
                if not expected.startswith(found):
                    raise BadRequest("A chunk of the body is not as long as it says.")
                position += len(found)
                self._left -= len(found)
                continue
            if lines == STEP:
                self._buffer, self.has_more = data[position:], True
                break
            lines += 1
            end = data.find(b"\r\n", position)
            most = LINE_MAX if self._trailers < 0 else TRAILERS_MAX
            if (end if end >= 0 else len(data)) - position > most:
                raise BadRequest("A line between the chunks of the body is too long.")
            if end < 0:
                self._buffer = data[position:]
                if b"\n" in self._buffer:
                    raise BadRequest("A line between the chunks of the body does not end in CR LF.")
                break
            self._take_line(data[position:end])
            position = end + 2
        return self._written(b"".join(content)), data[position:] if self.done else b""

    def _take_line(self, line: bytes) -> None:
        if self._trailers >= 0:
            self._trailers += len(line) + 2
            if self._trailers > TRAILERS_MAX:
                raise BadRequest("The trailers behind the body are too long.")
            if not line:
                self.done = True
            elif not _TRAILER.fullmatch(line):
                raise BadRequest("A trailer behind the body is malformed.")
            return
        match = _SIZE.fullmatch(line)
        if match is None:
            raise BadRequest("The length of a chunk of the body is malformed.")
        size = int(match[1], 16)
        if size:
            self._left = size + 2
        else:
            self._trailers = 0

    def _written(self, content: bytes) -> bytes:
        chunk = b"%x\r\n%s\r\n" % (len(content), content) if content else b""
        return chunk + b"0\r\n\r\n" if self.done else chunk
