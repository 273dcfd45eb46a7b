"""Maps and sets that clients fill: their keys hash with a key of this process, or their number is small."""

import inspect
from collections.abc import Iterator
from typing import Any, get_args, get_origin
from uuid import UUID

import pytest
from msgspec import Struct

from server.rest.operations import OPERATION
from store.ids import distinct
from tests.site import Site

CHOSEN = [UUID(int=1 + (number + 1) * (2**61 - 1)) for number in range(1000)]  # the same hash for all of them


def types_in(kind: Any, seen: set[Any]) -> Iterator[Any]:
    """The type and all types that it contains."""
    if kind in seen:
        return
    seen.add(kind)
    yield kind
    for part in get_args(kind):
        yield from types_in(part, seen)
    if inspect.isclass(kind) and issubclass(kind, Struct):
        for part in inspect.get_annotations(kind, eval_str=True).values():
            yield from types_in(part, seen)


async def test_no_input_is_keyed_by_uuids_or_numbers(site: Site) -> None:
    """No hub method and no body has such keys, whose hashes the client could choose."""
    inputs: list[Any] = []
    for method in site.process.hub.dispatcher.methods:
        inputs += [one.annotation for one in inspect.signature(method.call, eval_str=True).parameters.values()]
    for view in site.process.rest.app.view_functions.values():
        taken = getattr(view, OPERATION, None)
        inputs += [taken.takes] if taken is not None and taken.takes is not None else []
    found = [part for kind in inputs for part in types_in(kind, set())]
    assert len(inputs) > 30
    for part in found:
        if get_origin(part) in (dict, set, frozenset):
            assert get_args(part)[0] not in (UUID, int), part


def test_distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each id is returned once, in order, without using its hash."""

    def refuse(self: UUID) -> int:
        raise AssertionError("hashed")

    monkeypatch.setattr(UUID, "__hash__", refuse)
    assert distinct([*CHOSEN, *CHOSEN[:500]]) == CHOSEN


async def test_many_who_do_not_exist(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of a thousand chosen ids is refused without building a map or a set of them; the error names a few."""
    _, token = await site.user("alice")
    body = {"type": "Group", "memberIds": [str(one) for one in CHOSEN]}
    compared, equals = 0, UUID.__eq__

    def count(self: UUID, other: object) -> bool:
        nonlocal compared
        compared += 1
        return equals(self, other)

    monkeypatch.setattr(UUID, "__eq__", count)
    problem = await site.call("POST", "/api/conversations", body, token=token, status=404)
    assert compared < 20 * len(CHOSEN)
    assert len(problem["detail"]) < 1000 and "and others" in problem["detail"]
