"""handlers.emoji: what one emoji is, and how it is kept."""

import re

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from handlers.emoji import EMOJI, spelled


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("\U0001f44d", "\U0001f44d"),
        ("\U0001f44d\ufe0f", "\U0001f44d"),  # a picture by itself
        ("\U0001f44d\U0001f3fd", "\U0001f44d\U0001f3fd"),
        ("\u2764", "\u2764\ufe0f"),  # a heart, also as text
        ("\u2764\ufe0f", "\u2764\ufe0f"),
        ("\u261d\U0001f3fd", "\u261d\U0001f3fd"),
        ("1\u20e3", "1\ufe0f\u20e3"),
        ("#\ufe0f\u20e3", "#\ufe0f\u20e3"),
        ("\U0001f1e9\U0001f1ea", "\U0001f1e9\U0001f1ea"),
        ("\U0001f3f3\u200d\U0001f308", "\U0001f3f3\ufe0f\u200d\U0001f308"),  # fully qualified
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",) * 2,
        ("\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",) * 2,
        (":party_parrot:", ":party_parrot:"),
        (":+1:", ":+1:"),
    ],
)
def test_one_emoji(given: str, kept: str) -> None:
    """In the one spelling in which it is counted, whichever way a client writes it; again it is the same."""
    assert spelled(given) == kept
    assert spelled(kept) == kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "1",
        "#",
        " ",
        "\U0001f44d ",
        "\U0001f44d\U0001f44d",
        "\U0001f44da",
        "\ufe0f",
        "\u200d",
        "\U0001f44d\u200d",
        "\U0001f3fd",  # a tone of skin without any
        "\U0001f1e9",
        "\0",
        "\ud83d",
        ":Party:",
        "::",
        ":a b:",
        ":" + 65 * "a" + ":",
        "\u200d".join(9 * "\U0001f468"),
        "<b>",
        "/",
        "e\u0301",
    ],
)
def test_no_emoji(text: str) -> None:
    """Text, nothing, two of them, parts of one, names that are none: refused."""
    assert spelled(text) is None


@given(st.from_regex(re.compile(EMOJI), fullmatch=True))
def test_what_the_description_allows(text: str) -> None:
    """What is of the pattern is taken, is one grapheme for who shows it (or a name), and is short enough to be kept."""
    kept = spelled(text)
    assert kept is not None and spelled(kept) == kept
    assert kept.startswith(":") or regex.fullmatch(r"\X", kept)
    assert len(kept.encode()) <= 128
