"""Waiting for what becomes true without a word to the test: in another process, or in a part that notifies no one.

Owns the only loops that look again and again, and their bound, which no machine is too slow for. Where there is an
event to wait for, that is better. Also lets the code of this process wait as long.
"""

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

import pytest
import trio

from store.postgres.pool import Pool
from store.postgres.sessions import Connector

T = TypeVar("T")

WITHIN = 300.0  # seconds: long past anything but a hang
LOOK = 0.01  # seconds between two looks


Errors = type[Exception] | tuple[type[Exception], ...]


@overload
async def wait_until(condition: Callable[[], Awaitable[T | None]], *, despite: Errors = ()) -> T: ...


@overload
async def wait_until(condition: Callable[[], T | None], *, despite: Errors = ()) -> T: ...


async def wait_until(condition: Callable[[], object], *, despite: Errors = ()) -> object:
    """Look until what `condition` returns, or gives when it is awaited, is true; return that. What it raises of
    `despite` means not yet. Raises TooSlowError."""
    with trio.fail_after(WITHIN):
        while True:
            try:
                found = condition()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
            except despite:
                pass
            await trio.sleep(LOOK)  # the one place


def block_until(condition: Callable[[], T | None], said: Callable[[], object] = str, *, despite: Errors = ()) -> T:
    """The same without Trio. When it waits in vain the error has what `said` returns."""
    give_up = time.monotonic() + WITHIN
    while True:
        try:
            if found := condition():
                return found
        except despite:
            pass
        assert time.monotonic() < give_up, said()
        time.sleep(LOOK)  # the one place


def wait_for_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what this process makes from here on wait for a connection as long: on a busy machine one can take seconds,
    after which a caller is refused as if PostgreSQL were away."""
    for kind in (Pool, Connector):
        defaults = kind.__init__.__kwdefaults__
        assert defaults is not None
        monkeypatch.setitem(defaults, "acquire_timeout", WITHIN)
