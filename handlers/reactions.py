"""Reactions: who may put which emoji under which message, and how many acts become one change.

Owns the rules, and the task that writes: acts on one message that come while it is being written, or shortly after, go
into one transaction and one change of the message. So a message that thousands react to in a second changes ten times
at most, with exact counts. An act is answered when it is committed, by a call: it takes no task. Reading is as for
messages: members only.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import TypeVar
from uuid import UUID

import trio

from handlers import page_cursors, permissions
from handlers.blocks import UNAVAILABLE
from handlers.emoji import spelled
from handlers.errors import ChatError, from_store
from handlers.member_moderation import muted_until_ms
from handlers.model import Caller, Reactor
from handlers.ports import Connections
from handlers.rate_limits import Limiter
from handlers.standing import banned_until_ms
from handlers.transactions import Transactions
from store.defects import divided, guard
from store.errors import Overloaded, StoreError, Unavailable
from store.ids import new_id
from store.model import Change, Message, MessageType
from store.postgres import conversations, messages
from store.postgres import reactions as store
from store.postgres.connection import Connection

MAX_KINDS = 50  # of emojis under one message
MAX_OWN = 20  # of one user under one message
INTERVAL = 0.1  # seconds between two changes of a message by reactions, on all instances together
PATIENCE = 2.0  # seconds for which a batch waits for other instances' changes of its message
AT_ONCE = 4  # transactions; others need connections, too
MAX_BATCH = 2000  # acts in one transaction
STEP = 32  # acts that are weighed in one scheduler step
ANSWERED_AT_ONCE = 8  # acts in one scheduler step: each answer is a send in the next one
MAX_WAITING = 20_000  # acts of this process that are not answered yet

T = TypeVar("T")
Done = Callable[[Message | ChatError], None]

_guard = guard("reactions")


class Act:
    """What one user does under one message. `done` is called once, without awaiting, and is None from then on."""

    __slots__ = ("adds", "done", "emoji", "user_id")

    def __init__(self, user_id: UUID, emoji: str, done: Done, *, adds: bool) -> None:
        self.user_id = user_id
        self.emoji = emoji
        self.adds = adds
        self.done: Done | None = done


class _TooEarly(Exception):
    """The message was changed just now, on another instance. It may be changed again after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Reactions:
    def __init__(self, pool: Connections, transactions: Transactions, sends: Limiter[UUID]) -> None:
        """`sends` is the rate limit of sends, which reactions share."""
        self._pool = pool
        self._transactions = transactions
        self._sends = sends
        self._waiting: dict[UUID, deque[Act]] = {}  # by message; there while a task serves it
        self._nursery: trio.Nursery | None = None
        self._at_once = trio.CapacityLimiter(AT_ONCE)
        self.waiting = self.written = self.batches = 0

    # -- reacting -------------------------------------------------------------------------------

    async def react(self, caller: Caller, message_id: UUID, emoji: str) -> Message:
        """Put it there; it may be there already. Raises ChatError.

        Cancelled while it waits, it may still be written: the same again is safe.
        """
        return await self._act(caller, message_id, emoji, adds=True)

    async def unreact(self, caller: Caller, message_id: UUID, emoji: str) -> Message:
        """Take one's own away, if it is there. Muted members may. Raises ChatError."""
        return await self._act(caller, message_id, emoji, adds=False)

    async def _act(self, caller: Caller, message_id: UUID, emoji: str, *, adds: bool) -> Message:
        outcome: list[Message | ChatError] = []
        finished = trio.Event()

        def done(result: Message | ChatError) -> None:
            outcome.append(result)
            finished.set()

        self.act_nowait(caller, message_id, emoji, done, adds=adds)
        await finished.wait()
        if isinstance(outcome[0], ChatError):
            raise outcome[0]
        return outcome[0]

    def act_nowait(self, caller: Caller, message_id: UUID, emoji: str, done: Done, *, adds: bool) -> None:
        """Queue it; `done` is called once, after the commit or when it failed. Raises what is wrong at once.

        Acts on one message are worked on in the order in which they were queued.
        """
        kept = _require_emoji(emoji)
        self._sends.require(caller.user_id, f"react {adds} {message_id} {kept}")
        if self.waiting >= MAX_WAITING:
            raise from_store(Overloaded("too many reactions wait to be written"))
        if self._nursery is None:
            raise from_store(Unavailable("the server is shutting down"))
        waiting = self._waiting.get(message_id)
        if waiting is None:
            self._nursery.start_soon(self._serve, message_id)
            waiting = self._waiting[message_id] = deque()
        self.waiting += 1
        waiting.append(Act(caller.user_id, kept, done, adds=adds))

    # -- writing --------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what is asked for, until cancelled. Who still waits then gets `unavailable`: it may be written."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            for waiting in self._waiting.values():
                self._fail(waiting, from_store(Unavailable("the server is shutting down")))
            self._waiting.clear()

    async def _serve(self, message_id: UUID) -> None:
        """Write the acts on one message: at once what has come, then every INTERVAL what came meanwhile."""
        waiting = self._waiting[message_id]
        while waiting:
            acts = [waiting.popleft() for _ in range(min(len(waiting), MAX_BATCH))]
            try:
                await divided(_guard, acts, partial(self._write, message_id), self._refuse)
            except (Unavailable, Overloaded) as error:
                self._fail(acts, from_store(error))
            except StoreError:
                self._fail(acts, ChatError("unavailable", "It could not be written; try the same request again."))
            finally:
                self._fail(acts, from_store(Unavailable("the server is shutting down")))  # who has no answer yet
            await trio.sleep(INTERVAL)
        del self._waiting[message_id]

    async def _write(self, message_id: UUID, acts: Sequence[Act]) -> None:
        """Commit these acts, and answer them: all with the message as it is then."""
        settled: list[tuple[Act, ChatError]] = []

        async def write(conn: Connection, patience: float) -> tuple[Message | None, Sequence[Change]]:
            settled.clear()
            message = await messages.lock_message(conn, message_id)
            if message is None or await conversations.lock_conversation(conn, message.conversation_id) is None:
                settled.extend((act, permissions.not_found("message")) for act in acts)
                return None, ()
            reactors = await store.list_reactors(conn, message, {act.user_id for act in acts})
            added, removed, refused = await _in_steps(settling(message, reactors, acts))
            settled.extend(refused)
            if not added and not removed:
                return message, ()
            age = reactors.since_change
            if age is not None and 0 <= age < INTERVAL and patience > 0:
                raise _TooEarly(INTERVAL - age)
            change = await store.write_reactions(conn, message, added, removed)
            assert change is not None, "it is locked, and neither deleted nor a System message"
            return change.message, (change,)

        give_up_at = trio.current_time() + PATIENCE
        while True:
            try:
                left = give_up_at - trio.current_time()
                async with self._at_once:
                    message = await self._transactions.run(partial(write, patience=left))
                break
            except _TooEarly as early:
                await trio.sleep(early.seconds)
        self.batches += 1
        for act, error in settled:
            self._answer(act, error)
        if message is not None:
            for number, act in enumerate(acts, 1):
                self.written += act.done is not None
                self._answer(act, message)
                if number % ANSWERED_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()

    def _answer(self, act: Act, outcome: Message | ChatError) -> None:
        """Once: what is answered already stays so."""
        done, act.done = act.done, None
        if done is not None:
            self.waiting -= 1
            try:
                done(outcome)
            except Exception as error:  # noqa: BLE001  # the caller's bug must not cost the others their answers
                _guard.caught(error, "reaction_callback_failed")

    def _refuse(self, act: Act, reference: str) -> None:
        self._answer(act, ChatError("internal", f"Something went wrong here, reference {reference}."))

    def _fail(self, acts: Iterable[Act], error: ChatError) -> None:
        for act in acts:
            if act.done is not None:  # as a rule all have their answers
                self._answer(act, _like(error))

    # -- reading --------------------------------------------------------------------------------

    async def list(
        self, caller: Caller, message_id: UUID, *, emoji: str | None, limit: int, cursor: str | None
    ) -> tuple[Sequence[Reactor], str | None]:
        """Return who has reacted: by kind, each by time. With `emoji` only that kind. Raises ChatError."""
        kept = None if emoji is None else _require_emoji(emoji)
        after = _decode(cursor)
        async with self._pool.connection() as conn:
            message = await messages.fetch_message(conn, message_id)
            if message is None:
                raise permissions.not_found("message")
            member = await conversations.fetch_member(conn, message.conversation_id, caller.user_id)
            permissions.require_member(member, "message")
            if message.deleted_at is not None:
                return (), None
            found = await store.list_reactions(conn, message_id, emoji=kept, after=after, limit=limit + 1)
        items = [Reactor(user_id=one.user_id, emoji=one.emoji, at=one.at) for one in found[:limit]]
        last = found[len(items) - 1] if items else None
        return items, _encode(last) if last is not None and len(found) > limit else None

    async def own(self, user_id: UUID, limit: int, after: store.Own | None = None) -> Sequence[store.Own]:
        """All reactions of a user, for their export: those behind one of them."""
        async with self._pool.connection() as conn:
            if after is None:
                return await store.list_reactions_by(conn, user_id, limit=limit)
            behind = after.message_id, after.emoji
            return await store.list_reactions_by(conn, user_id, after=behind, limit=limit)


Settled = tuple[Sequence[store.Added], Sequence[store.Removed], Sequence[tuple[Act, ChatError]]]


def settling(message: Message, reactors: store.Reactors, acts: Sequence[Act]) -> Generator[None, None, Settled]:
    """What these acts, one after the other, come to: (what is added, what is removed, who is refused).

    The message is locked. What is done and undone within them is neither. Yields after each `STEP` of them, when others
    may have their turn.
    """
    kinds = {one.emoji: one.count for one in message.reactions}
    before = {user_id: reactor.emojis for user_id, reactor in reactors.members.items()}
    own = {user_id: dict.fromkeys(sorted(emojis)) for user_id, emojis in before.items()}
    refused: list[tuple[Act, ChatError]] = []
    for number, act in enumerate(acts, 1):
        if number % STEP == 0:
            yield
        reactor = reactors.members.get(act.user_id)
        if reactor is None:
            refused.append((act, permissions.not_found("message")))
        elif message.type is MessageType.SYSTEM:
            refused.append((act, ChatError("forbidden", "System messages take no reactions.")))
        elif message.deleted_at is not None:
            refused.append((act, ChatError("gone", "The message was deleted.")))
        elif (act.emoji in own[act.user_id]) == act.adds:
            continue
        elif reactor.banned_until_ms is not None:
            refused.append((act, banned_until_ms(reactor.banned_until_ms)))
        elif not act.adds:
            del own[act.user_id][act.emoji]
            kinds[act.emoji] = kinds.get(act.emoji, 1) - 1
            if not kinds[act.emoji]:
                del kinds[act.emoji]
        elif (wrong := _refusal(reactor, own[act.user_id], kinds, act.emoji)) is not None:
            refused.append((act, wrong))
        else:
            own[act.user_id][act.emoji] = None
            kinds[act.emoji] = kinds.get(act.emoji, 0) + 1
    new: dict[tuple[UUID, str], store.Added] = {}
    for number, act in enumerate(acts, 1):
        if number % STEP == 0:
            yield
        key = act.user_id, act.emoji
        if act.emoji in own.get(act.user_id, ()) and act.emoji not in before[act.user_id] and key not in new:
            new[key] = store.Added(new_id(), *key)
    removed = [
        store.Removed(user_id, emoji)
        for user_id, then in before.items()
        if then
        for emoji in sorted(then)
        if emoji not in own[user_id]
    ]
    return list(new.values()), removed, refused


async def _in_steps(steps: Generator[None, None, T]) -> T:
    """Work through them, with a checkpoint after each."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await trio.lowlevel.checkpoint()


def _refusal(reactor: store.Reactor, own: dict[str, None], kinds: dict[str, int], emoji: str) -> ChatError | None:
    if reactor.muted_until_ms is not None:
        return muted_until_ms(reactor.muted_until_ms)
    if reactor.is_refused:
        return ChatError(UNAVAILABLE.code, UNAVAILABLE.sentence)
    if len(own) >= MAX_OWN:
        return ChatError("conflict", f"You have {MAX_OWN} reactions under this message; take one away first.")
    if emoji not in kinds and len(kinds) >= MAX_KINDS:
        return ChatError("conflict", f"This message has {MAX_KINDS} kinds of reactions; choose one of them.")
    return None


def _require_emoji(text: str) -> str:
    kept = spelled(text)
    if kept is None:
        sentence = "one emoji, or a name between colons: `:name:`"
        raise ChatError("invalid_request", f"A reaction is {sentence}.", errors={"emoji": sentence})
    return kept


def _like(error: ChatError) -> ChatError:
    """Copy an error for each caller who waits: an exception that is raised keeps its traceback."""
    return ChatError(error.code, error.sentence, errors=error.errors, retry_after=error.retry_after, until=error.until)


def _encode(last: store.Reacted) -> str:
    return page_cursors.encode_text(f"{last.emoji}\n{last.id.hex}")


def _decode(cursor: str | None) -> tuple[str, UUID]:
    """Raises ChatError("invalid_cursor") for what is not base64. Any other text is a position, even one not ours."""
    emoji, _, id_ = (page_cursors.decode_text(cursor) or "").partition("\n")
    try:
        return emoji, UUID(hex=id_)
    except ValueError:
        return emoji, store.NOTHING
