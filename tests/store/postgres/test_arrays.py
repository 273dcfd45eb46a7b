"""store.postgres.arrays: arrays in PostgreSQL's binary form."""

from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import pq
from psycopg.adapt import Transformer

from store.ids import new_id
from store.postgres.arrays import (
    TEXT_ARRAY,
    UUID_ARRAY,
    Numbers,
    RawUuids,
    Texts,
    Uuids,
    pack_raw_uuids,
    pack_texts,
    pack_uuids,
)
from store.postgres.connection import Connection

TEXTS = st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), max_size=20)


def unpack(data: bytes, oid: int) -> object:
    return Transformer().get_loader(oid, pq.Format.BINARY).load(data)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.none() | st.uuids(), min_size=1, max_size=20))
def test_uuids(values: list[UUID | None]) -> None:
    """psycopg reads back what was packed."""
    assert unpack(pack_uuids(values), UUID_ARRAY) == values
    known = [value for value in values if value is not None]
    if known:
        assert unpack(pack_raw_uuids([value.bytes for value in known]), UUID_ARRAY) == known


@given(TEXTS.filter(bool))
def test_texts(values: list[str | None]) -> None:
    """psycopg reads back what was packed, in octets and not in characters."""
    assert unpack(pack_texts(values), TEXT_ARRAY) == values


def test_lone_surrogate() -> None:
    """What is not Unicode is found here, before anything is sent."""
    with pytest.raises(UnicodeEncodeError):
        pack_texts(["fine", "\ud800"])


async def test_lists_as_parameters(conn: Connection) -> None:
    """PostgreSQL has what a list of a type of ours holds, of any length, also prepared; and takes it as that type."""
    ids = [new_id() for _ in range(3)]
    for count in (3, 0, 1, 2):
        values = ids[:count], ids[:count], [f"é{n}" for n in range(count)], [n - 2**40 for n in range(count)]
        parameters = Uuids(values[0]), RawUuids(one.bytes for one in values[1]), Texts(values[2]), Numbers(values[3])
        [row] = await (await conn.execute("SELECT %s, %s, %s, %s", parameters)).fetchall()
        assert tuple(row) == values
