"""store.search_text: text as it is searched."""

from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import search_text
from store.search_text import ALIKE, MAX_QUERY_TERMS, STEP, Kind, Match, Part, Query, Terms, Token, parse, tokens, utf16


def found(query: str, content: str, name: str | None = None) -> list[str] | None:
    """What is marked of a message that is found."""
    asked = parse(query)
    assert asked is not None
    matches = asked.find(content, name)
    return (
        matches
        if matches is None
        else [((name or "") if one.in_name else content)[one.start : one.end] for one in matches]
    )


@pytest.mark.parametrize(
    ("query", "content", "marked"),
    [
        ("strasse", "Die Straße.", ["Straße"]),
        ("CAFÉ naive", "a naïve cafe\u0301", ["naïve", "cafe\u0301"]),
        ("orsted", "Ørsted", ["Ørsted"]),
        ("привет", "ПРИВЕТ!", ["ПРИВЕТ"]),
        ("احمد", "أَحْمَد", ["أَحْمَد"]),
        ("हिन्दी", "हिन्दी में", ["हिन्दी"]),
        ("天气", "今天天气很好", ["天气"]),
        ("好", "今天天气很好", ["好"]),
        ("ガキ", "ｶﾞｷとガキ", ["ｶﾞｷ", "ガキ"]),
        ("น้ำ", "ที่นี่มีน้ำ", ["น้ำ"]),
        ("학교", normalize("NFD", "학교에서"), [normalize("NFD", "학교")]),
        ("iphone手机", "新iPhone手机壳", ["iPhone手机"]),
        ("don't", "I don't.", ["don't"]),
        ('"two words"', "two, words and two more", ["two, words"]),
        ('"two more" words', "two words and two more", ["words", "two more"]),
        ("wor*", "words of the world", ["words", "world"]),
        ("w*", "w words", ["w"]),
        ("2026-11-29", "on 2026-11-29 at noon", ["2026-11-29"]),
        ("strass", "Die Straße.", None),
        ("words two", "two", None),
        ('"words two"', "two words", None),
        ("气天", "今天天气很好", None),
    ],
)
def test_what_is_found(query: str, content: str, marked: list[str] | None) -> None:
    """Words, phrases and beginnings, in any script; case, accents and compatibility forms do not count."""
    assert found(query, content) == marked


def test_a_file_is_found_by_its_name() -> None:
    """With words of the content, too; no phrase goes from one into the other."""
    assert found("report noon", "at noon", "Report-3.PDF") == ["noon", "Report"]
    assert found("report-3.pdf", "", "Report-3.PDF") == ["Report-3.PDF"]
    assert found('"noon report"', "at noon", "Report-3.PDF") is None


@pytest.mark.parametrize("text", ["", "  ", "!?", '""', "*", "\u200d"])
def test_nothing_to_look_for(text: str) -> None:
    """Text without a letter or digit finds nothing; no text at all finds what has the marks."""
    assert parse(text) is None
    assert (parse(text, ["=f"]) == Query((), ("=f",))) is not bool(text.strip())


def test_offsets_are_utf_16() -> None:
    """As JavaScript counts: a character past U+FFFF is two."""
    content = "😀😀 noon"
    asked = parse("noon")
    assert asked is not None
    assert asked.find(content) == [Match(False, 3, 7)]
    assert (utf16(content, 3), utf16(content, 7)) == (5, 9)


def test_what_postgresql_is_asked_is_bounded() -> None:
    """The longest query has few terms; the rest of it is compared here."""
    asked = parse("漢字" * 128)
    assert asked is not None
    assert asked.row().count("<->") < MAX_QUERY_TERMS and asked.block().count("&") < MAX_QUERY_TERMS
    assert asked.find("漢字" * 127) is None and asked.find("漢字" * 128)
    many = parse(" ".join(f"w{number}" for number in range(60)))
    assert many is not None and many.row().count("&") == MAX_QUERY_TERMS - 1


def test_a_message_of_hostile_size() -> None:
    """One endless word, and more words than are counted, are cut."""
    terms = Terms(["=u1"])
    for text in ("x" * 1_000_000, "a b " * 20_000, "é" * 1000):
        for _ in terms.add(text):
            pass
    written = str(terms)
    assert len(written) < 400_000 and max(len(term) for term in written.split(" ")) < 200_000
    assert f"'{'x' * search_text.MAX_TERM}':1" in written


ASCII = st.text(alphabet=st.characters(max_codepoint=127), max_size=200) | st.text("ab _-'\\.", max_size=60)


@given(st.lists(ASCII | st.text(max_size=20), max_size=3))
def test_terms_stand_where_they_are(texts: list[str]) -> None:
    """Each term of each text is numbered in order, with a gap between texts; ASCII texts, which are taken apart in a
    way of their own, are no exception."""
    terms = Terms([])
    assert sum(sum(terms.add(text)) for text in texts) == sum(len([*tokens(text)]) for text in texts)
    at: dict[str, list[str]] = {}
    number = 0
    for text in texts:
        for token in tokens(text):
            number += 1
            at.setdefault(token.term.replace("\\", "\\\\").replace("'", "''"), []).append(str(number))
        number += 1
    assert str(terms) == " ".join(f"'{term}':{','.join(places)}" for term, places in at.items())


@given(st.text(max_size=80))
def test_any_text_finds_itself(text: str) -> None:
    """What was written is found when it is typed, as a phrase; terms stand where their characters do."""
    for token in tokens(text):
        assert 0 <= token.start < token.first_end <= token.end <= len(text)
    asked = parse('"' + text.replace('"', " ") + '"')
    if asked is not None:
        assert asked.find(text.replace('"', " ")) is not None


def spans(part: Part, given: list[Token]) -> set[tuple[int, int]]:
    """Where a part is, by comparing it with what begins at each term."""
    *begin, end = part.terms
    found = set()
    for first in range(len(given) - len(begin)):
        terms = [token.term for token in given[first : first + len(part.terms)]]
        last = given[first + len(begin)]
        if terms[:-1] == begin and (terms[-1].startswith(end) if part.is_prefix else terms[-1] == end):
            found.add((given[first].start, last.first_end if part.is_prefix else last.end))
    return found


SAID = st.text('ab \u00e9\u4e00\u4e8c*"', max_size=40)


@given(SAID, SAID, SAID)
def test_all_of_it_is_found(query: str, content: str, name: str) -> None:
    """Each character of each place in which a part is, and no other."""
    asked = parse(query)
    if asked is None:
        return
    found = asked.find(content, name)
    marked = set()
    for part in asked.parts:
        here = {
            (in_name, *span)
            for in_name, text in ((False, content), (True, name))
            for span in spans(part, [*tokens(text)])
        }
        if not here:
            assert found is None
            return
        marked |= {(in_name, index) for in_name, start, end in here for index in range(start, end)}
    assert found is not None
    assert {(one.in_name, index) for one in found for index in range(one.start, one.end)} == marked


@given(st.text(alphabet=st.characters(max_codepoint=127)) | st.text("aB _-'", max_size=60))
def test_ascii_is_text_like_any(text: str) -> None:
    """Its terms, which are found in a way of their own, are those of the same text among other characters."""
    assert [*tokens(text)] == [
        token for token in tokens(text + " \u00e9") if token.term != "e" or token.end <= len(text)
    ]
    assert all(token.kind is Kind.WORD for token in tokens(text))


@pytest.mark.parametrize(
    ("query", "content"),
    [
        ("a", "a b " * 8192),
        ("ab", "\u4e00\u4e8c" * 5461 + " ab"),
        (" ".join(f"w{number}" for number in range(60)), " ".join(f"w{number % 60}" for number in range(8000))),
        ('"' + "a " * 63 + "x " + "a " * 63 + 'a"', ("a " * 70 + "x ") * 230),
        (" ".join(f"{letter}a*" for letter in "abcdefgh"), " ".join(f"{'abcdefgh'[n % 8]}a{n}" for n in range(5000))),
    ],
)
def test_finding_takes_breaks(query: str, content: str) -> None:
    """However long a message is, and however much is asked for, few terms are looked at between two breaks."""
    asked = parse(query)
    assert asked is not None
    steps = [*asked.finding(content)]
    assert max(steps) <= STEP + MAX_QUERY_TERMS and sum(steps) >= len([*tokens(content)])
    assert asked.find(content)


def test_terms_that_do_not_begin_so_count() -> None:
    """Each beginning is compared with all terms of a message, also with those that are not like it."""
    terms = [f"z{number}" for number in range(30_000)]
    asked = parse(" ".join(f"{letter}b*" for letter in "abcdefgh"))
    assert asked is not None
    steps = [*asked.finding(" ".join([*(f"{letter}b" for letter in "abcdefgh"), *terms]))]
    assert max(steps) <= STEP + MAX_QUERY_TERMS and sum(steps) >= len(terms) * (1 + 8 / ALIKE)
