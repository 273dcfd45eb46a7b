"""The connection, for as long as the chat is open: made, caught up, kept, lost, and made anew.

Owns every task of a chat: the loop that connects, and, for each connection, what catches up, sends, reads anew, gives
receipts and renews the token; beside them what writes to the store. What they change is the replica.
"""

import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.abc
import msgspec

from parley_client.backoff import Backoff
from parley_client.conversation import Conversation
from parley_client.errors import Lost, NotUnderstood, ParleyError
from parley_client.events import Broadcaster, ErrorOccurred, State, StateChanged
from parley_client.groups import single
from parley_client.hub import Closed, Hub, open_hub
from parley_client.model import (
    Block,
    ConversationInfo,
    Cursor,
    Message,
    Page,
    Presence,
    Synced,
    ThreadState,
    User,
    decoded,
)
from parley_client.outbox import Entry
from parley_client.replica import Replica
from parley_client.rest import Rest
from parley_client.store import Store
from parley_client.tokens import TokenGiver

PAGE = 200  # the most that the server gives at once
NAMED = 100  # cursors in one call: a hub message has 32 KiB
SAVE_PAUSE = 0.25  # seconds in which changes are gathered for the store
MARK_PAUSE = 0.2  # the same for receipts
CLOSE_TIMEOUT = 30.0  # seconds for the last write to the store
OPEN_TIMEOUT = 10.0  # seconds for what it has; then the chat goes on without it
PATIENCE = 2.0  # seconds for which a message waits for the store, before it is sent
SETTLED = 10.0  # seconds for which a connection has to last before the next wait is short again
_log = logging.getLogger("parley_client")
T = TypeVar("T")


class Engine:
    """Runs until it is cancelled, or the server says that coming back is of no use."""

    def __init__(
        self,
        url: str,
        tokens: TokenGiver,
        rest: Rest,
        store: Store,
        broadcaster: Broadcaster,
        make_replica: Callable[[Callable[[], None]], Replica],
        *,
        gives_delivered: bool,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._url = url
        self._tokens = tokens
        self._rest = rest
        self._store = store
        self._broadcaster = broadcaster
        self.replica = make_replica(self.wake)
        self._gives_delivered = gives_delivered
        self._ssl_context = ssl_context
        self.state: State = "connecting"
        self.reason: ParleyError | None = None
        self.me: User | None = None
        self._hub: Hub | None = None
        self._work = anyio.Event()
        self._to_save = anyio.Event()
        self._attempts_to_save = anyio.Event()
        self._attempts_saved = anyio.Event()  # by the next write of them to begin
        self._changed = anyio.Event()  # the state, or what is read anew
        self._at_once = anyio.Event()
        self._busy: set[str] = set()  # conversations in which something is sent, or that are read anew
        self._store_failed = False  # at the beginning: what it has is not known, and is left as it is
        self._is_saved = True  # what is to be saved by now, as far as that was tried
        self._saving = anyio.Lock()  # what is written later is what was so later

    # -- for the application -------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There is something to do."""
        self._work.set()
        self._to_save.set()

    def take_me(self, me: User) -> None:
        """The user has changed their account."""
        self.me = me

    def connect_now(self) -> None:
        """Do not wait for the next attempt any longer."""
        self._at_once.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so. Raises what has closed the chat."""
        while not is_so():
            await self._changes()

    async def _changes(self) -> None:
        if self.state == "closed":
            raise self.reason or ParleyError("closed", "the chat was closed")
        await self._changed.wait()

    async def call(self, target: str, *arguments: object, kind: Any, done_already: str | None = None) -> Any:
        """Call a hub method that may be repeated, on this connection or a later one, until it is answered.

        `done_already` is the code of the error that a repetition gets if the first call was carried out.
        """
        backoff, lost = Backoff(), None
        while True:
            hub = await self._connected(lost)
            try:
                return decoded(await hub.invoke(target, *arguments), kind)
            except Lost:
                lost = hub
            except ParleyError as error:
                if lost is not None and error.code == done_already:
                    return None
                if not error.is_retryable:
                    raise
                await anyio.sleep(backoff.next(error.retry_after))

    async def _connected(self, other_than: Hub | None) -> Hub:
        """Wait for a connection that is caught up, and not this one. Raises what has closed the chat."""
        while (hub := self._hub) is None or hub is other_than:
            await self._changes()
        return hub

    def say(self, target: str, *arguments: object) -> None:
        """Call a hub method if there is a connection, and forget it."""
        if self._hub is not None:
            try:
                self._hub.send(target, *arguments)
            except Lost:
                pass

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            with single():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._save_always)
                    tasks.start_soon(self._save_attempts)
                    tasks.start_soon(self._expire)
                    await self._connect_always()
                    tasks.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self._save()
            self._close(None)

    async def _connect_always(self) -> None:
        backoff, has_renewed = Backoff(), False
        while True:
            self._become("connecting")
            began = anyio.current_time()
            try:
                await self._connect_once()
                raise AssertionError("a connection ends with an error")
            except ParleyError as error:
                if self.state == "live" and anyio.current_time() - began > SETTLED:
                    backoff.reset()
                if self.state in ("catching_up", "live"):
                    has_renewed = False
                if isinstance(error, Closed) and error.has_expired and self._tokens.can_renew:
                    pass  # the next attempt takes a new one
                elif error.code == "unauthenticated" and self._tokens.can_renew and not has_renewed:
                    has_renewed = await self._renew()  # where none could be had, another attempt asks again
                    if has_renewed:
                        continue
                elif self._is_final(error):
                    self._close(error)
                    return
                self._become("offline", error)
                await self._pause(backoff.next(error.retry_after))

    def _is_final(self, error: ParleyError) -> bool:
        """Whether the next attempt would end as this one did."""
        if isinstance(error, Closed):
            return not error.may_return
        # A balancer in front of instances that come and go says many things: at first they are the user's to see.
        if self.me is None and (isinstance(error, NotUnderstood) or not error.is_retryable):
            return True
        return error.code in ("unauthenticated", "banned", "forbidden")

    async def _pause(self, seconds: float) -> None:
        self._at_once = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._at_once.wait()

    async def _renew(self) -> bool:
        try:
            await self._tokens.renew(await self._tokens.current())
        except ParleyError as error:
            if not error.is_retryable:
                raise
            return False
        return True

    async def _connect_once(self) -> None:
        """One connection, from its beginning to the error that it ends with."""
        token = await self._tokens.current()
        if self.me is None:
            await self._begin(await self._rest.get("/api/users/me", User, attempts=1))
        try:
            async with open_hub(self._url, token, self._take, ssl_context=self._ssl_context) as hub:
                self._become("catching_up")
                await self._sync(hub)
                with single():
                    async with anyio.create_task_group() as tasks:
                        self._hub = hub
                        self._notify()
                        tasks.start_soon(self._keep_token, hub, token)
                        tasks.start_soon(self._work_on, hub, tasks)
                        await self._refresh()
                        await self.until(lambda: not self.replica.stale())
                        self._become("live")
                        await anyio.sleep_forever()
        finally:
            self._hub = None
            self._busy.clear()
            self.replica.lost()
            self._notify()
        raise Lost("the connection was lost")

    async def _begin(self, me: User) -> None:
        """It is known who the user is: go on from what the store has of them."""
        records: dict[str, bytes] = {}
        try:
            records = await self._in_time(self._store.load)
        except ParleyError as error:
            self._no_store(error)
        self.me = me
        try:
            if self.replica.restore(records, me.id, self._url) or not records:
                return
            _log.warning("the store is another user's, or another server's: it is begun anew")
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            _log.warning("the store cannot be read, and is begun anew: %s", error)
        try:
            await self._in_time(self._store.clear)
        except ParleyError as error:
            self._no_store(error)

    @staticmethod
    async def _in_time(work: Callable[[], Awaitable[T]]) -> T:
        """Raises ParleyError where the store stands still."""
        with anyio.move_on_after(OPEN_TIMEOUT):
            return await work()
        raise ParleyError("store", f"it did not answer within {OPEN_TIMEOUT:g} seconds")

    def _take(self, target: str, arguments: msgspec.Raw) -> None:
        try:
            self.replica.take(target, arguments)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            # Passing it over could hide a message: the connection ends, and what it was is asked for again.
            raise ParleyError("internal", f"{target} is not understood: {error}") from None

    # -- catching up ---------------------------------------------------------------------------------------------------

    async def _sync(self, hub: Hub) -> None:
        cursors, others = self.replica.begin_sync()
        named = list(cursors.items())
        while len(named) > NAMED:
            part, named = named[:NAMED], named[NAMED:]
            self.replica.take_synced(await self._sync_call(hub, dict(part), {"others": "ignore"}))
        after: str | None = None
        while True:
            answer = await self._sync_call(hub, dict(named), {"others": others, "after": after})
            self.replica.take_synced(answer)
            named, after = [], answer.next
            if after is None:
                break
        self.replica.end_sync()

    async def _sync_call(self, hub: Hub, cursors: dict[str, Cursor], options: dict[str, str | None]) -> Synced:
        found = await self._until_answered(lambda: hub.invoke("Sync", cursors, options))
        synced: Synced = decoded(found, Synced)
        return synced

    async def _until_answered(self, call: Callable[[], Awaitable[msgspec.Raw]]) -> msgspec.Raw:
        """Repeat a call on this connection while that may help. Raises Lost, and errors that are for good."""
        backoff = Backoff()
        while True:
            try:
                return await call()
            except Lost:
                raise
            except ParleyError as error:
                if not error.is_retryable:
                    raise
                await anyio.sleep(backoff.next(error.retry_after))

    async def _refresh(self) -> None:
        """Read what events do not repeat: titles, members, receipts, unread counts; and who is there."""
        cursor: str | None = None
        while True:
            rounds = self.replica.rounds()
            page = await self._rest.get("/api/conversations", Page[ConversationInfo], limit=PAGE, cursor=cursor)
            for info in page.items:
                self.replica.take_answer(info, rounds)
            cursor = page.next
            if cursor is None:
                break
        await self._read_blocks()
        asked = list(self.replica.presence)[:PAGE]
        if asked:
            try:
                found = decoded(await self._on_hub("GetPresence", asked), list[Presence])
            except ParleyError:
                return  # they will be heard of
            for presence in found:
                self.replica.presence[presence.user_id] = presence

    async def _on_hub(self, target: str, *arguments: object) -> msgspec.Raw:
        if self._hub is None:
            raise Lost
        return await self._hub.invoke(target, *arguments)

    # -- work on a connection ------------------------------------------------------------------------------------------

    async def _work_on(self, hub: Hub, tasks: anyio.abc.TaskGroup) -> None:
        """Begin what is to be done, each conversation by itself."""
        tasks.start_soon(self._give_receipts, hub)
        while True:
            self._work = anyio.Event()
            for conversation_id in self.replica.outbox.conversations():
                self._start(tasks, f"send {conversation_id}", self._send_all, hub, conversation_id)
            for found in self.replica.stale():
                self._start(tasks, f"read {found.id}", self._until_done, found, self._read_history)
            for found in self.replica.outdated():
                self._start(tasks, f"ask {found.id}", self._until_done, found, self._read_details)
            for found in self.replica.asked():
                self._start(tasks, f"threads {found.id}", self._until_done, found, self._read_threads)
            if self.replica.has_other_blocks:
                self._start(tasks, "blocks", self._read_blocks)
            await self._work.wait()

    def _start(self, tasks: anyio.abc.TaskGroup, name: str, work: Callable[..., Awaitable[None]], *what: Any) -> None:
        if name in self._busy:
            return
        self._busy.add(name)

        async def run() -> None:
            try:
                await work(*what)
            except Lost:
                pass  # the connection ends by itself
            finally:
                self._busy.discard(name)

        tasks.start_soon(run)

    async def _send_all(self, hub: Hub, conversation_id: str) -> None:
        """Send what waits in one conversation, in order, one after the other."""
        outbox, backoff = self.replica.outbox, Backoff()
        while (entry := outbox.waiting(conversation_id)) is not None:
            attempt = entry.attempt
            if not self.replica.may_send(entry):
                if outbox.waiting(conversation_id) is entry:
                    return  # until its history is read
                continue
            await self._save_attempt(entry)
            if outbox.waiting(conversation_id) is not entry or entry.attempt != attempt:
                continue
            try:
                message: Message = decoded(await hub.invoke("SendMessage", entry.draft.request()), Message)
            except Lost:
                raise
            except ParleyError as error:
                if error.is_retryable or error.code == "unauthenticated":
                    await anyio.sleep(backoff.next(error.retry_after))
                else:
                    self.replica.refused(entry, attempt, error)
            else:
                backoff.reset()
                self.replica.answered(entry, attempt, message)

    async def _until_done(self, found: Conversation, step: Callable[[Conversation], Awaitable[bool]]) -> None:
        """Repeat a step of work in a conversation until it returns that it is done, or the conversation is gone."""
        backoff = Backoff()
        while not found.is_removed:
            wait = None
            try:
                if await step(found):
                    return
            except Lost:
                raise
            except ParleyError as error:
                if error.code == "not_found":
                    self.replica.conversation_gone(found.id)
                    self._notify()
                    return
                self._broadcaster.emit(ErrorOccurred(error))
                wait = error.retry_after
            await anyio.sleep(backoff.next(wait))

    async def _read_history(self, found: Conversation) -> bool:
        """Read the history of a conversation anew. Returns False if it was replaced meanwhile."""
        view = found._view
        generation, wants_more = view.generation, view.read_before > 1
        while wants_more:
            page, floor = await self._page(found.id, view.read_before, PAGE)
            wants_more = view.take_anew(generation, page, floor)
        is_done = self.replica.end_anew(found, generation)
        self._notify()
        return is_done or not view.is_stale

    async def _read_details(self, found: Conversation) -> bool:
        """Ask for the details of a conversation. Returns False if they are older than what has come."""
        rounds = self.replica.rounds()
        info = await self._rest.get(f"/api/conversations/{found.id}", ConversationInfo)
        self.replica.take_details(info, rounds)
        return found not in self.replica.outdated()

    async def _read_threads(self, found: Conversation) -> bool:
        """Ask what threads are to the user, one after the other."""
        while (root_id := self.replica.next_asked(found)) is not None:
            round, state = found._round, None
            try:
                state = await self._rest.get(f"/api/threads/{root_id}", ThreadState)
            except ParleyError as error:
                if error.is_retryable or error.code == "unauthenticated":
                    raise
            self.replica.take_asked(found, root_id, state, round)
        return True

    async def _read_blocks(self) -> None:
        """Read whom the user has blocked, until nothing later was heard meanwhile. What fails is tried again."""
        backoff = Backoff()
        while self.replica.has_other_blocks:
            version = self.replica.blocks_heard  # what is read from here on is that, or later
            try:
                blocks = await self.list_blocks()
            except Lost:
                raise
            except ParleyError as error:
                if error.code == "unauthenticated":
                    raise
                self._broadcaster.emit(ErrorOccurred(error))
                if not error.is_retryable:
                    self.replica.set_blocks(self.replica.blocked, version)
                    return
                await anyio.sleep(backoff.next(error.retry_after))
            else:
                self.replica.set_blocks((one.user_id for one in blocks), version)

    async def list_blocks(self) -> list[Block]:
        found: list[Block] = []
        cursor: str | None = None
        while True:
            page = await self._rest.get("/api/users/me/blocks", Page[Block], limit=PAGE, cursor=cursor)
            found += page.items
            cursor = page.next
            if cursor is None:
                return found

    async def _page(self, conversation_id: str, before: int, limit: int) -> tuple[tuple[Message, ...], int]:
        """Return messages before a seq, and the seq down to which nothing is left out."""
        page = await self._rest.get(
            "/api/messages",
            Page[Message],
            conversationId=conversation_id,
            before=before,
            limit=limit,
            replies="true",  # the view is whole
        )
        return page.items, 0 if page.next is None or not page.items else page.items[-1].seq - 1

    async def load_older(self, found: Conversation, limit: int) -> int:
        """Read on until the main history has more to show, or is whole."""
        view = found._view
        while True:
            await self.until(lambda: found.is_removed or self.replica.can_load(found))
            self.replica.attach(found)
            if view.is_whole:
                return 0
            asked, floor = view.begin_older(), view.floor
            try:
                page, new_floor = await self._page(found.id, floor + 1, min(limit, PAGE))
                if view.floor == floor and view.take_older(asked, page, new_floor):
                    self.wake()
                    if (shown := sum(message.is_main for message in page)) or view.is_whole:
                        return shown
            finally:
                view.end_older(asked)

    async def _give_receipts(self, hub: Hub) -> None:
        backoff = Backoff()
        while True:
            work = self._work
            for found in self.replica.marks():
                round = found._round
                try:
                    await self._mark(hub, found)
                except Lost:
                    return
                except ParleyError as error:
                    if error.is_retryable:
                        await anyio.sleep(backoff.next(error.retry_after))
                        work.set()
                    elif round == found._round:  # of a conversation that is gone, say
                        found._mark_read = found._mark_delivered = 0
            await work.wait()
            await anyio.sleep(MARK_PAUSE)

    async def _mark(self, hub: Hub, found: Conversation) -> None:
        read, delivered, round = found._mark_read, found._mark_delivered, found._round
        if read:
            await hub.invoke("MarkRead", found.id, read)
        elif delivered and self._gives_delivered:
            await hub.invoke("MarkDelivered", found.id, delivered)
        self.replica.marked(found, read, delivered, round)

    async def _keep_token(self, hub: Hub, said: str) -> None:
        """Renew the token of the connection before it ends; say it again where the server could not take it."""
        backoff = Backoff(first=1.0)
        while (seconds := self._tokens.seconds_left()) is not None:
            if said == self._tokens.newest:
                await anyio.sleep(seconds)
            try:
                token = await self._tokens.renew(said)
                await hub.invoke("RefreshToken", token)
            except Lost:
                return
            except ParleyError as error:
                self._broadcaster.emit(ErrorOccurred(error))
                if not error.is_retryable:
                    return  # the connection ends with its token
                await anyio.sleep(backoff.next(error.retry_after))
            else:
                said = token
                backoff.reset()
                await anyio.sleep(1)  # a source that gives tokens without a life is not asked in a circle

    # -- beside the connections ----------------------------------------------------------------------------------------

    async def _save_always(self) -> None:
        backoff = Backoff()
        while True:
            await self._to_save.wait()
            self._to_save = anyio.Event()
            await anyio.sleep(SAVE_PAUSE)
            await self._save()
            if self._is_saved:
                backoff.reset()
            else:
                self._to_save.set()
                await anyio.sleep(backoff.next())

    async def _save(self) -> None:
        async with self._saving:
            await self._save_changes()

    async def _save_attempt(self, entry: Entry) -> None:
        """What a store has may be sent by another process, which has to know of this attempt. What no store has yet is
        written together with it. A store that stands still holds no message up."""
        if not entry.is_kept or self._store_failed:
            return
        saved = self._attempts_saved
        self._attempts_to_save.set()
        with anyio.move_on_after(PATIENCE):
            await saved.wait()

    async def _save_attempts(self) -> None:
        while True:
            await self._attempts_to_save.wait()
            async with self._saving:
                self._attempts_to_save = anyio.Event()
                saved, self._attempts_saved = self._attempts_saved, anyio.Event()
                await self._save_records({"attempts": self.replica.attempts()})
            saved.set()

    async def _save_changes(self) -> None:
        if self.me is None:
            return
        records = self.replica.records()
        if not records or self._store_failed:
            return
        await self._save_records(records)

    async def _save_records(self, records: Mapping[str, bytes | None]) -> None:
        """What cannot be written, or is cancelled, is in a later write. It is said once, until it can be."""
        was_saved, self._is_saved = self._is_saved, False
        try:
            await self._store.save(records)
            self._is_saved = True
        except ParleyError as error:
            if was_saved:
                _log.warning("the store cannot be written, and is tried again: %s", error)
                self._broadcaster.emit(ErrorOccurred(error))
        finally:
            if not self._is_saved:
                self.replica.not_saved(records)

    def _no_store(self, error: ParleyError) -> None:
        """Go on in memory: what the store has is what the next process begins with."""
        self._store_failed = True
        _log.warning("the store cannot be used, and is left as it is: %s", error)
        self._broadcaster.emit(ErrorOccurred(error))

    async def _expire(self) -> None:
        while True:
            await anyio.sleep(1)
            self.replica.expire_typing()

    # -- state ---------------------------------------------------------------------------------------------------------

    def _become(self, state: State, reason: ParleyError | None = None) -> None:
        if self.state == "closed" or (self.state == state and state != "offline"):
            return
        if state == "offline" and self.me is None and self.reason is None:  # once, as a wrong URL is waited for, too
            _log.warning("not connected yet, trying again: %s", reason)
        if reason is not None or state in ("catching_up", "live", "closed"):
            self.reason = reason  # while it connects anew: why it has to
        self.state = state
        self._broadcaster.emit(StateChanged(state, reason))
        self._notify()

    def _close(self, error: ParleyError | None) -> None:
        self._become("closed", error)
        self.replica.outbox.wake()
        self._broadcaster.end(error)

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
