"""server.rest.turns: the requests of one user are limited; each that ends in any way gives its turn to the next."""

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from handlers.errors import ChatError
from server.rest import turns
from server.rest.turns import AT_ONCE, WAITING, Turns
from tests.site import open_site
from tests.waiting import wait_until


class Clients:
    """Requests that take a turn and keep it until they are ended."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.turns = Turns()
        self.working: list[tuple[str, dict[str, Any]]] = []
        self._nursery = nursery

    def ask(self, user: str, name: str) -> trio.CancelScope:
        scope = trio.CancelScope()
        self._nursery.start_soon(self._ask, user, name, scope)
        return scope

    async def _ask(self, user: str, name: str, patience: trio.CancelScope) -> None:
        request: dict[str, Any] = {}
        with patience:
            await self.turns.take(request, user)
            self.working.append((name, request))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.working]


async def test_so_many_at_once(nursery: trio.Nursery) -> None:
    """The others of a user wait in order of arrival; other users do not wait; nothing is kept of users who left."""
    clients = Clients(nursery)
    for number in range(AT_ONCE + 3):
        clients.ask("alice", f"a{number}")
        await wait_all_tasks_blocked()
    assert clients.names == [f"a{number}" for number in range(AT_ONCE)]
    clients.ask("bob", "b")
    await wait_all_tasks_blocked()
    assert clients.names[-1] == "b"
    for number in range(3):
        clients.turns.end(clients.working[number][1])
        await wait_all_tasks_blocked()
        assert clients.names[-1] == f"a{AT_ONCE + number}"
    for _, request in clients.working:
        clients.turns.end(request)
        clients.turns.end(
            request
        )  # a second time, as when the client disconnects after the answer: no turn is returned twice
    assert not clients.turns._queues


async def test_so_many_wait(nursery: trio.Nursery) -> None:
    """One more is refused, with a time to retry; a cancelled request makes room and takes no turn."""
    clients = Clients(nursery)
    waiting = [clients.ask("alice", str(number)) for number in range(AT_ONCE + WAITING)]
    await wait_all_tasks_blocked()
    with pytest.raises(ChatError) as refused:
        await clients.turns.take({}, "alice")
    assert refused.value.code == "rate_limited" and refused.value.retry_after == turns.RETRY_AFTER
    assert clients.turns.refused == 1
    await clients.turns.take({}, "bob")
    given_up = [number for number in range(AT_ONCE + WAITING) if str(number) not in clients.names]
    for number in given_up:
        waiting[number].cancel()
    await wait_all_tasks_blocked()
    assert len(clients.working) == AT_ONCE and clients.turns._queues["alice"].requests == AT_ONCE
    clients.ask("alice", "late")
    await wait_all_tasks_blocked()
    clients.turns.end(clients.working[0][1])
    await wait_all_tasks_blocked()
    assert clients.names[-1] == "late"


async def test_requests_take_turns(
    database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over REST, views run at most AT_ONCE requests of a user; errors and disconnects return the turn."""
    async with open_site(database, redis_url, nursery) as site:
        (_, alice), (_, bob) = await site.user("alice"), await site.user("bob")
        inside, go_on = 0, trio.Event()
        most = 0
        view: Any = site.process.rest.app.view_functions["users.me"]

        async def slow() -> Any:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            try:
                await go_on.wait()
                return await view()
            finally:
                inside -= 1

        slow.__dict__.update(view.__dict__)
        monkeypatch.setitem(site.process.rest.app.view_functions, "users.me", slow)
        queues = site.process.answers.turns._queues
        done: list[str] = []

        async def ask() -> None:
            done.append((await site.call("GET", "/api/users/me", token=alice))["username"])

        async with trio.open_nursery() as hung_up:
            for _ in range(AT_ONCE + 2):
                hung_up.start_soon(ask)
            await wait_until(
                lambda: sum(queue.requests for queue in queues.values()) == AT_ONCE + 2 and inside == AT_ONCE
            )
            assert await site.call("GET", "/api/conversations", token=bob)
            hung_up.cancel_scope.cancel()
        await wait_until(lambda: not queues and not inside)
        async with trio.open_nursery() as requests:
            for _ in range(3 * AT_ONCE):
                requests.start_soon(ask)
            await wait_until(lambda: inside == AT_ONCE)
            go_on.set()
        assert done == ["alice"] * 3 * AT_ONCE and most == AT_ONCE
        for _ in range(2 * AT_ONCE):
            await site.call("GET", f"/api/conversations/{'0' * 32}", token=alice, status=404)
        await wait_until(lambda: not queues)
