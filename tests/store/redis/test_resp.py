"""store.redis.resp: what is written, and what is made of what comes back, in pieces of any size."""

import random

import pytest
from coredis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    UnblockedError,
)

from store.ids import new_id, octets
from store.redis.resp import MAX_DEPTH, MAX_LINE, Decoder, Malformed, OnEach, OnIds, encode

REPLIES = (
    b"+OK\r\n:12\r\n:-3\r\n$3\r\na\r\n\r\n$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n"
    b"*2\r\n*2\r\n$1\r\nk\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\ne\r\n$2\r\n\r\n\r\n:1\r\n"
)
VALUES = [b"OK", 12, -3, b"a\r\n", b"", None, None, [], [[b"k", [[b"1-0", [b"e", b"\r\n"]]]], 1]]


def test_encode() -> None:
    """Words are written with their lengths, whatever is in them."""
    assert encode([(b"GET", b"a\r\n"), (b"PING",)]) == b"*2\r\n$3\r\nGET\r\n$3\r\na\r\n\r\n*1\r\n$4\r\nPING\r\n"


def test_encode_ids() -> None:
    """Commands on many ids, and one command on the keys of many, are written as if each word was written by itself."""
    ids = [new_id() for _ in range(3)]
    words = (b"SADD", b"a", *octets(ids))
    assert encode([OnIds(words), (b"PING",)]) == encode([words, (b"PING",)])
    for count in (0, 1, 3, 24, 25, 1000):
        ids = [new_id() for _ in range(count)]
        each = [(b"SADD", f"some:{one}".encode(), b"n", b"more") for one in ids]
        on_each = OnEach(b"SADD", b"some:", octets(ids), b"n", b"more")
        assert on_each.encode() == encode(each) and on_each.commands() == each and len(on_each) == count
        assert on_each[1:30].encode() == encode(each[1:30])


@pytest.mark.parametrize("size", [3, 64, 1000, 10**6])
def test_many_small_numbers(size: int) -> None:
    """The replies to commands on many sets, with others before, between and behind them, in pieces of any size."""
    rng = random.Random(size)
    written = {0: b":0", 1: b":1", 12: b":12", -1: b":-1", None: b"$-1", b":1": b"$2\r\n:1"}
    values = [rng.choice([*written, *[1] * 10]) for _ in range(5000)] + [1] * 2000
    data = b"".join(written[value] + b"\r\n" for value in values)
    decoder = Decoder()
    found = [reply for at in range(0, len(data), size) for reply in decoder.feed(data[at : at + size])]
    assert found == values and decoder.is_idle
    assert Decoder().feed(b"*20\r\n" + b":1\r\n" * 40) == [[1] * 20, *[1] * 20]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_pieces(size: int) -> None:
    """The same replies come out, whatever pieces they come in; it is idle between replies and nowhere else."""
    decoder = Decoder()
    found = [reply for at in range(0, len(REPLIES), size) for reply in decoder.feed(REPLIES[at : at + size])]
    assert found == VALUES and decoder.is_idle
    assert decoder.feed(b"*1\r\n") == [] and not decoder.is_idle
    assert decoder.feed(b":1\r") == [] and not decoder.is_idle
    assert decoder.feed(b"\n") == [[1]] and decoder.is_idle


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"READONLY You can't write", ReadOnlyError),
        (b"LOADING Redis is loading", BusyLoadingError),
        (b"NOAUTH Authentication required.", AuthenticationError),
        (b"WRONGPASS invalid", AuthenticationError),
        (b"NOPERM no", AuthorizationError),
        (b"UNBLOCKED force", UnblockedError),
        (b"MOVED 5 127.0.0.1:7001", MovedError),
        (b"ASK 5 127.0.0.1:7001", AskError),
        (b"MISCONF Redis is configured", ResponseError),
        (b"\xff\xfe", ResponseError),
    ],
)
def test_errors(text: bytes, kind: type[RedisError]) -> None:
    """Errors are what coredis makes of them, also in an array, and what follows them is read."""
    [error, [inner], number] = Decoder().feed(b"-%b\r\n*1\r\n-%b\r\n:1\r\n" % (text, text))
    assert isinstance(error, kind) and isinstance(inner, kind) and number == 1


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"%1\r\n+a\r\n+b\r\n",
        b":one\r\n",
        b":\r\n",
        b"$-2\r\n",
        b"$x\r\n",
        b"$999999999999\r\n",
        b"$1\r\nab\r\n",
        b"*-2\r\n",
        b"*1\r\n" * (MAX_DEPTH + 1),
        b"-MOVED\r\n",
        b"-MOVED 1 there\r\n",
        b"\r\n",
        b"+" + b"x" * (MAX_LINE + 1),
    ],
    ids=repr,
)
def test_nonsense(nonsense: bytes) -> None:
    """What is no reply is said to be none, and nothing else is raised."""
    with pytest.raises(Malformed):
        Decoder().feed(nonsense)


def test_any_bytes() -> None:
    """Whatever comes, in whatever pieces, there are replies or Malformed."""
    chance = random.Random(5)
    for _ in range(2000):
        decoder = Decoder()
        data = bytearray(REPLIES * 2)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice(b"\r\n$*:+-0129x\xff")
        try:
            for at in range(0, len(data), 11):
                decoder.feed(bytes(data[at : at + 11]))
        except Malformed:
            pass
