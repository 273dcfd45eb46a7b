"""server.config.declaration: one field says all that is known about a setting."""

from dataclasses import dataclass
from typing import Any

import pytest

from server.config.declaration import (
    COUNT,
    DURATION,
    KEY,
    SERVICE_URL,
    SIZE,
    TEXT,
    TEXTS,
    Declaration,
    Section,
    accepted_by,
    settings_of,
)

SECTION = Section("Some")


def no_spaces(text: str) -> str:
    if " " in text:
        raise ValueError("expected no spaces")
    return text


@dataclass(frozen=True, kw_only=True)
class Some:
    few: int = SECTION.setting(COUNT, 3, "A count.", minimum=2, because="one is none", reloadable=True)
    soon: float = SECTION.setting(DURATION, 15.0, "A time.", above=0, maximum=90 * 60.0)
    room: int = SECTION.setting(SIZE, 2048, "A size.", minimum=1024, maximum=1 << 30)
    color: str = SECTION.setting(TEXT, "", "A choice.", choices=("red", "blue"), shown_default="required")
    words: tuple[str, ...] = SECTION.setting(TEXTS, (), "A list.", then=accepted_by(no_spaces))
    other: int = 0  # put together elsewhere


def test_what_a_field_says() -> None:
    """Everything that was declared, by name and in order; a field without a declaration is none."""
    found = settings_of(Some)
    assert list(found) == ["few", "soon", "room", "color", "words"]
    assert found["few"].reloadable and not found["soon"].reloadable
    assert [each.default_text for each in found.values()] == ["3", "15s", "2KiB", "required", ""]
    assert Some() == Some(few=3, soon=15.0, room=2048, color="", words=())


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [("few", "2", 2), ("soon", "1m", 60.0), ("color", "red", "red"), ("color", "", ""), ("words", "a, b,", ("a", "b"))],
)
def test_what_is_accepted(name: str, given: object, value: object) -> None:
    """As it is written; a choice may also stay open where it has no default."""
    assert settings_of(Some)[name].parse(given) == value


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        ("few", 1, "expected at least 2: one is none"),
        ("soon", "0", "expected more than 0, at most 90m"),
        ("soon", "2h", "expected more than 0, at most 90m"),
        ("room", "1023", "expected 1KiB to 1GiB"),
        ("room", "2GiB", "expected 1KiB to 1GiB"),
        ("color", "green", "expected one of red, blue"),
        ("words", "a, b c", "expected no spaces"),
        ("words", {"a": 1}, "expected a list of texts"),
    ],
)
def test_what_is_refused(name: str, given: object, sentence: str) -> None:
    """With what is expected."""
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        settings_of(Some)[name].parse(given)


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (KEY, ["***", "***"]),
        (SERVICE_URL, ["redis://:***@cache:6379/0", "user=x password=*** host=db"]),
        (TEXT, ["redis://:geheim@cache:6379/0", "host=db password='geheim' user=x"]),
    ],
)
def test_what_is_shown_of_secrets(kind: Any, shown: list[str]) -> None:
    """Of a key nothing, of a URL all but the password; what is no secret as it is. An empty one is empty."""
    declared = Declaration(section=SECTION, kind=kind, default="", about="A secret.")
    given = ["redis://:geheim@cache:6379/0", "host=db password='geheim' user=x"]
    assert [declared.redact(declared.parse(each)) for each in given] == shown
    assert declared.redact("") == ""
