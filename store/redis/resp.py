"""The wire format of Redis, RESP2: commands are written, replies are read. Touches nothing.

Errors become the classes of coredis, so that they mean the same however a command was sent.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from coredis.exceptions import RedisError
from coredis.parser import Parser

from store.ids import PLACES, text_of

Command = Sequence[bytes]
Reply = Any  # bytes, int, None, a list of these, or a RedisError

MAX_LINE = 64 * 1024  # bytes of a number, a status or an error
MAX_BULK = 512 * 1024 * 1024  # bytes of a string: as many as Redis allows
MAX_DEPTH = 8  # of arrays in arrays
LEAST_REPLY = 4  # bytes of the shortest one, a number of one digit
_STATUS, _ERROR, _NUMBER, _BULK, _ARRAY = b"+-:$*"
_END = b"\r\n"

_FEW = 24  # commands, up to which each is written by itself
_BITS = re.compile(rb"(?::[01]\r\n){8,}")  # the replies to commands that add to sets, or remove, one each
_DIGITS = bytes(max(0, byte - 48) for byte in range(256))

_errors = Parser()


class Malformed(RedisError):
    """What came is not an answer to what was asked: nothing that follows on this connection can be relied on."""


class OnIds(tuple[bytes, ...]):
    """A command of which all words after the second are ids, of 16 octets each."""

    __slots__ = ()


class OnEach:
    """One command on the key of each of these ids, of 16 octets, which is named by the prefix and the id: as many
    commands as there are ids, which may be thousands."""

    __slots__ = ("ids", "more", "prefix", "verb")

    def __init__(self, verb: bytes, prefix: bytes, ids: Sequence[bytes], *more: bytes) -> None:
        self.verb = verb
        self.prefix = prefix
        self.ids = ids
        self.more = more

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, some: slice) -> "OnEach":
        return OnEach(self.verb, self.prefix, self.ids[some], *self.more)

    def commands(self) -> list[Command]:
        return [(self.verb, self.prefix + text_of(some_id), *self.more) for some_id in self.ids]

    def encode(self) -> bytes | bytearray:
        """The same as `encode` makes of its commands.

        One command is written as often as there are ids. Then the digits of all keys are put in, one place of all
        commands after the other.
        """
        if len(self.ids) <= _FEW:
            return encode(self.commands())
        model = encode(OnEach(self.verb, self.prefix, [bytes(16)], *self.more).commands())
        size, start = len(model), model.index(self.prefix + text_of(bytes(16))) + len(self.prefix)
        digits = b"".join(self.ids).hex().encode()
        written = bytearray(model * len(self.ids))
        for digit, place in enumerate(PLACES):
            written[start + place :: size] = digits[digit::32]
        return written


Part = Sequence[Command] | OnEach


def encode(commands: Iterable[Command]) -> bytes:
    parts: list[bytes] = []
    for words in commands:
        parts.append(b"*%d\r\n" % len(words))
        if type(words) is OnIds:
            parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words[:2]]
            parts += (b"$16\r\n", b"\r\n$16\r\n".join(words[2:]), b"\r\n")
        else:
            parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


class Decoder:
    """The replies of one connection, cut out of what comes in pieces of any size."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of a reply that is not whole yet
        self._size = 0  # of these
        self._needed = 0  # bytes, below which there is nothing new in them
        self._open: list[tuple[list[Reply], int]] = []  # arrays that are not whole yet, and how long they will be

    @property
    def is_idle(self) -> bool:
        """Whether all that has come were whole replies."""
        return not self._size and not self._open

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies that are whole with `data`. Raise Malformed."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size < self._needed:
            return []
        buffer = data if len(self._pieces) == 1 else b"".join(self._pieces)
        found: list[Reply] = []
        at = self._needed = 0
        try:
            while (end := buffer.find(_END, at)) >= 0:
                kind, next_at = buffer[at], end + 2
                value: Reply
                if kind == _BULK:
                    length = _length(buffer[at + 1 : end], MAX_BULK)
                    if length < 0:
                        value = None
                    else:
                        next_at += length + 2
                        if next_at > len(buffer):
                            self._needed = next_at - at
                            break
                        value = buffer[end + 2 : next_at - 2]
                        if buffer[next_at - 2 : next_at] != _END:
                            raise Malformed("a string in a reply does not end where it should")
                elif kind == _NUMBER:
                    if not self._open and (run := _BITS.match(buffer, at)):
                        found += buffer[at + 1 : run.end() : 4].translate(_DIGITS)
                        at = run.end()
                        continue
                    value = int(buffer[at + 1 : end])
                elif kind == _ARRAY:
                    length = _length(buffer[at + 1 : end], MAX_BULK)
                    if length > 0:
                        if len(self._open) == MAX_DEPTH:
                            raise Malformed("a reply has too many arrays in each other")
                        self._open.append(([], length))
                        at = next_at
                        continue
                    value = None if length < 0 else []
                elif kind == _STATUS:
                    value = buffer[at + 1 : end]
                elif kind == _ERROR:
                    value = _errors.parse_error(buffer[at + 1 : end].decode(errors="replace"))
                else:
                    raise Malformed("what came is not a reply of Redis")
                at = next_at
                while self._open:
                    items, length = self._open[-1]
                    items.append(value)
                    if len(items) < length:
                        break
                    value = items
                    self._open.pop()
                else:
                    found.append(value)
        except (ValueError, IndexError) as error:  # of a number, or of an error that says where to go
            raise Malformed("a reply has no number where there should be one") from error
        rest = buffer[at:]
        if len(rest) > MAX_LINE and not self._needed:
            raise Malformed("what came is not a reply of Redis")
        self._pieces, self._size = ([rest] if rest else []), len(rest)
        return found


def _length(digits: bytes, limit: int) -> int:
    """Below zero: there is no such value."""
    length = int(digits)
    if not -1 <= length <= limit:
        raise Malformed("a reply has a length that is not possible")
    return length
