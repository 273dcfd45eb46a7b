"""Parameters of scenarios as options of the command line, as rows of a table, and checked.

Owns the mapping from the fields of a `Parameters` struct: types, descriptions and defaults are written once, there.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import click
import msgspec
from msgspec import Meta

from loadtest.scenarios.base import Common

_PLACE = re.compile(r"(?P<what>.*) - at `\$\.(?P<name>\w+)(?P<item>\[[^]]*\])?`", re.DOTALL)
_BOUND = re.compile(r"Expected `\w+` (?P<sign>[<>]=?) (?P<limit>[-\d.e]+)")
_UNKNOWN = re.compile(r"Object contains unknown field `(\w+)`")
_KINDS = {"int": "a whole number", "float": "a number", "array": "several, with commas between, at least one"}
_SIGNS = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}


class ParameterError(Exception):
    """A parameter has no such value, or there is no such parameter; the message says which."""


class Finite(click.FloatRange):
    """A number in a range, which neither `inf` nor `nan` is: click lets both pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"a finite number, not {value}", param, ctx)
        return number


class Parameter(NamedTuple):
    name: str
    kind: Any
    default: Any
    description: str
    common: bool  # every scenario has it

    @property
    def option(self) -> str:
        return _option(self.name)

    @property
    def shown(self) -> str:
        """The default, as one would type it."""
        if isinstance(self.default, tuple):
            return ",".join(str(item) for item in self.default)
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


def parameters(struct: type[Common]) -> list[Parameter]:
    """A scenario's own first."""
    hints = get_type_hints(struct, include_extras=True)
    common = set(Common.__struct_fields__)
    found = []
    for field in msgspec.structs.fields(struct):
        hint = hints[field.name]
        kind, description = hint, ""
        if get_origin(hint) is Annotated:
            kind, *notes = get_args(hint)
            descriptions = [note.description for note in notes if isinstance(note, Meta) and note.description]
            description = descriptions[0] if descriptions else ""
        found.append(Parameter(field.name, kind, field.default, description, field.name in common))
    return sorted(found, key=lambda parameter: parameter.common)


def options(struct: type[Common]) -> list[click.Option]:
    """Each without a default of its own: what is not given is the profile's, or the scenario's."""
    return [
        click.Option(
            [parameter.option],
            type=_click_type(parameter.kind),
            help=f"{parameter.description}  [default: {parameter.shown}]",
        )
        for parameter in parameters(struct)
    ]


def _click_type(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    return kind if kind in (int, float, str, bool) else str


def make(struct: type[Common], *given: Mapping[str, Any]) -> Common:
    """The parameters; what is given first goes before what is given later. Raises ParameterError."""
    values: dict[str, Any] = {}
    for mapping in given:
        for name, value in mapping.items():
            if value is not None:
                values.setdefault(name, value)
    for parameter in parameters(struct):
        if get_origin(parameter.kind) is tuple and isinstance(values.get(parameter.name), str):
            values[parameter.name] = [part for part in values[parameter.name].split(",") if part]
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ParameterError(f"{_option(name)}: a finite number, not {value}")
    try:
        made = msgspec.convert(values, struct, strict=False)
    except msgspec.ValidationError as error:
        raise ParameterError(in_words(str(error), values)) from None
    for name in struct.__struct_fields__:
        value = getattr(made, name)
        if isinstance(value, float) and not math.isfinite(value):  # as a text of a profile says it
            raise ParameterError(f"{_option(name)}: a finite number, not {value}")
    _require_mix(made)
    return made


def _require_mix(made: Common) -> None:
    """Raises ParameterError if nothing is left for arrivals to do, or more than there are of them."""
    if made.MIX and not any(getattr(made, name) for name in made.MIX):
        raise ParameterError(f"{_listed(made.MIX)}: one of these weights has to be more than 0")
    if sum(getattr(made, name) for name in made.PARTS) > 1:
        raise ParameterError(f"{_listed(made.PARTS)}: at most 1 together")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(_option, names))


def in_words(error: str, values: Mapping[str, Any]) -> str:
    """What msgspec says of a value, with the option that it was given by: `--rate: at least 0, not -1`."""
    if unknown := _UNKNOWN.match(error):
        return f"there is no parameter {_option(unknown[1])}"
    place = _PLACE.fullmatch(error)
    if place is None:
        return error
    given = values.get(place["name"])
    shown = ",".join(map(str, given)) if isinstance(given, list) else str(given)
    each = "each " if place["item"] else ""
    return f"{_option(place['name'])}: {each}{_wanted(place['what'])}, not {shown or 'nothing'}"


def _wanted(what: str) -> str:
    if bound := _BOUND.fullmatch(what):
        return f"{_SIGNS[bound['sign']]} {float(bound['limit']):g}"
    for kind, words in _KINDS.items():
        if what.startswith(f"Expected `{kind}`"):
            return words
    return "another value" if what.startswith("Invalid enum value") else what.replace("`", "")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
