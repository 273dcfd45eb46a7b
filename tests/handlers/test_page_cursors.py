"""handlers.page_cursors: a cursor leads back to its place, and anything else is refused as one."""

from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handlers import page_cursors
from handlers.errors import ChatError
from handlers.page_cursors import MAX_TEXT
from store.postgres.conversation_views import Position

PLACE = st.integers(0, 2**63 - 1)
DECODERS: list[Callable[[str | None], object]] = [
    page_cursors.decode_id,
    page_cursors.decode_position,
    page_cursors.decode_text,
]


@given(st.uuids())
@example(UUID(int=0))
@example(UUID(int=2**128 - 1))
def test_ids(value: UUID) -> None:
    """Any id, without a sign that a URL would have to escape."""
    text = page_cursors.encode_id(value)
    assert page_cursors.decode_id(text) == value and text.replace("-", "").replace("_", "").isalnum()


@given(PLACE, st.uuids(), PLACE)
def test_places(number: int, last_id: UUID, as_of: int) -> None:
    """Any position, to the ends of what the database counts."""
    position = Position(number, last_id, as_of)
    assert page_cursors.decode_position(page_cursors.encode_position(position)) == position


@pytest.mark.parametrize(("number", "as_of"), [(-1, 5), (5, -1), (-(2**63), 0), (0, -(2**63))])
def test_places_that_there_are_not(number: int, as_of: int) -> None:
    """A position below the first is of no list of ours."""
    with pytest.raises(ChatError, match="invalid_cursor"):
        page_cursors.decode_position(page_cursors.encode_position(Position(number, UUID(int=1), as_of)))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=100))
def test_texts(text: str) -> None:
    """Any text that can be stored."""
    assert page_cursors.decode_text(page_cursors.encode_text(text)) == text


def test_none_is_the_first_page() -> None:
    """For each kind."""
    assert [decode(None) for decode in DECODERS] == [None, None, None]


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("text", ["!", "é", "\ud800", "A", "a b", "AA=A", "A" * 5000 + "!", "\n"])
def test_what_is_no_base64(decode: Callable[[str | None], object], text: str) -> None:
    """Is invalid_cursor, with the advice to begin anew."""
    with pytest.raises(ChatError) as caught:
        decode(text)
    assert caught.value.code == "invalid_cursor"


@given(st.text(max_size=60) | st.text("ABCabc019-_=", max_size=60))
@pytest.mark.parametrize("decode", DECODERS)
def test_whatever_comes(decode: Callable[[str | None], object], text: str) -> None:
    """It is a position or invalid_cursor, never another error."""
    try:
        decode(text)
    except ChatError as error:
        assert error.code == "invalid_cursor"


def test_cursors_of_one_list_in_another() -> None:
    """Are of another length: refused."""
    of_id, of_place = page_cursors.encode_id(UUID(int=1)), page_cursors.encode_position(Position(1, UUID(int=1), 1))
    for decode, text in ((page_cursors.decode_id, of_place), (page_cursors.decode_position, of_id)):
        with pytest.raises(ChatError, match="invalid_cursor"):
            decode(text)


@pytest.mark.parametrize(("length", "is_good"), [(MAX_TEXT, True), (MAX_TEXT + 4, False)])
def test_texts_are_bounded(length: int, is_good: bool) -> None:
    """A cursor longer than any of ours is not read."""
    text = "QUFB" * (length // 4)
    if is_good:
        assert page_cursors.decode_text(text) == "AAA" * (length // 4)
    else:
        with pytest.raises(ChatError, match="invalid_cursor"):
            page_cursors.decode_text(text)


def test_what_the_database_cannot_hold() -> None:
    """A text with NUL, or bytes that are no text, is a position all the same, that the database can compare."""
    assert page_cursors.decode_text(page_cursors.encode_text("a\0b")) == "ab"
    assert page_cursors.decode_text("_w") == "\ufffd"
