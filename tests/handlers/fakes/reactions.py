"""In place of `store.postgres.reactions`."""

from collections.abc import Collection, Sequence
from uuid import UUID

from store.ids import timestamp_ms
from store.model import Change, Message
from store.postgres import reactions
from tests.handlers.database import Tables, stands_for
from tests.handlers.fakes.blocks import fetch_partner, list_unavailable
from tests.handlers.fakes.conversations import fetch_mute


@stands_for(reactions.list_reactors)
def _list_reactors(tables: Tables, message: Message, user_ids: Collection[UUID]) -> reactions.Reactors:
    found = {}
    for user_id in user_ids:
        if (message.conversation_id, user_id) in tables.members:
            emojis = frozenset(key[2] for key in tables.reactions if key[:2] == (message.id, user_id))
            until = fetch_mute(tables, message.conversation_id, user_id)
            muted_until = None if until is None else timestamp_ms(until)
            partner = fetch_partner(tables, message.conversation_id, user_id)
            is_refused = partner is not None and bool(list_unavailable(tables, user_id, [partner]))
            ban = tables.ban_of(user_id)
            banned_until = None if ban is None else timestamp_ms(ban)
            found[user_id] = reactions.Reactor(muted_until, emojis, is_refused, banned_until)
    return reactions.Reactors(found, None)


@stands_for(reactions.write_reactions)
def _write_reactions(
    tables: Tables, message: Message, added: Sequence[reactions.Added], removed: Sequence[reactions.Removed]
) -> Change | None:
    for one in removed:
        del tables.reactions[message.id, one.user_id, one.emoji]
    for other in added:
        tables.reactions[message.id, other.user_id, other.emoji] = other.id
    return tables.show_reactions(message.id)


@stands_for(reactions.list_reactions)
def _list_reactions(
    tables: Tables, message_id: UUID, *, emoji: str | None, after: tuple[str, UUID], limit: int
) -> list[reactions.Reacted]:
    found = [
        reactions.Reacted(user_id, its, id_)
        for (its_message, user_id, its), id_ in tables.reactions.items()
        if its_message == message_id and emoji in (None, its)
    ]
    found = [
        one
        for one in found
        if (one.id.bytes > after[1].bytes if emoji else (one.emoji, one.id.bytes) > (after[0], after[1].bytes))
    ]
    return sorted(found, key=lambda one: (one.emoji, one.id.bytes))[:limit]


@stands_for(reactions.list_reactions_by)
def _list_reactions_by(
    tables: Tables, user_id: UUID, *, after: tuple[UUID, str] = (reactions.NOTHING, ""), limit: int
) -> list[reactions.Own]:
    found = [
        reactions.Own(tables.messages[message_id].conversation_id, message_id, emoji, id_)
        for (message_id, its, emoji), id_ in tables.reactions.items()
        if its == user_id
    ]
    found = [one for one in found if (one.message_id.bytes, one.emoji) > (after[0].bytes, after[1])]
    return sorted(found, key=lambda one: (one.message_id.bytes, one.emoji))[:limit]


@stands_for(reactions.remove_some)
def _remove_some(tables: Tables, user_id: UUID, limit: int) -> tuple[list[Change], bool]:
    found = sorted({key[0] for key in tables.reactions if key[1] == user_id}, key=lambda one: one.bytes)[:limit]
    for key in [key for key in tables.reactions if key[0] in found and key[1] == user_id]:
        del tables.reactions[key]
    return [tables.show_reactions(message_id) for message_id in found], bool(found)
