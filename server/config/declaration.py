"""Declare settings: each is one field of a dataclass, with its metadata.

Owns the kinds of settings (how each is read, shown and hidden) and what is kept for each field. `settings` declares
with it; loading, the reload list, `parley serve --help` and docs/settings.md read it back with `settings_of`. Touches
nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from server.config import units, urls
from server.config.urls import HIDDEN


class Secret(str):
    """A string whose repr hides it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{HIDDEN}'"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of value: `name` for the documents; `parse` reads it, or raises ValueError with what is expected."""

    name: str
    parse: Callable[[Any], Any]
    show: Callable[[Any], str] = str
    redact: Callable[[Any], Any] | None = None  # of a secret: what of it may be shown
    is_file: bool = False  # a credential of this name is the file itself, not its content


def _text(given: object) -> str:
    if not isinstance(given, str):
        raise ValueError("expected text")
    return given


def _secret(given: object) -> Secret:
    return Secret(_text(given))


def _items(given: object, separator: str) -> tuple[str, ...]:
    items = given.split(separator) if isinstance(given, str) else given
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError("expected a list of texts")
    return tuple(item for item in map(str.strip, items) if item)


def _texts(given: object) -> tuple[str, ...]:
    return _items(given, ",")


def _secrets(given: object) -> tuple[Secret, ...]:
    return tuple(map(Secret, _items(given, "\n")))


def _hide(value: object) -> str:
    return HIDDEN


TEXT = Kind(name="text", parse=_text)
TEXTS = Kind(name="list, separated by commas", parse=_texts, show=",".join)
FILE = Kind(name="path of a file", parse=_text, is_file=True)
COUNT = Kind(name="whole number", parse=units.whole_number)
DURATION = Kind(name="duration", parse=units.duration, show=units.show_duration)
SIZE = Kind(name="size", parse=units.size, show=units.show_size)
RATE = Kind(name="rate", parse=units.rate, show=units.show_rate)
KEY = Kind(name="secret text", parse=_secret, redact=_hide)
KEYS = Kind(name="secret texts, one a line", parse=_secrets, redact=_hide, show="\n".join)
SERVICE_URL = Kind(name="URL, secret", parse=_secret, redact=urls.without_password)
HTTP_URL = Kind(name="URL", parse=_text, redact=urls.without_query)


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """The metadata of one setting, beside its name and type."""

    section: "Section"
    kind: Kind
    default: Any
    about: str  # one sentence, for `--help` and the page
    more: str = ""  # further sentences, for the page alone (Markdown)
    shown_default: str = ""  # in place of a default that says nothing by itself, such as an empty text
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    because: str = ""  # of the minimum
    choices: tuple[str, ...] = ()
    then: Callable[[Any], Any] | None = None  # turns what was parsed into the value; ValueError: what is expected
    reloadable: bool = False

    def parse(self, given: object) -> Any:
        """Return the value of what was given. Raises ValueError with what is expected."""
        value = self.kind.parse(given)
        if not self._is_within(value):
            raise ValueError(f"expected {self.range}")
        if self.choices and value not in self.choices and value != self.default:
            raise ValueError(f"expected one of {', '.join(self.choices)}")
        return value if self.then is None else self.then(value)

    def _is_within(self, value: Any) -> bool:
        if (self.minimum is not None and value < self.minimum) or (self.above is not None and value <= self.above):
            return False
        return self.maximum is None or value <= self.maximum

    @property
    def range(self) -> str:
        """The values that are accepted, in words; empty if all are."""
        most = None if self.maximum is None else self.kind.show(self.maximum)
        if self.minimum is not None:
            least = self.kind.show(self.minimum)
            found = f"at least {least}" if most is None else f"{least} to {most}"
        elif self.above is not None:
            found = f"more than {self.kind.show(self.above)}{'' if most is None else f', at most {most}'}"
        else:
            found = "" if most is None else f"at most {most}"
        return f"{found}: {self.because}" if self.because else found

    def redact(self, value: Any) -> Any:
        """Return `value` without secrets: keys hidden, URLs without their password."""
        return value if self.kind.redact is None or not value else self.kind.redact(value)

    @property
    def default_text(self) -> str:
        """The default as text; empty for none."""
        return self.shown_default or self.kind.show(self.default)


class Section:
    """Settings under one heading of the page."""

    def __init__(self, title: str) -> None:
        self.title = title

    def setting(self, kind: Kind, default: Any, about: str, **rest: Any) -> Any:
        """Return a field of a dataclass. `rest`: as in `Declaration`."""
        declared = Declaration(section=self, kind=kind, default=default, about=about, **rest)
        return field(default=default, metadata={"declaration": declared})


@cache
def settings_of(settings: type) -> Mapping[str, Declaration]:
    """Return the declared fields of a dataclass by name, in the order of declaration."""
    return {each.name: each.metadata["declaration"] for each in fields(settings) if "declaration" in each.metadata}


def accepted_by(parse: Callable[[str], object]) -> Callable[[Any], Any]:
    """For `then`: a text, or each text of a list, stays as it is if `parse` takes it."""

    def check(given: Any) -> Any:
        for text in (given,) if isinstance(given, str) else given:
            parse(text)
        return given

    return check
