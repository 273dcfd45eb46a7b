"""The Python client on both event loops against a server that fails: what an application sees, and what it must not."""

import base64
import copy
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import httpx
import parley_client
import pytest
from parley_client import ParleyError, engine
from parley_client.backoff import Backoff
from parley_client.errors import from_sentence
from parley_client.replica import OVERTAKEN
from parley_client.tokens import TokenGiver, expires_at

from tests.clients.fake_network import Network, network
from tests.clients.fake_server import Connection, Truth

WAIT = 600  # seconds: long past anything but a hang
ME, OTHER = "me", "other"
LOOPS = pytest.mark.parametrize("loop", ["trio", "asyncio"])


def run(loop: str, scenario: Callable[[Network, Truth], Awaitable[None]]) -> None:
    async def main() -> None:
        truth = Truth()
        with anyio.fail_after(WAIT):
            async with network(truth) as found:
                await scenario(found, truth)

    anyio.run(main, backend=loop)


async def until(condition: Callable[[], bool]) -> None:
    """Look until it is so: for what has no event."""
    while not condition():  # noqa: ASYNC110 (the one place that looks)
        await anyio.sleep(0.01)


async def until_shown(messages: parley_client.Subscription[parley_client.Message], last: str) -> list[str]:
    found: list[str] = []
    async for message in messages:
        if message.type is not parley_client.MessageType.SYSTEM:
            found.append(message.content)
        if message.content == last:
            break
    return found


@LOOPS
def test_nothing_is_lost_or_repeated(loop: str) -> None:
    """Answers that are lost after their messages were committed, cuts, a server that is away: everything is there once,
    in order, and the iterator goes on."""

    async def scenario(net: Network, truth: Truth) -> None:
        talk = truth.create(OTHER, ME)
        async with parley_client.connect(net.url, token=ME) as chat:
            messages, conversation = chat.messages(), chat.conversation(talk)
            net.loses_answers = True
            first = conversation.send("its answer is lost")
            second = conversation.send("and the next")
            await until(lambda: chat.state != "live")
            assert chat.reason is not None and chat.reason.code == "network"
            net.loses_answers = False
            assert (await first.committed()).content == "its answer is lost"
            await second.committed()
            net.refuses = True
            net.cut()
            truth.send(OTHER, talk, "missed")
            third = conversation.send("while it is away")
            await until(lambda: chat.state == "offline")
            net.refuses = False
            chat.connect_now()
            await third.committed()
            shown = await until_shown(messages, "while it is away")
            assert shown == ["its answer is lost", "and the next", "missed", "while it is away"]
            assert [one.seq for one in conversation.messages] == [2, 3, 4, 5]
            assert await conversation.load_older() == 1 and conversation.is_whole
            assert [one.seq for one in conversation.messages] == [1, 2, 3, 4, 5]

    run(loop, scenario)


@LOOPS
def test_errors_come_as_they_are(loop: str) -> None:
    """One error is one error: a refused token, the application's own, a chat that is closed, a cancellation."""

    async def scenario(net: Network, truth: Truth) -> None:
        net.tokens = {ME}
        with pytest.raises(ParleyError) as refused:
            async with parley_client.connect(net.url, token="somebody's"):
                pass
        assert refused.value.code == "unauthenticated" and refused.value.message == "The token is not good."
        with pytest.raises(ZeroDivisionError):
            async with parley_client.connect(net.url, token=ME):
                raise ZeroDivisionError
        with anyio.move_on_after(0.05) as scope:
            async with parley_client.connect("http://127.0.0.1:1", token=ME):
                pass
        assert scope.cancelled_caught
        with pytest.raises(ParleyError, match="looks like https://"):
            async with parley_client.connect("ftp://chat.example", token=ME):
                pass
        async with parley_client.connect(net.url, token=ME) as chat:
            messages = chat.messages()
            net.close_hubs("unauthenticated: The sign-in session has ended.", may_return=False)
            with pytest.raises(ParleyError) as closed:
                async for _ in messages:
                    pass
            assert closed.value.code == "unauthenticated" and chat.state == "closed"
            with pytest.raises(ParleyError):
                await chat.wait_live()

    run(loop, scenario)


@LOOPS
def test_nothing_waits_for_a_chat_that_is_closed(loop: str) -> None:
    """Closed by the server, or at the end of its block: what waits for a message, and what is asked for, says so."""

    async def scenario(net: Network, truth: Truth) -> None:
        talk = truth.create(OTHER, ME)
        async with parley_client.connect(net.url, token=ME) as chat:
            found, answer = chat.conversation(talk), truth.call
            truth.call = lambda *_: None  # type: ignore[method-assign]
            first, second, codes = found.send("one"), found.send("two"), []

            async def wait(done: Callable[[], Awaitable[object]]) -> None:
                with pytest.raises(ParleyError) as closed:
                    await done()
                codes.append(closed.value.code)

            async with anyio.create_task_group() as tasks:
                for done in (first.committed, second.committed, chat.flush):
                    tasks.start_soon(wait, done)
                await until(lambda: len(first._waiters) == 2 and len(second._waiters) == 1)
                net.close_hubs("unauthenticated: The sign-in session has ended.", may_return=False)
            await wait(second.committed)
            assert codes == ["unauthenticated"] * 4 and second.status == "pending"
            truth.call = answer  # type: ignore[method-assign]
        async with parley_client.connect(net.url, token=ME) as chat:
            found = chat.conversation(talk)
        codes.clear()
        asked: list[Callable[[], Awaitable[object]]] = [found.load_older, found.pins, chat.privacy]
        for one in [*asked, lambda: found.react("m", "x")]:
            await wait(one)
        assert codes == ["closed"] * 4

    run(loop, scenario)


@LOOPS
def test_a_drain_is_no_end(loop: str) -> None:
    """A Close that allows to come back: the states say what happens, and it goes on."""

    async def scenario(net: Network, truth: Truth) -> None:
        truth.create(OTHER, ME)
        async with parley_client.connect(net.url, token=ME, wait=False) as chat:
            events = chat.events()
            await chat.wait_live()
            net.close_hubs("draining: The server is shutting down.", may_return=True)
            states: list[str] = []
            async for event in events:
                if isinstance(event, parley_client.StateChanged):
                    states.append(event.state)
                    if event.state == "offline":
                        assert event.reason is not None and event.reason.code == "draining"
                    if states.count("live") == 2:
                        break
            assert states == ["catching_up", "live", "offline", "connecting", "catching_up", "live"]

    run(loop, scenario)


@LOOPS
def test_a_file_outlives_the_process(loop: str, tmp_path: Path) -> None:
    """What was unsent is sent by the next process, what it missed is new to it, and the list is there at once."""

    async def scenario(net: Network, truth: Truth) -> None:
        talk = truth.create(OTHER, ME)
        path = tmp_path / "chat.db"
        async with parley_client.connect(net.url, token=ME, store=parley_client.FileStore(path)) as chat:
            await chat.conversation(talk).send("one").committed()
            await until_shown(chat.messages(), "one")
            net.refuses = True
            net.cut()
            chat.conversation(talk).send("unsent")
            with pytest.raises(ParleyError, match="in use by another process"):
                await parley_client.FileStore(path).load()
        net.refuses = False
        truth.send(OTHER, talk, "missed")
        async with parley_client.connect(net.url, token=ME, store=parley_client.FileStore(path)) as chat:
            assert await until_shown(chat.messages(), "unsent") == ["missed", "unsent"]
            assert [one.content for one in chat.conversation(talk).messages] == ["one", "missed", "unsent"]
        async with parley_client.connect(net.url, token=OTHER, store=parley_client.FileStore(path)) as chat:
            assert not chat.conversation(talk).messages

    run(loop, scenario)


@LOOPS
def test_an_attempt_is_kept_before_it_is_made(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a store has unsent may be sent by another process, which has to know that it was sent before."""
    records: dict[str, bytes | None] = {}

    class Kept(parley_client.MemoryStore):
        async def save(self, changes: Mapping[str, bytes | None]) -> None:
            await anyio.sleep(0.001)
            records.update(changes)

    async def scenario(net: Network, truth: Truth) -> None:
        talk = truth.create(OTHER, ME)
        found: list[bytes] = []
        send = truth.send

        def noted(user: str, conversation_id: str, content: str, client_id: str | None = None, **more: Any) -> Any:
            found.append(records["attempts"] or b"")
            return send(user, conversation_id, content, client_id, **more)

        async with parley_client.connect(net.url, token=ME, store=Kept()) as chat:
            await chat.wait_live()
            net.refuses = True
            net.cut()
            await until(lambda: chat.state != "live")
            unsent = [chat.conversation(talk).send(content) for content in ("one", "two")]
            await until(lambda: unsent[1].id.encode() in (records.get("outbox") or b""))
            assert records["attempts"] == b"{}"
            monkeypatch.setattr(truth, "send", noted)
            net.refuses = False
            chat.connect_now()
            await chat.flush()
            assert [unsent[0].id.encode() in found[0], unsent[1].id.encode() in found[0]] == [True, False]
            assert unsent[1].id.encode() in found[1]

    run(loop, scenario)


@LOOPS
def test_a_store_that_stands_still_holds_nothing_up(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has is sent without it, and a chat whose store cannot be opened begins without one, and says so."""
    monkeypatch.setattr(engine, "PATIENCE", 0.01)
    monkeypatch.setattr(engine, "OPEN_TIMEOUT", 0.01)

    class Still(parley_client.MemoryStore):
        goes_on: anyio.Event | None = None

        async def _wait(self) -> None:
            if self.goes_on is not None:
                await self.goes_on.wait()

        async def load(self) -> dict[str, bytes]:
            await self._wait()
            return await super().load()

        async def save(self, records: Mapping[str, bytes | None]) -> None:
            await self._wait()
            await super().save(records)

    async def scenario(net: Network, truth: Truth) -> None:
        talk, store = truth.create(OTHER, ME), Still()
        async with parley_client.connect(net.url, token=ME, store=store) as chat:
            net.refuses = True
            net.cut()
            await until(lambda: chat.state != "live")
            unsent = [chat.conversation(talk).send(content) for content in ("one", "two")]
            await until(lambda: unsent[1].id.encode() in store._records.get("outbox", b""))
            store.goes_on = anyio.Event()
            net.refuses = False
            chat.connect_now()
            await chat.flush()
            store.goes_on.set()
        store.goes_on = anyio.Event()
        async with parley_client.connect(net.url, token=ME, store=store, wait=False) as chat:
            events = chat.events()
            error = None
            async for event in events:
                if isinstance(event, parley_client.ErrorOccurred):
                    error = event.error
                elif isinstance(event, parley_client.StateChanged) and event.state == "live":
                    break
            assert error is not None and error.code == "store"
            await chat.conversation(talk).send("three").committed()
            store.goes_on.set()
        assert [one["content"] for one in truth.talks[talk].in_order()][1:] == ["one", "two", "three"]

    run(loop, scenario)


@LOOPS
def test_a_store_that_is_full_for_a_while(loop: str) -> None:
    """It is said once. What could not be written is, as soon as that is possible: the next process is given nothing
    twice, and sends what waits."""

    class Full(parley_client.MemoryStore):
        refused = 0
        is_full = False

        async def save(self, records: Mapping[str, bytes | None]) -> None:
            if self.is_full:
                self.refused += 1
                raise ParleyError("store", "the disk is full")
            await super().save(records)

    async def scenario(net: Network, truth: Truth) -> None:
        talk, store = truth.create(OTHER, ME), Full()
        async with parley_client.connect(net.url, token=ME, store=store) as chat:
            messages, events = chat.messages(), chat.events()
            await until(lambda: "meta" in store._records)
            store.is_full = True
            for number in range(3):
                truth.send(OTHER, talk, f"while it is full {number}")
                refused = store.refused
                await until(lambda seen=refused: store.refused > seen)  # type: ignore[misc]
            assert await until_shown(messages, "while it is full 2")
            net.refuses = True
            net.cut()
            await until(lambda: chat.state == "offline")
            chat.conversation(talk).send("waits")
            store.is_full = False
            await until(lambda: b"waits" in store._records.get("outbox", b""))
            before = dict(store._records)
            said = [event async for event in _until_offline(events) if isinstance(event, parley_client.ErrorOccurred)]
            assert [event.error.code for event in said] == ["store"]
        store._records, net.refuses = before, False  # the process was killed
        async with parley_client.connect(net.url, token=ME, store=store) as chat:
            assert await until_shown(chat.messages(), "waits") == ["waits"]

    run(loop, scenario)


async def _until_offline(events: parley_client.Subscription[parley_client.Event]) -> AsyncIterator[parley_client.Event]:
    async for event in events:
        if isinstance(event, parley_client.StateChanged) and event.state == "offline":
            break
        yield event


@LOOPS
def test_one_write_at_a_time(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store is given one write after the other, so what is written later is what was so later: an attempt is noted
    behind a write that is under way, however long that takes."""
    monkeypatch.setattr(engine, "PATIENCE", 0.01)

    class Slow(parley_client.MemoryStore):
        goes_on: anyio.Event | None = None
        running = most = 0

        async def save(self, records: Mapping[str, bytes | None]) -> None:
            self.running += 1
            self.most = max(self.most, self.running)
            if self.goes_on is not None:
                await self.goes_on.wait()
            await super().save(records)
            self.running -= 1

    async def scenario(net: Network, truth: Truth) -> None:
        talk, store = truth.create(OTHER, ME), Slow()
        async with parley_client.connect(net.url, token=ME, store=store) as chat:
            net.refuses = True
            net.cut()
            await until(lambda: chat.state != "live")
            kept = chat.conversation(talk).send("one")
            await until(lambda: kept.id.encode() in store._records.get("outbox", b""))
            await until(lambda: not store.running)
            store.goes_on = anyio.Event()
            chat.conversation(talk).send("two")
            await until(lambda: store.running == 1)
            net.refuses = False
            chat.connect_now()
            await chat.flush()
            store.goes_on.set()
        assert store.most == 1

    run(loop, scenario)


@LOOPS
def test_a_write_that_is_cancelled_is_made_up_for(loop: str) -> None:
    """The program ends in the middle of a write to the store: the last one has what was in it."""

    class Slow(parley_client.MemoryStore):
        began: anyio.Event | None = None

        async def save(self, records: Mapping[str, bytes | None]) -> None:
            if self.began is not None and not self.began.is_set():
                self.began.set()
                await anyio.sleep_forever()
            await super().save(records)

    async def scenario(net: Network, truth: Truth) -> None:
        talk, store = truth.create(OTHER, ME), Slow()
        async with parley_client.connect(net.url, token=ME, store=store) as chat:
            await until(lambda: "meta" in store._records)
            net.refuses = True
            net.cut()
            store.began = anyio.Event()
            chat.conversation(talk).send("unsent")
            await store.began.wait()
        net.refuses = False
        async with parley_client.connect(net.url, token=ME, store=store) as chat:
            await chat.flush()
        assert [one["content"] for one in truth.talks[talk].in_order()][1:] == ["unsent"]

    run(loop, scenario)


@LOOPS
def test_a_damaged_file_is_begun_anew(loop: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One warning, and no crash: neither for what is no database, nor for another format, nor for another content."""

    async def load(path: Path) -> dict[str, bytes]:
        store = parley_client.FileStore(path)
        try:
            await store.save({"meta": b"x"}) if await store.load() else None
            return await store.load()
        finally:
            await store.aclose()

    path = tmp_path / "chat.db"
    path.write_bytes(b"this is no database" * 1000)
    assert anyio.run(load, path, backend=loop) == {}
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("PRAGMA user_version = 99")
    other.close()
    assert anyio.run(load, tmp_path / "other.db", backend=loop) == {}
    assert [record.levelname for record in caplog.records if record.name == "parley_client"] == ["WARNING"] * 2


@LOOPS
def test_a_server_that_is_away_is_waited_for_with_one_warning(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    """Who has mistyped its URL hears of it; who has been connected has `state` and `reason` to look at."""

    async def scenario(net: Network, truth: Truth) -> None:
        net.refuses = True
        async with parley_client.connect(net.url, token=ME, wait=False) as chat:
            events = chat.events()
            for refuses in (True, False):
                async for event in events:
                    if isinstance(event, parley_client.StateChanged) and event.state == "offline":
                        break
                net.refuses = refuses
                chat.connect_now()
            await chat.wait_live()
            net.refuses = True
            net.cut()
            await until(lambda: chat.state == "offline")

    run(loop, scenario)
    [warning] = [record for record in caplog.records if record.name == "parley_client"]
    assert warning.levelname == "WARNING" and "again: network: http://" in warning.getMessage()


@LOOPS
def test_a_token_is_renewed_on_the_socket(loop: str) -> None:
    """Before it ends, and without another connection; one that is refused is asked for anew once."""

    async def scenario(net: Network, truth: Truth) -> None:
        truth.create(OTHER, ME)
        given: list[str] = []

        async def token() -> str:
            body = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + 1}).encode()).decode().rstrip("=")
            given.append(f"{ME}/{len(given)}.{body}.x")
            return given[-1]

        async with parley_client.connect(net.url, token=token) as chat:
            await until(lambda: len(net.renewed) >= 2)
            assert chat.state == "live" and len(net.shown) == 1 and {*net.renewed} <= {*given[1:]}
            net.tokens = {ME}
            net.cut()
            messages = chat.messages()
            with pytest.raises(ParleyError) as refused:
                await anext(messages)
            assert refused.value.code == "unauthenticated"

    run(loop, scenario)


@LOOPS
def test_a_token_that_the_server_could_not_take_is_said_again(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though another one is not due for long: the connection ends with the one that it has."""

    async def scenario(net: Network, truth: Truth) -> None:
        truth.create(OTHER, ME)
        call = truth.call
        lives = [1.0, 3600.0]

        def token() -> str:
            return f"{ME}/{len(lives)}.{_token(exp=time.time() + lives.pop(0)).split('.')[1]}.x"

        def fail_once(connection: Connection, call_id: str, target: str, arguments: list[Any]) -> None:
            if target == "RefreshToken":
                monkeypatch.setattr(truth, "call", call)
                connection.answer(call_id, error="unavailable: Not now.")
            else:
                call(connection, call_id, target, arguments)

        monkeypatch.setattr(truth, "call", fail_once)
        async with parley_client.connect(net.url, token=token) as chat:
            await until(lambda: len(net.renewed) == 2)
            assert net.renewed[0] == net.renewed[1] and len(net.shown) == 1 and chat.state == "live"

    run(loop, scenario)


@LOOPS
def test_what_is_no_text_is_refused_at_once(loop: str) -> None:
    """Half a surrogate pair, which no server takes and no store keeps: the caller hears of it, and the chat goes on."""

    async def scenario(net: Network, truth: Truth) -> None:
        talk = truth.create(OTHER, ME)
        async with parley_client.connect(net.url, token=f" {ME}\n") as chat:
            found = chat.conversation(talk)
            with pytest.raises(ParleyError) as refused:
                found.send("\udcff")
            assert refused.value.code == "invalid_content"
            for attempt in (found.edit("1", "\udcff"), chat.find_user("\udcff"), chat.group("\udcff")):
                with pytest.raises(ParleyError) as refused:
                    await attempt
                assert refused.value.code == "invalid_request"
            assert (await found.send("a text").committed()).content == "a text" and chat.state == "live"
        for token in ("", "two words", "schlüssel"):
            with pytest.raises(ParleyError, match="this is no access token"):
                async with parley_client.connect(net.url, token=token):
                    pass

    run(loop, scenario)


@LOOPS
def test_another_server_altogether(loop: str) -> None:
    """What is no Parley's answer is one error, whatever was asked for."""

    async def scenario(net: Network, truth: Truth) -> None:
        net.says = b"<html>welcome</html>"
        with pytest.raises(ParleyError, match="the server answered what is not understood"):
            await parley_client.register(net.url, "me")
        with pytest.raises(ParleyError, match="the server answered what is not understood"):
            await parley_client.Session(net.url, "a refresh token")()
        with pytest.raises(ParleyError, match="the server answered what is not understood"):
            async with parley_client.connect(net.url, token=ME):
                pass

    run(loop, scenario)


@LOOPS
@pytest.mark.parametrize("status", [403, 404])
def test_what_stands_before_a_server_answers_in_its_place(
    loop: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A balancer that has no server just then, or takes the client for an attacker, says nothing of a conversation: it
    stays, and so does what waits in it. To one who begins it is said at once."""
    monkeypatch.setattr("random.random", lambda: 0.0)  # no waits between attempts

    async def scenario(net: Network, truth: Truth) -> None:
        talk, asked = truth.create(OTHER, ME), 0

        def details(info: Any) -> tuple[int, Any]:
            nonlocal asked
            asked += 1
            return (status, None) if asked <= 8 else (200, info)

        async with parley_client.connect(net.url, token=ME) as chat:
            found, events, net.details = chat.conversation(talk), chat.events(), details
            truth.send(OTHER, talk, "lost")
            truth.go_back(talk, 1)
            truth.talks[talk].name = "a new name"
            truth.send(OTHER, talk, "instead")
            await until(lambda: found.name == "a new name" or found.is_removed)
            assert not found.is_removed and chat.conversation(talk) is found
            await found.send("mine").committed()
            codes = set()
            async for event in events:
                if isinstance(event, parley_client.ErrorOccurred):
                    codes.add(event.error.code)
                elif isinstance(event, parley_client.MessageSent):
                    break
            assert codes == {"forbidden" if status == 403 else "unavailable"}
        net.tokens, net.status = {OTHER}, status
        with pytest.raises(ParleyError, match=f"answered with status {status}"):
            async with parley_client.connect(net.url, token=ME):
                pass

    run(loop, scenario)


@LOOPS
def test_a_refresh_that_is_cancelled(loop: str) -> None:
    """The refresh token that the server gives is kept, though the one who asked has left: the old one is spent."""

    async def scenario(net: Network, truth: Truth) -> None:
        net.says = b'{"accessToken": "e30.e30.x", "refreshToken": "second"}'
        release = net.refresh_waits_for = anyio.Event()
        kept: list[str] = []
        session = parley_client.Session(net.url, "first", on_refresh=kept.append)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session)
            await until(lambda: net.refresh_waits_for is None)
            tasks.cancel_scope.cancel()
            release.set()
        assert (session.refresh_token, kept) == ("second", ["second"])

    run(loop, scenario)


@LOOPS
def test_a_status_is_what_the_history_says(loop: str) -> None:
    """A message that was read and is lost is pending, and then sent; one that is still there has the receipts that the
    server says by then."""

    async def scenario(net: Network, truth: Truth) -> None:
        talk = truth.create(OTHER, ME)
        async with parley_client.connect(net.url, token=ME) as chat:
            events, found = chat.events(), chat.conversation(talk)
            mine = found.send("mine")
            await mine.committed()
            truth.mark_read(OTHER, talk)
            await until(lambda: mine.status == "read")
            assert mine.message is not None and found.status(mine.message) == "read"
            truth.go_back(talk, 1)
            truth.send(OTHER, talk, "instead")
            statuses: list[str] = []
            async for event in events:
                if isinstance(event, parley_client.ConversationReset):
                    statuses.append(mine.status)
                elif statuses and isinstance(event, parley_client.MessageSent):
                    break
            assert statuses == ["pending"] and mine.status == "sent"
            truth.mark_read(OTHER, talk)
            await until(lambda: mine.status == "read")
            truth.talks[talk].read[OTHER] = 1  # of the receipts less came back than of the messages
            net.cut()
            await until(lambda: mine.status == "sent")
            assert found.status(mine.message) == "sent"

    run(loop, scenario)


@LOOPS
def test_a_page_that_comes_after_a_reset(loop: str) -> None:
    """It was asked for in a history that is lost: it is not shown, but asked for again."""

    async def scenario(net: Network, truth: Truth) -> None:
        talk = truth.create(OTHER, ME)
        for number in range(5):
            truth.send(OTHER, talk, f"one {number}")
        async with parley_client.connect(net.url, token=ME) as chat:
            events, found, comes = chat.events(), chat.conversation(talk), anyio.Event()
            net.page_waits_for = comes
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(found.load_older)
                await until(lambda: net.page_waits_for is None)
                truth.go_back(talk, 3)
                for number in range(4):
                    truth.send(OTHER, talk, f"two {number}")
                async for event in events:
                    if isinstance(event, parley_client.ConversationReset):
                        break
                comes.set()
            while await found.load_older():
                pass
            true = [one["content"] for one in truth.talks[talk].in_order()]
            await until(lambda: [message.content for message in found.messages] == true)
            assert found.is_whole

    run(loop, scenario)


@pytest.mark.parametrize("answers", ["older", "always older", "errors", "not found"])
def test_details_are_asked_for_until_they_are_new(answers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a Resync: an answer that is older than what came is not taken, and asked for again, but not for ever; an
    error is said; a conversation that is not there is gone."""
    monkeypatch.setattr("random.random", lambda: 0.0)  # no waits between them

    async def scenario(net: Network, truth: Truth) -> None:
        talk = truth.create(OTHER, ME)
        for number in range(5):
            truth.send(OTHER, talk, str(number))
        asked = 0

        def details(info: Any) -> tuple[int, Any]:
            nonlocal asked
            asked += 1
            if answers == "errors" and asked <= 6:  # as often as one request is repeated
                return 503, {"code": "unavailable", "detail": "Not now."}
            if answers == "not found":
                return 404, {"code": "not_found", "detail": "There is no such conversation."}
            if answers == "always older" or (answers == "older" and asked < 4):
                return 200, {**info, "lastSeq": 1, "name": "an old name"}
            return 200, info

        async with parley_client.connect(net.url, token=ME) as chat:
            found, events, net.details = chat.conversation(talk), chat.events(), details
            truth.go_back(talk, 3)
            truth.talks[talk].name = "a new name"
            truth.send(OTHER, talk, "instead")
            if answers == "not found":
                await until(lambda: found.is_removed)
                with pytest.raises(ParleyError, match="there is no conversation"):
                    chat.conversation(talk)
            elif answers == "always older":
                await until(lambda: asked == OVERTAKEN)
                await until(lambda: not chat._replica.outdated())
                assert found.name == "a group"
            else:
                await until(lambda: found.name == "a new name")
                assert asked == {"older": 4, "errors": 7}[answers]
            truth.say_details(talk, "the newest")
            if not found.is_removed:
                await until(lambda: found.name == "the newest")
                assert asked == {"older": 4, "errors": 7, "always older": OVERTAKEN}[answers]
            net.close_hubs("closed: the end", may_return=False)
            errors: list[str] = []
            with pytest.raises(ParleyError):
                async for event in events:
                    if isinstance(event, parley_client.ErrorOccurred):
                        errors.append(event.error.message)
            assert errors == (["Not now."] if answers == "errors" else [])

    run("trio", scenario)


def test_waits_grow_with_jitter() -> None:
    """Each wait is between nothing and its limit, which doubles up to half a minute; never less than was asked for."""
    backoff = Backoff()
    waits = [[one.next() for _ in range(12)] for one in [Backoff() for _ in range(200)]]
    for number, limit in enumerate([0.5, 1, 2, 4, 8, 16, 30, 30]):
        found = [wait[number] for wait in waits]
        assert min(found) >= 0 and max(found) <= limit and max(found) - min(found) > limit / 2
    assert backoff.next(5.0) >= 5.0


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.1:5000/", "http://127.0.0.1:5000"),
        ("chat.example", "https://chat.example"),
        ("wss://chat.example/hubs/chat", "https://chat.example"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        (" HTTPS://Chat.Example:443/base/ ", "https://chat.example/base"),
        ("ftp://chat.example", None),
        ("http://", None),
        ("http://a b", None),
        ("[::1", None),
        ("localhost:http", None),
        ("localhost:99999", None),
        ("http://schlüssel..b", None),
    ],
)
def test_urls(given: str, meant: str | None) -> None:
    """A URL is taken as it was meant, one server has one, and what is none is refused."""
    if meant is None:
        with pytest.raises(ParleyError, match="is no URL of a server: it looks like https://"):
            parley_client.server_url(given)
    else:
        assert parley_client.server_url(given) == meant


@pytest.mark.parametrize(("asked", "most"), [(2_592_000.0, 3600), (float("inf"), 3600), (float("nan"), 0), (-5.0, 0)])
def test_waits_are_bounded(asked: float, most: float) -> None:
    """Whatever a server, or a proxy before it, asks for."""
    assert most <= Backoff(first=0.0).next(asked) <= most


@pytest.mark.parametrize("token", ["", "x", "x.y.z", "a.eyJleHAiOiJ4In0.b"])
def test_tokens_that_say_nothing(token: str) -> None:
    """A token that is no JWT is good until the server says otherwise."""
    assert expires_at(token, time.time()) is None


@LOOPS
def test_a_token_function_that_asks_a_server_which_fails(loop: str) -> None:
    """An answer that is an error is one of the chat's: it goes on where that passes."""
    statuses = [200, 503, 429, 200]

    async def scenario(net: Network, truth: Truth) -> None:
        truth.create(OTHER, ME)

        async def token() -> str:
            answer = httpx.Response(statuses.pop(0), request=httpx.Request("GET", "http://tokens/"))
            answer.raise_for_status()
            return f"{ME}/{len(statuses)}"  # of which the last one is good, by then

        async with parley_client.connect(net.url, token=token) as chat:
            net.tokens = {f"{ME}/0"}
            net.cut()
            await until(lambda: net.shown[-1] == f"{ME}/0")
            await chat.wait_live()

    run(loop, scenario)


@pytest.mark.parametrize("hours", [-5, 0, 5])
def test_tokens_by_a_clock_that_is_wrong(hours: int) -> None:
    """A token is good for as long as it says, whatever the time is here: the application is asked for one, once."""
    given: list[str] = []

    def token() -> str:
        iat = time.time() + hours * 3600
        given.append(_token(iat=iat, exp=iat + 900) + str(len(given)))
        return given[-1]

    async def main() -> None:
        tokens = TokenGiver(token)
        for _ in range(3):
            assert await tokens.current() == given[0]
        left = tokens.seconds_left()
        assert left is not None and 0 < left <= 840

    anyio.run(main)
    now = time.time()
    assert expires_at(_token(exp=now - 9), now) == now + 300 and expires_at(_token(exp=now + 9000), now) == now + 9000


def _token(**claims: float) -> str:
    return f"a.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.b"


@pytest.mark.parametrize(
    ("sentence", "code", "message", "retry_after", "fields"),
    [
        ("gone: It was deleted.", "gone", "It was deleted.", None, {}),
        ('rate_limited: Wait 1.25 s.\n{"retryAfterMs":1250}', "rate_limited", "Wait 1.25 s.", 1.25, {}),
        ('too_large: x.\n{"fields":{"content":"32 KiB"},"new":1}', "too_large", "x.", None, {"content": "32 KiB"}),
        ("conflict: one\ntwo", "conflict", "one\ntwo", None, {}),
        (
            "An unexpected error occurred invoking 'X'",
            "internal",
            "An unexpected error occurred invoking 'X'",
            None,
            {},
        ),
    ],
)
def test_sentences(sentence: str, code: str, message: str, retry_after: float | None, fields: dict[str, str]) -> None:
    """An error of the hub has a line for people, and one for programs where they can know more."""
    found = from_sentence(sentence)
    assert (found.code, found.message, found.retry_after, found.fields) == (code, message, retry_after, fields)


def test_an_error_survives_pickling() -> None:
    """It can be handed to another process, as pools of workers do."""
    error: Any = copy.copy(ParleyError("rate_limited", "wait", retry_after=1.5, fields={"a": "b"}, until="then"))
    assert (error.code, error.message, error.retry_after, error.fields) == ("rate_limited", "wait", 1.5, {"a": "b"})
    assert error.until == "then"
    assert from_sentence('muted: Not now.\n{"until":"then"}').until == "then"
