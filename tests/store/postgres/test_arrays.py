"""store.postgres.message_batch: the parameters of a batch in PostgreSQL's binary form."""

from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import pq
from psycopg.adapt import Transformer

from store.postgres.message_batch import TEXT_ARRAY, UUID_ARRAY, pack_texts, pack_uuids

TEXTS = st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), max_size=20)


def unpack(data: bytes, oid: int) -> object:
    return Transformer().get_loader(oid, pq.Format.BINARY).load(data)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.none() | st.uuids(), min_size=1, max_size=20))
def test_uuids(values: list[UUID | None]) -> None:
    """psycopg reads back what was packed."""
    assert unpack(pack_uuids(values), UUID_ARRAY) == values


@given(TEXTS.filter(bool))
def test_texts(values: list[str | None]) -> None:
    """psycopg reads back what was packed, in octets and not in characters."""
    assert unpack(pack_texts(values), TEXT_ARRAY) == values


def test_lone_surrogate() -> None:
    """What is not Unicode is found here, before anything is sent."""
    with pytest.raises(UnicodeEncodeError):
        pack_texts(["fine", "\ud800"])
