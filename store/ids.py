"""Ids and times. Owns UUIDv7 generation (RFC 9562, section 5.7) and the wire form of times.

Reads the clock and the system's randomness, nothing else.
"""

import os
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from uuid import UUID

_EPOCH = datetime(1970, 1, 1)  # UTC, like all times here
_RANDOM = (1 << 62) - 1  # rand_b
_COUNTER_BITS = 12  # rand_a
_VERSION_AND_VARIANT = (7 << 76) | (2 << 62)

PLACES = [digit + sum(digit >= dash for dash in (8, 12, 16, 20)) for digit in range(32)]  # in the usual form of a UUID
_DRAWN = 64  # ids for which randomness is drawn at once: asking the system costs more than all the rest of an id

_last = 0  # the millisecond and the counter of the newest id
_drawn: list[int] = []  # 80 random bits for each of the next ids
os.register_at_fork(after_in_child=_drawn.clear)  # parent and child make different ones


def new_id() -> UUID:
    """A UUIDv7 of now. Each that a process makes is greater than all it made before, whatever its clock does.

    rand_a counts within a millisecond, from a random number with a first bit of 0 (RFC 9562, section 6.2, method 1);
    when it is used up the ids run ahead of the clock. rand_b stays random: no id can be guessed from another.
    """
    global _last
    if not _drawn:
        drawn = os.urandom(10 * _DRAWN)
        _drawn.extend(int.from_bytes(drawn[at : at + 10]) for at in range(0, len(drawn), 10))
    random = _drawn.pop()
    fresh = ((time.time_ns() // 1_000_000) << _COUNTER_BITS) | (random >> 69)
    _last = fresh if fresh >> _COUNTER_BITS > _last >> _COUNTER_BITS else _last + 1
    ms, counter = _last >> _COUNTER_BITS, _last & 0xFFF
    return UUID(int=(ms << 80) | _VERSION_AND_VARIANT | (counter << 64) | (random & _RANDOM))


def id_floor(ms: int) -> UUID:
    """Return the smallest UUIDv7 of millisecond `ms` since the epoch, or of the epoch: the bound of a partition."""
    return UUID(int=(max(ms, 0) << 80) | _VERSION_AND_VARIANT)


def id_ms(value: UUID) -> int:
    """Milliseconds since the epoch at which a UUIDv7 was made."""
    return value.int >> 80


def distinct(ids: Iterable[UUID]) -> list[UUID]:
    """Each once, in order; for ids that a client has chosen.

    A UUID hashes as an integer modulo a known prime, so thousands can be made that collide; its bytes hash with a key.
    """
    return list({value.bytes: value for value in ids}.values())


def octets(ids: Iterable[UUID]) -> list[bytes]:
    """Each as its 16 octets: what thousands of ids are counted, sent and looked up as, without an object for each."""
    return [value.bytes for value in ids]


class PackedIds:
    """Ids as their octets, one behind the other: one object, though they may be thousands."""

    __slots__ = ("octets",)

    def __init__(self, octets: bytes = b"") -> None:
        self.octets = octets

    @classmethod
    def of(cls, ids: Iterable[UUID]) -> "PackedIds":
        return cls(b"".join(octets(ids)))

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> "PackedIds":
        """Raises ValueError."""
        return cls(bytes.fromhex("".join(texts).replace("-", "")))

    def texts(self) -> list[str]:
        """Return the usual form of each. One place of all of them is written after the other."""
        digits = self.octets.hex().encode()
        written = bytearray(b"-" * (36 * len(self)))
        for digit, place in enumerate(PLACES):
            written[place::36] = digits[digit::32]
        joined = written.decode()
        return [joined[at : at + 36] for at in range(0, len(joined), 36)]

    def pieces(self, size: int) -> Iterator[list[bytes]]:
        """The octets of each, so many at a time."""
        for start in range(0, len(self.octets), 16 * size):
            yield parted(self.octets[start : start + 16 * size])

    def __len__(self) -> int:
        return len(self.octets) // 16

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedIds) and other.octets == self.octets

    def __hash__(self) -> int:
        return hash(self.octets)


def parted(packed: bytes, size: int = 16) -> list[bytes]:
    """Take apart what was packed without separators, each item of this size."""
    return [packed[at : at + size] for at in range(0, len(packed), size)]


def text_of(id_octets: bytes) -> bytes:
    """Return the usual form of a UUID."""
    digits = id_octets.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}".encode()


def timestamp(ms: int) -> str:
    """RFC 3339 UTC with milliseconds, as every time on the wire is written."""
    seconds, rest = divmod(ms, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


def created_at(value: UUID) -> str:
    """Return when a UUIDv7 was made, as `timestamp` writes it. Called for each message that is read."""
    seconds, rest = divmod(value.int >> 80, 1000)
    return _second(seconds) + _MILLISECONDS[rest]


_MILLISECONDS = tuple(f".{rest:03d}Z" for rest in range(1000))


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    """Return the time down to the second, which is what messages of one page have in common, and costs most."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()


def timestamp_ms(value: str) -> int:
    """Milliseconds since the epoch of a time that `timestamp` has written."""
    return (datetime.fromisoformat(value.removesuffix("Z")) - _EPOCH) // timedelta(milliseconds=1)


def epoch_ms(value: datetime) -> int:
    """Milliseconds since the epoch of a time that has a time zone."""
    return (value.astimezone(UTC).replace(tzinfo=None) - _EPOCH) // timedelta(milliseconds=1)


def now_timestamp() -> str:
    return timestamp(time.time_ns() // 1_000_000)
