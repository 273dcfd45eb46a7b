"""server.hub.methods: what the methods do to the connection that calls them."""

import inspect
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from handlers.errors import ChatError
from handlers.model import Caller
from server.hub.methods import HubMethods
from server.protocol.signalr.messages import Completion
from store.errors import Unavailable
from store.ids import new_id
from store.redis.inbox_entries import disconnection_of
from tests.server.hub.test_connection import USER, Client, World, client, world

__all__ = ("client", "world")  # fixtures

BEFORE, AFTER = new_id(), new_id()  # sign-in sessions


class SignIns:
    """Whose tokens are good, and which sign-in sessions have ended. `gate`, if set, delays an answer; `meanwhile`
    happens once, behind what it says."""

    def __init__(self) -> None:
        self.ended: set[UUID] = set()
        self.gate: trio.Event | None = None
        self.meanwhile: Callable[[], None] = lambda: None
        self.away = self.is_gone = False

    async def verify(self, token: str) -> Caller:
        await trio.lowlevel.checkpoint()
        return Caller(USER, time.time() + 7200, session_id=AFTER)

    async def require_user(self, user_id: UUID) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_gone:
            raise ChatError("unauthenticated", "There is no such user (any more).")

    async def require_session(self, session_id: UUID) -> None:
        has_ended, is_away = session_id in self.ended, self.away
        gate, self.gate = self.gate, None
        if gate is not None:
            await gate.wait()
        await trio.lowlevel.checkpoint()
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        if is_away:
            raise Unavailable("away")
        if has_ended:
            raise ChatError("unauthenticated", "This session has ended.")


@pytest.fixture
def sign_ins(client: Client, world: World) -> SignIns:
    found = SignIns()
    parts: dict[str, Any] = dict.fromkeys(inspect.signature(HubMethods).parameters)
    methods = HubMethods(**{**parts, "sync": found, "verifier": found})
    world.dispatcher.add(methods.refresh_token)
    client.connection.caller = Caller(USER, time.time() + 3600, session_id=BEFORE)
    return found


async def test_another_token(client: Client, sign_ins: SignIns, autojump_clock: MockClock) -> None:
    """The connection goes on with it, and ends with its sign-in."""
    await client.call("RefreshToken", "token")
    assert client.connection.caller.session_id == AFTER and not client.connection.closed
    client.world.rooms.disconnect(disconnection_of(USER, BEFORE))
    assert not client.connection.closed
    client.world.rooms.disconnect(disconnection_of(USER, AFTER))
    assert client.connection.closed


async def test_a_token_of_who_is_gone(client: Client, sign_ins: SignIns, autojump_clock: MockClock) -> None:
    """A token is good for as long as it says, whatever has become of its user: they are looked up."""
    sign_ins.is_gone = True
    [answer] = await client.call("RefreshToken", "token")
    assert isinstance(answer, Completion) and "unauthenticated" in (answer.error or "")
    assert client.connection.caller.session_id == BEFORE


@pytest.mark.parametrize("has_ended", [True, False], ids=["of a session that has ended", "of a good one"])
async def test_the_sign_in_ends_while_another_token_is_looked_up(
    client: Client, sign_ins: SignIns, nursery: trio.Nursery, autojump_clock: MockClock, has_ended: bool
) -> None:
    """P9: while a token is looked up, the end of the sign-in with which the connection was made ends it, as ever: who
    shows one token after another is not spared it."""
    sign_ins.gate = gate = trio.Event()
    sign_ins.ended = {AFTER} if has_ended else set()
    nursery.start_soon(client.call, "RefreshToken", "token")
    await wait_all_tasks_blocked()
    client.world.rooms.disconnect(disconnection_of(USER, BEFORE))
    gate.set()
    await wait_all_tasks_blocked()
    assert client.connection.closed and "unauthenticated" in client.transport.why


@pytest.mark.parametrize("fault", ["it ends", "PostgreSQL is away", "the socket is lost"])
async def test_the_other_sign_in_ends_behind_its_look(
    client: Client, sign_ins: SignIns, nursery: trio.Nursery, autojump_clock: MockClock, fault: str
) -> None:
    """P9: what ends the other sign-in behind the look at it, and before the connection goes on with it, finds no
    connection that depends on it. So it is looked at once more; where that cannot be, the connection ends."""
    scope = trio.CancelScope()

    def end() -> None:
        sign_ins.ended.add(AFTER)
        client.world.rooms.disconnect(disconnection_of(USER, AFTER))
        sign_ins.away = fault == "PostgreSQL is away"
        sign_ins.gate = trio.Event() if fault == "the socket is lost" else None

    async def call() -> None:
        with scope:
            await client.call("RefreshToken", "token")

    sign_ins.meanwhile = end
    nursery.start_soon(call)
    await wait_all_tasks_blocked()
    scope.cancel()
    await wait_all_tasks_blocked()
    assert client.connection.closed
