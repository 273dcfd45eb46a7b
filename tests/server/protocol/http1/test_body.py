"""server.protocol.http1.body: where a body ends, with h11 as the reader behind us."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocol.http1.body import STEP, TRAILERS_MAX, Body
from server.protocol.http1.head import BadRequest, parse_head, rewritten
from tests.server.protocol.pieces import split

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\n"


def passed(head: bytes, pieces: list[bytes]) -> tuple[bytes, bytes, bool]:
    """What the server behind us gets, what is behind the body, and whether it is done. Raises BadRequest."""
    parsed = parse_head(head)
    body = Body(parsed)
    out, rest = [rewritten(parsed)], b""
    for piece in pieces:
        if body.done:
            rest += piece
            continue
        some, behind = body.feed(piece)
        out.append(some)
        while body.has_more:
            some, behind = body.feed(b"")
            out.append(some)
        rest += behind
    return b"".join(out), rest, body.done


def read(data: bytes) -> tuple[bytes, bool]:
    """The body as h11 reads it, and whether it is whole."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    content = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Data):
            content += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return content, True
        elif event is h11.NEED_DATA:
            return content, False


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=6),
    st.sampled_from([b"", b";a=b", b' ; a="b c"', b";\xe9"]),
    st.sampled_from([b"", b"X: y\r\n", b"X: y\r\nZ:\r\n"]),
    st.integers(1, 400),
)
def test_chunks(chunks: list[bytes], extension: bytes, trailers: bytes, size: int) -> None:
    """However it is cut: h11 reads what was sent, without extensions and trailers; the next request is left whole."""
    sent = b"".join(b"%X%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    data = sent + b"0" + extension + b"\r\n" + trailers + b"\r\n" + NEXT
    out, rest, done = passed(CHUNKED, split(data, size))
    assert done and rest == NEXT
    assert read(out) == (b"".join(chunks), True)
    assert b"X: y" not in out.partition(b"\r\n\r\n")[2].removesuffix(b"0\r\n\r\n") or b"X: y" in b"".join(chunks)


def test_a_step_of_tiny_chunks() -> None:
    """However many chunks come at once, a few are read in one step, and all in the end."""
    content = bytes(range(256)) * 40
    data = b"".join(b"1\r\n%c\r\n" % byte for byte in content) + b"0\r\n\r\n"
    head = parse_head(CHUNKED)
    body = Body(head)
    out, rest = body.feed(data + NEXT)
    steps = [out]
    while body.has_more:
        out, rest = body.feed(b"")
        steps.append(out)
    assert max(map(len, steps)) < 2 * STEP and body.done and rest == NEXT
    assert read(rewritten(head) + b"".join(steps)) == (content, True)


@given(st.binary(max_size=2000), st.integers(0, 2000), st.integers(1, 500))
def test_lengths(content: bytes, missing: int, size: int) -> None:
    """Exactly so many bytes are the body's."""
    head = HEAD + b"Content-Length: %d\r\n\r\n" % (len(content) + missing)
    out, rest, done = passed(head, split(content, size))
    assert done == (not missing) and rest == b""
    assert read(out) == (content, done)
    if done:
        assert passed(head, split(content + NEXT, size))[1] == NEXT


@given(st.binary(max_size=60), st.binary(max_size=20), st.integers(1, 30))
def test_noise_between_chunks(noise: bytes, more: bytes, size: int) -> None:
    """What comes through is read by h11 as a body like ours; the rest is a BadRequest, never anything else."""
    data = b"2\r\nab\r\n" + noise + b"\r\n" + more + b"\r\n0\r\n\r\n"
    try:
        out, _, done = passed(CHUNKED, split(data, size))
    except BadRequest:
        return
    content, whole = read(out)
    assert content.startswith(b"ab") and whole == done


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"2\r\nabc",
        b"2\r\nab\n",
        b"2\r\nabXY",
        b"2\nab\r\n",
        b" 2\r\nab\r\n",
        b"2 \r\nab\r\n",
        b"2_0\r\n",
        b"-1\r\n",
        b"1" * 16 + b"\r\n",
        b"2;" + b"x" * 300,
        b"2;\x00\r\n",
        b"0\r\nno colon\r\n",
        b"0\r\n folded: x\r\n",
        b"0\r\n" + b"X: y\r\n" * (TRAILERS_MAX // 6 + 1),
    ],
)
def test_what_is_no_chunk(data: bytes) -> None:
    """Refused with a sentence, in one piece and byte by byte."""
    for size in (len(data), 1):
        with pytest.raises(BadRequest, match=r"\w+ .*\."):
            passed(CHUNKED, split(data, size))
