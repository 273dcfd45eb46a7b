"""How far each endpoint of a webhook has got: which events of which conversations it is still to be sent.

Owns `webhook_positions`, `webhook_queue`, and what delivering does to dead letters. No such event is written when it
happens (`store.postgres.webhook_events` has those that are). A batch's row in the outbox, deleted when the batch is
published, goes to the queue by a trigger; one that stays is read where it is. Noting it (`note`) makes the conversation
due at each endpoint; what is to be sent is then read from the messages, from the position of that endpoint in that
conversation on. So an event is a change with a seq:

- a message, or a System message, was made: the event has its seq, and is there once, however often the message was
  changed since;
- it was changed: the event has the changed_seq of the last change. Those before it, if they were not read in time, are
  in it.

One session at a time delivers to an endpoint (an advisory lock for each). Should two do it for a moment, as when the
first has lost its lock and does not know yet, a position still moves once only (`advance` compares), and nothing behind
it is sent before.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from store.ids import id_ms, timestamp_ms
from store.model import ConversationType, DeadLetter, Message
from store.postgres import queries
from store.postgres.connection import Connection
from store.postgres.messages import list_messages_by_id
from store.postgres.unread_scans import MOST
from store.postgres.webhooks import letter_of

BATCHES = 20_000  # of the queue that are noted at once
PAGE = 16  # events of one conversation that are read at once: with messages of any size, a few MiB for all who deliver
MEMBERS = 1000  # of a new conversation that are named
REMOVED = 5000  # rows of a deleted endpoint that are removed at once


class Target(NamedTuple):
    """An endpoint that is active, with its secrets as they are stored."""

    id: UUID
    url: str
    events: frozenset[str]  # none: all
    secret: bytes
    old_secret: bytes | None
    is_old_good: bool
    is_failing: bool


class State(NamedTuple):
    """`lag`: seconds since the oldest event was made that waits at an active endpoint, about."""

    disabled: int
    lag: float


class Position(NamedTuple):
    seq: int
    attempts: int
    is_due: bool
    head: int


class Happened(NamedTuple):
    """A change of a conversation, as an event. `is_made`: it made the message; else the message was changed."""

    seq: int
    is_made: bool
    message: Message

    @property
    def at_ms(self) -> int:
        changed = None if self.is_made else self.message.last_changed_at
        return id_ms(self.message.id) if changed is None else timestamp_ms(changed)


class Happenings(NamedTuple):
    """Events of a conversation, in its order; `reached`: no other one is up to here. `is_all`: up to the head."""

    events: Sequence[Happened]
    reached: int
    is_all: bool


class Founding(NamedTuple):
    """What a conversation was made as."""

    type: ConversationType
    name: str | None
    member_ids: Sequence[UUID]


async def join(conn: Connection) -> bool:
    """Be one of those who deliver, until the session ends. False while code of before delivers, which does so alone."""
    return await _is(conn, queries.join_webhooks)


async def list_deliverers(conn: Connection) -> tuple[int, list[int]]:
    """This session, and all that deliver, in an order that is the same for each of them."""
    row = await (await conn.execute(queries.list_webhook_deliverers)).fetchone()
    assert row is not None
    return int(row[0]), [int(pid) for pid in row[1]] or [int(row[0])]


async def take_notes(conn: Connection) -> bool:
    """Whether this session is the one that notes what was committed; until it ends. To be asked once."""
    return await _is(conn, queries.try_webhook_notes)


async def take(conn: Connection, webhook_id: UUID) -> bool:
    """Whether this session is the one that delivers to this endpoint, until it ends or leaves it."""
    return await _is(conn, queries.try_webhook, webhook_id)


async def leave(conn: Connection, webhook_id: UUID) -> None:
    await conn.execute(queries.leave_webhook, {"id": webhook_id})


async def _is(conn: Connection, query: LiteralString, webhook_id: UUID | None = None) -> bool:
    row = await (await conn.execute(query, {"id": webhook_id})).fetchone()
    return bool(row and row[0])


async def list_targets(conn: Connection) -> list[Target]:
    rows = await (await conn.execute(queries.list_webhook_targets)).fetchall()
    return [
        Target(webhook_id, url, frozenset(events), secret, old_secret, bool(is_old_good), is_failing)
        for webhook_id, url, events, secret, old_secret, is_old_good, is_failing in rows
    ]


async def note(conn: Connection, *, stuck_after: float, unread_after: float = 5.0) -> bool:
    """Have each endpoint look at what was committed, and who is offline be looked for (`store.postgres.unread_scans`).
    Return True if there may be more in the queue."""
    parameters = {"limit": BATCHES, "age": stuck_after, "delay": unread_after, "most": MOST}
    row = await (await conn.execute(queries.note_webhook_positions, parameters)).fetchone()
    return row is not None and row[1] == BATCHES


async def list_due(
    conn: Connection, limits: Mapping[UUID, int], types: Collection[str] = ()
) -> list[tuple[UUID, UUID | None, int]]:
    """(endpoint, conversation, 0) where something is due in a conversation, and (endpoint, None, number) of events of
    these types that are in none's order (`store.postgres.webhook_events`): of each endpoint so many of both."""
    if not limits:
        return []
    parameters = {"ids": list(limits), "limits": list(limits.values()), "types": list(types)}
    rows = await (await conn.execute(queries.list_webhooks_due, parameters)).fetchall()
    return [(webhook_id, conversation_id, number or 0) for webhook_id, conversation_id, number in rows]


async def list_happened(
    conn: Connection, webhook_id: UUID, conversation_id: UUID
) -> tuple[Position, Happenings] | None:
    """A position, and what is behind it, up to PAGE events; None if there is none."""
    parameters = {"webhook_id": webhook_id, "conversation_id": conversation_id, "limit": PAGE}
    found = await (await conn.execute(queries.list_webhook_changes, parameters)).fetchall()
    if not found:
        return None
    position = Position(found[0][0], found[0][1], bool(found[0][2]), found[0][3])
    rows = [row[4:] for row in found if row[4] is not None]
    return position, await _happenings(conn, position, rows)


async def _happenings(conn: Connection, position: Position, rows: Sequence[Sequence[Any]]) -> Happenings:
    """`rows`: (seq, message, whether it was made by it), by rising seq."""
    made = [seq for seq, _, is_made in rows if is_made]
    changed = [seq for seq, _, is_made in rows if not is_made]
    ends = [seqs[-1] for seqs in (made, changed) if len(seqs) == PAGE]  # past it there may be more of that kind
    rows = [row for row in rows if not ends or row[0] <= min(ends)][:PAGE]
    found = {message.id: message for message in await list_messages_by_id(conn, {row[1] for row in rows})}
    events = [
        Happened(seq, is_made, found[message_id])
        for seq, message_id, is_made in rows
        # What was changed once more, since it was listed, is an event behind these.
        if message_id in found and (is_made or found[message_id].changed_seq == seq)
    ]
    is_all = not ends and len(rows) < PAGE
    last = rows[-1][0] if rows else position.seq
    # The head was read with the changes, so nothing up to it is missing in a page that is all.
    return Happenings(events, max(last, position.head) if is_all else last, is_all)


async def fetch_founding(conn: Connection, conversation_id: UUID, seq: int) -> Founding | None:
    """Return what is still known of it: its present name, and who has been a member since."""
    parameters = {"conversation_id": conversation_id, "seq": seq, "limit": MEMBERS}
    row = await (await conn.execute(queries.fetch_webhook_conversation, parameters)).fetchone()
    return Founding(ConversationType(row[0]), row[1], row[2]) if row else None


async def advance(
    conn: Connection,
    webhook_id: UUID,
    conversation_id: UUID,
    *,
    before: int,
    seq: int,
    at_ms: int = 0,
    rests: bool = False,
) -> bool:
    """Move the position from `before` to `seq`. False if it is elsewhere by now: another session delivers, too. If it
    `rests`, what is behind it waits for its turn."""
    parameters = {
        "webhook_id": webhook_id,
        "conversation_id": conversation_id,
        "before": before,
        "seq": seq,
        "at": at_ms,
        "rests": rests,
    }
    return bool((await conn.execute(queries.advance_webhook_position, parameters)).rowcount)


async def postpone(
    conn: Connection, webhook_id: UUID, conversation_id: UUID, seq: int, seconds: float
) -> tuple[int, float] | None:
    """The event behind the position failed, and is due again after so long. Return how often, and for how many seconds
    by now; None if the position is elsewhere."""
    parameters = {
        "webhook_id": webhook_id,
        "conversation_id": conversation_id,
        "seq": seq,
        "seconds": seconds,
    }
    row = await (await conn.execute(queries.postpone_webhook_position, parameters)).fetchone()
    return (int(row[0]), float(row[1])) if row else None


async def insert_letter(
    conn: Connection, webhook_id: UUID, event_id: str, kind: str, happened: Happened, *, attempts: int, reason: str
) -> None:
    """Give an event up. In one transaction with the position that moves past it."""
    parameters = {
        "webhook_id": webhook_id,
        "event_id": event_id,
        "type": kind,
        "conversation_id": happened.message.conversation_id,
        "seq": happened.seq,
        "message_id": happened.message.id,
        "object_id": None,
        "attempts": attempts,
        "reason": reason,
    }
    await conn.execute(queries.insert_webhook_letter, parameters)


async def note_failure(conn: Connection, webhook_id: UUID, reason: str) -> None:
    await conn.execute(queries.note_webhook_failure, {"id": webhook_id, "reason": reason})


async def note_success(conn: Connection, webhook_id: UUID, *, hasten_within: float | None = None) -> None:
    """Note that the endpoint accepts again. With `hasten_within`, what waits for its next attempt is due within so many
    seconds.
    """
    await conn.execute(queries.note_webhook_success, {"id": webhook_id})
    if hasten_within is not None:
        parameters = {"id": webhook_id, "seconds": hasten_within, "forgiven": False, "limit": BATCHES}
        await conn.execute(queries.hasten_webhook_positions, parameters)
        await conn.execute(queries.hasten_webhook_events, parameters)


async def disable(conn: Connection, webhook_id: UUID, reason: str) -> bool:
    """False if it was not active."""
    row = await (await conn.execute(queries.disable_webhook, {"id": webhook_id, "reason": reason})).fetchone()
    return row is not None


async def disable_failing(conn: Connection, among: Sequence[UUID], seconds: float) -> list[tuple[UUID, str, str]]:
    """Disable those that have accepted nothing for so long. Return (id, URL, last failure) of them."""
    parameters = {"ids": list(among), "seconds": seconds}
    rows = await (await conn.execute(queries.disable_failing_webhooks, parameters)).fetchall()
    return [(webhook_id, url, last_failure or "") for webhook_id, url, last_failure in rows]


async def reseal(conn: Connection, target: Target, secret: bytes, old_secret: bytes | None) -> None:
    """Replace the sealed secrets by the same secrets under another key."""
    parameters = {
        "id": target.id,
        "secret": secret,
        "old_secret": old_secret,
        "was": target.secret,
        "old_was": target.old_secret,
    }
    await conn.execute(queries.reseal_webhook, parameters)


async def fetch_state(conn: Connection) -> State:
    row = await (await conn.execute(queries.fetch_webhook_state)).fetchone()
    assert row is not None
    return State(*row)


async def list_replaying(conn: Connection) -> list[UUID]:
    """Active endpoints of which dead letters are to be tried again."""
    return [one for (one,) in await (await conn.execute(queries.list_webhooks_replaying)).fetchall()]


async def list_replays(conn: Connection, webhook_id: UUID, limit: int = PAGE) -> list[tuple[int, DeadLetter]]:
    """Return the dead letters that are to be sent again, the first to fail first, with their numbers."""
    parameters = {"webhook_id": webhook_id, "limit": limit}
    rows = await (await conn.execute(queries.list_webhook_replays, parameters)).fetchall()
    return [(row[0], letter_of(row)) for row in rows]


async def fetch_happened(conn: Connection, letter: DeadLetter, *, is_made: bool) -> Happened | None:
    """Return what a dead letter about a message says now. None if the message is gone."""
    assert letter.message_id is not None and letter.seq is not None
    found = await list_messages_by_id(conn, [letter.message_id])
    return Happened(letter.seq, is_made, found[0]) if found else None


async def keep_letter(conn: Connection, webhook_id: UUID, number: int, reason: str) -> None:
    """It failed again."""
    await conn.execute(queries.keep_webhook_letter, {"webhook_id": webhook_id, "number": number, "reason": reason})


async def delete_letter(conn: Connection, webhook_id: UUID, number: int) -> None:
    await conn.execute(queries.delete_webhook_letter, {"webhook_id": webhook_id, "number": number})


async def clear_away(conn: Connection, *, kept: int) -> bool:
    """Remove dead letters past the newest `kept` of each endpoint, and some of what deleted endpoints have left. Return
    True if there is more of that."""
    await conn.execute(queries.delete_surplus_webhook_letters, {"kept": kept})
    row = await (await conn.execute(queries.clear_deleted_webhook, {"limit": REMOVED})).fetchone()
    return bool(row and row[0])
