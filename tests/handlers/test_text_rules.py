"""handlers.text_rules: one line is one line, what is shown can be seen, and a number is what ASCII digits write."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.text_rules import (
    DESCRIPTION,
    EMAIL,
    EXTERNAL_ID,
    KEY,
    LINE,
    NAME,
    PICTURE,
    TIME,
    USERNAME,
    fits,
    is_text,
    is_visible,
    time_of,
    whole_number,
)

BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # what str.splitlines breaks at


@given(st.text(max_size=30))
def test_a_line_is_one(text: str) -> None:
    """What fits has no break, no control and nothing that turns the direction of what follows."""
    if fits(LINE, text):
        assert len(text.splitlines()) <= 1
        assert not any(unicodedata.category(c) == "Cc" or c in "\u202a\u202b\u202d\u202e\u2066\u2067" for c in text)
    assert fits(NAME, text) == (fits(LINE, text) and is_visible(text))
    assert fits(KEY, text) == (fits(LINE, text) and text != "")


@pytest.mark.parametrize("hidden", [*BREAKS, *"\0\x7f\xa0\xad\u061c\u200b\u200e\u202e\u2066\u2800\u3000\u3164\ufeff"])
@pytest.mark.parametrize("pattern", [LINE, NAME, KEY])
def test_hidden_anywhere(pattern: str, hidden: str) -> None:
    """At the beginning, inside or at the end: also where `$` would let a newline through."""
    for text in (hidden + "a", "a" + hidden + "a", "a" + hidden):
        assert not fits(pattern, text)


@pytest.mark.parametrize("pattern", [LINE, NAME, DESCRIPTION, KEY, EMAIL, PICTURE, USERNAME, EXTERNAL_ID, TIME])
def test_a_long_text_that_does_not_fit(pattern: str) -> None:
    """It costs as much for each of its characters as a short one."""
    began = time.thread_time()
    for start in ("", "a@", "https://a/", "1"):
        assert not fits(pattern, start + 60_000 * "a" + "\0")
    assert time.thread_time() - began < 30  # tried from each character on, it is minutes


def test_lines_of_a_description() -> None:
    """A newline ends a line, and nothing else does; among the lines there is something to see."""
    assert fits(DESCRIPTION, "\na\n\nb\n") and not fits(DESCRIPTION, "\n")
    for hidden in {*BREAKS, *"\0\t\x7f\xa0\u202e"} - {"\n"}:
        for text in (hidden + "a", "a" + hidden + "a", "a" + hidden):
            assert not fits(DESCRIPTION, text)


@pytest.mark.parametrize("text", ["👩\u200d👧", "❤\ufe0f", "नि\u200dयम", "a b", "é", "𝔘", "\U0001f1e9\U0001f1ea"])
def test_what_scripts_and_emoji_need(text: str) -> None:
    """Joiners and variation selectors may be among what is seen."""
    assert fits(NAME, text) and is_visible(text)


@pytest.mark.parametrize("text", ["", " ", "\u200d", "\ufe0f", "\n\t ", "\u3164", "\U000e0100", "\u2800"])
def test_nothing_to_see(text: str) -> None:
    """Is no name and no content."""
    assert not is_visible(text) and not fits(NAME, text)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("a", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("", False),
        ("a b", True),
        (" a", False),
        ("a ", False),
        (".a", False),
        ("a-", False),
        ("_a_", True),
        ("a@b+c.d", True),
        ("a\n", False),
        ("a\u115fb", False),
        ("名", True),
        ("a/b", False),
    ],
)
def test_usernames(name: str, is_one: bool) -> None:
    """1 to 64 letters, digits and a few signs inside, of any script."""
    assert fits(USERNAME, name) is is_one


@pytest.mark.parametrize(
    ("email", "is_one"),
    [("a@b", True), ("a", False), ("@b", False), ("a@", False), ("a@b@c", False), ("a b@c", False), ("a@b\n", False)],
)
def test_emails(email: str, is_one: bool) -> None:
    """One @ with something on both sides, and no space."""
    assert fits(EMAIL, email) is is_one


@pytest.mark.parametrize(
    ("url", "is_one"),
    [
        ("https://example.org", True),
        ("https://example.org/a.png?b=c#d", True),
        ("https://[2001:db8::1]:8443/a", True),
        ("https://[::]", True),
        ("https://[1:2:3:4:5:6:7:8]", True),
        ("https://[1::8]/", True),
        ("https://[3]/", False),
        ("https://[1:2:3:4:5:6:7]", False),
        ("https://[1:2:3:4:5:6:7:8:9]", False),
        ("https://[1::2::3]", False),
        ("https://[::12345]", False),
        ("https://[:]", False),
        ("https://example.org:65535", True),
        ("https://example.org:65536", False),
        ("https://example.org:999999", False),
        ("http://example.org", False),
        ("https://u@example.org", False),
        ("https://example.org/a b", False),
        ('https://example.org/"', False),
        ("https://example.org/<", False),
        ("https://example.org/'", False),
        ("https://example.org/a\n", False),
        ("https://exämple.org", False),
        ("https://", False),
        ("//example.org", False),
        ("data:image/png,", False),
    ],
)
def test_pictures(url: str, is_one: bool) -> None:
    """https only, ASCII, no user, nothing that would end an attribute."""
    assert fits(PICTURE, url) is is_one


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.characters(categories=["Cs"]))
def test_half_a_pair_is_no_text(text: str, half: str) -> None:
    """Wherever it stands; everything else is. So nothing that has one fits."""
    assert is_text(text) and not is_text(text + half) and not is_text(half + text)
    for pattern in (LINE, NAME, KEY, USERNAME):
        assert not fits(pattern, f"a{half}") and not fits(pattern, f"a{half}a") and not fits(pattern, half)
    assert not fits(EMAIL, f"a{half}@b") and not fits(PICTURE, f"https://a/{half}")


@given(st.integers(0, 2**64), st.integers(0, 5))
def test_numbers_come_back(number: int, zeros: int) -> None:
    """Written in ASCII digits, with zeros before it or none: within the bounds itself, beyond them none."""
    text = "0" * zeros + str(number)
    assert whole_number(text, 0, 2**63 - 1) == (number if number < 2**63 else None)
    assert whole_number(text, number, number) == (number if number < 10**19 else None)
    assert whole_number(text, number + 1, 2**65) is None


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", " 1", "1 ", "1_0", "1.0", "1e3", "0x1", "٣", "²", "１", "\ud800", "9" * 5000]
)
def test_numbers_that_are_none(text: str) -> None:
    """Python reads more as numbers than our clients write; none of it is one, and long ones cost nothing."""
    assert whole_number(text, -(2**63), 2**63 - 1) is None


def test_zeros() -> None:
    """However many, they are 0."""
    assert whole_number("0" * 5000, 0, 10) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2026-11-29T06:08:31Z", "2026-11-29T06:08:31+00:00"),
        ("2026-11-29T06:08:31.123999Z", "2026-11-29T06:08:31.123000+00:00"),
        ("2026-11-29T06:08:31.5+05:30", "2026-11-29T00:38:31.500000+00:00"),
        ("2026-06-31T00:00:00Z", "2026-07-01T00:00:00+00:00"),
        ("9999-12-31T23:59:59.999-01:00", "9999-12-31T23:59:59.999000+00:00"),
        ("9999-12-31T23:59:59.9999Z", "9999-12-31T23:59:59.999000+00:00"),
        ("1000-01-01T00:00:00+23:59", "0999-12-31T00:01:00+00:00"),
    ],
)
def test_times(text: str, said: str) -> None:
    """To the millisecond, in UTC; a day too many is the day after, and there is a last one."""
    found = time_of(text)
    assert found is not None and found.isoformat() == said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "noon",
        "2026-11-29",
        "2026-11-29T06:08:31",
        "2026-13-01T00:00:00Z",
        "2026-1-1T0:0:0Z",
        "2026-11-29T24:00:00Z",
        "2026-11-29T06:08:31Z\n",
        "٢٠٢٦-11-29T06:08:31Z",
        "0999-01-01T00:00:00Z",
    ],
)
def test_no_times(text: str) -> None:
    """Without a time zone, or of no calendar."""
    assert time_of(text) is None
