"""Arguments for hub methods, right and wrong, made from the table of methods: one that is added is covered by itself.

Owns the strategies, and the two encodings of what no honest encoder writes: numbers of a hundred digits, lone
surrogates, nesting without end. Ids are names in angle brackets (`<conversation 0>`) until the plan is played.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin
from uuid import UUID

import msgspec
from hypothesis import strategies as st

from server.hub.dispatch import Declaration

KNOWN = ("conversation", "message", "user", "token")
FEW = 3  # of each kind: ours, a group with people who want to be left alone, one that is none of our business
DEEP = "<deep"  # followed by a number of levels, and `>`
NUMBERS = [0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30, -(10**30), 10**400]


names = st.builds(lambda kind, number: f"<{kind} {number}>", st.sampled_from(KNOWN), st.integers(0, FEW - 1))
conversations = st.integers(0, FEW - 1).map(lambda number: f"<conversation {number}>")
numbers = st.sampled_from(NUMBERS) | st.integers()
texts = (
    st.text(st.characters(), max_size=20)  # with lone surrogates, which `st.text()` leaves out
    | st.sampled_from(["", "\x00", "\ud800", "\udfff\ud800", "\u202eevil", "a" * 5_000, "é" * 40_000, "\x1e", "ID3 "])
)
# Python's hash of an integer is its remainder by 2**61 - 1: these collide where a key's hash is the integer's.
colliding = st.integers(1, 2_000).map(lambda many: {str(UUID(int=number * (2**61 - 1))): 1 for number in range(many)})
junk = st.recursive(
    st.none()
    | st.booleans()
    | numbers
    | st.floats()
    | texts
    | names
    | st.integers(1, 30_000).map(lambda levels: f"{DEEP} {levels}>"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | names, inner, max_size=4),
    max_leaves=8,
)


def of(kind: Any) -> st.SearchStrategy[Any]:
    """Generate JSON values that this type accepts, often at its limits."""
    origin = get_origin(kind)
    if origin is Annotated:
        return of(get_args(kind)[0])
    if origin in (Union, UnionType):
        return st.one_of(*map(of, get_args(kind)))
    if origin in (list, Sequence):
        inner = of(get_args(kind)[0])
        return st.lists(inner, max_size=5) | inner.map(lambda one: [one] * 300)
    if origin in (dict, Mapping):
        key, value = get_args(kind)
        if key is str:
            return st.dictionaries(texts | names, of(value), max_size=5)
        return st.dictionaries(conversations | names, of(value), max_size=5) | colliding  # ids, whatever their class
    simple = {UUID: conversations | names, int: numbers, str: texts | names, bool: st.booleans(), float: st.floats()}
    if kind in simple:
        return simple[kind]
    if kind in (None, NoneType):
        return st.none()
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from([member.value for member in kind])
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = msgspec.structs.fields(kind)
        needed = {field.encode_name: of(field.type) for field in fields if field.required}
        others = {field.encode_name: of(field.type) for field in fields if not field.required}
        return st.fixed_dictionaries(needed, optional=others)
    return junk


def spoilt(good: list[Any], place: int, bad: Any, how: int) -> list[Any]:
    """Arguments of which one is wrong, missing, or one too many."""
    place = place % (len(good) + 1)
    if how == 0:
        return [*good[:place], *good[place + 1 :]]
    if how == 1:
        return [*good[:place], bad, *good[place:]]
    return [*good[:place], bad, *good[place + 1 :]]


def arguments(method: Declaration) -> st.SearchStrategy[Any]:
    """Mostly what the method takes, so that calls reach what lies behind the decoder."""
    right = st.tuples(*(of(one.annotation) for one in method.parameters)).map(list)
    wrong = st.builds(spoilt, right, st.integers(0, 5), junk, st.integers(0, 2))
    return st.one_of(right, right, wrong, junk)


# -- encodings ----------------------------------------------------------------------------------


def resolved(value: Any, known: Callable[[str], str]) -> Any:
    """Return the value with ids in place of their names."""
    if isinstance(value, str):
        return known(value)
    if isinstance(value, list):
        return [resolved(one, known) for one in value]
    if isinstance(value, dict):
        return {known(key): resolved(one, known) for key, one in value.items()}
    return value


def levels_of(text: str) -> int | None:
    """How deep, if it is a name for something deep."""
    return int(text[len(DEEP) : -1]) if text.startswith(DEEP) else None


def to_json(value: Any) -> bytes:
    """Encode as JavaScript does: lone surrogates as ASCII escapes, NaN as it is."""
    if isinstance(value, str) and (levels := levels_of(value)) is not None:
        return b"[" * levels + b"]" * levels
    if isinstance(value, list):
        return b"[" + b",".join(map(to_json, value)) + b"]"
    if isinstance(value, dict):
        return b"{" + b",".join(to_json(str(key)) + b":" + to_json(one) for key, one in value.items()) + b"}"
    return json.dumps(value).encode()


def to_msgpack(value: Any) -> bytes:
    """Numbers that do not fit become what a buggy encoder might write: a string of digits, or an extension."""
    if isinstance(value, str):
        levels = levels_of(value)
        return b"\x91" * levels + b"\xc0" if levels is not None else _text(value)
    if isinstance(value, list):
        return struct.pack(">BI", 0xDD, len(value)) + b"".join(map(to_msgpack, value))
    if isinstance(value, dict):
        pairs = b"".join(to_msgpack(str(key)) + to_msgpack(one) for key, one in value.items())
        return struct.pack(">BI", 0xDF, len(value)) + pairs
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return _text(str(value)) if value > 0 else b"\xc7\x04\x05" + (abs(value) % 2**32).to_bytes(4)
    return msgspec.msgpack.encode(value)


def _text(value: str) -> bytes:
    data = value.encode(errors="surrogatepass")
    return struct.pack(">BI", 0xDB, len(data)) + data


def varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])
