"""What must be right when everything is quiet, besides the messages: counts, settings, pins, mentions, threads, finds.

Each is looked at where clients see it and in the database, and held to the stored messages. `differences` says all
that is not so yet.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import trio

from loadtest.oracle.standing import Newest
from loadtest.oracle.threads import in_main
from loadtest.payloads import (
    SYSTEM,
    ConversationPage,
    Listed,
    Message,
    MessagePage,
    Thread,
    ThreadPage,
    ThreadState,
)
from tests import plain_http

if TYPE_CHECKING:
    from tests.chaos.world import Person, World

EVERYBODY = "00000000-0000-0000-0000-000000000000"  # in the place of a user: all members
PAGED = 3  # threads of each conversation that are paged
SEARCHED = 2  # messages of each conversation that are searched for
LOOK = 0.25  # seconds between two looks

Stored = Mapping[str, Sequence[Message]]


async def settle_standing(world: "World", stored: Stored, patience: float) -> list[str]:
    """Look until nothing is different; return what still is when the patience ends."""
    give_up = trio.current_time() + patience
    while True:
        try:
            found = await differences(world, stored)
        except httpx.HTTPError as error:
            found = [f"an instance does not answer: {error!r}"]
        if not found or trio.current_time() > give_up:
            return found
        await trio.sleep(LOOK)  # between two looks


async def differences(world: "World", stored: Stored) -> list[str]:
    """All that is not as the stored messages, and what was answered, make it."""
    newest = {conversation: Newest(messages) for conversation, messages in stored.items()}
    found = [*await _rows_of_mentions(world, stored), *await _rows_of_pins(world, stored)]
    found += await _rows_of_threads(world, newest)
    for person in world.people:
        listed = await _list(world, person)
        threads = await _list_threads(world, person)
        found += await _own(world, person, listed, newest, {one.thread_id for one in threads})
        found += await _threads(world, person, threads, newest)
        found += await _totals(person, listed, threads)
    for conversation, messages in stored.items():
        found += await _pins(world, conversation, messages)
        found += await _finds(world, conversation, messages)
        found += await _pages(world, conversation, newest[conversation], messages)
    return found


# -- what clients are answered ----------------------------------------------------------------------


async def _own(
    world: "World", person: "Person", listed: Sequence[Listed], newest: Mapping[str, Newest], following: Collection[str]
) -> list[str]:
    """Counts by the receipt that is stored, and settings: in the list, on each device, and in the database."""
    found: list[str] = []
    rows = {row[0]: row[1:] for row in await world.query(_MEMBER.format(user=person.user.id))}
    for one in listed:
        (read_seq, *settings) = rows[one.id]
        unread = newest[one.id].unread(person.user.id, read_seq, following)
        counts = (unread, newest[one.id].mentioned(person.user.id, read_seq))
        if (one.unread_count, one.mention_count) != counts:
            answered = f"{one.unread_count} unread and {one.mention_count} mentions"
            found.append(f"{person.user.name} is answered {answered} in {one.id}, not {counts}: read up to {read_seq}")
        if settings != [one.settings.archived, one.settings.favourite, one.settings.version]:
            found.append(f"{person.user.name} is answered {one.settings} in {one.id}, stored are {settings}")
        for device in (person.oracle_client.settings, *(device.settings for device in person.devices)):
            found += device.differences(one.id, one.settings)
    return found


async def _threads(
    world: "World", person: "Person", listed: Sequence[Thread], newest: Mapping[str, Newest]
) -> list[str]:
    """Who follows which thread, and what they have not read of it: as the replies and their own acts make it, in the
    list, on each device, and in the database."""
    own = person.oracle_client.threads
    found = []
    for conversation in person.conversations:
        one = newest[conversation]
        mine = [thread for thread in listed if thread.conversation_id == conversation]
        found += world.threads.standing(person.user.id, one.roots, one.threads, mine, own)
    rows = await world.query(_FOLLOWER.format(user=person.user.id))
    states = [
        ThreadState(root_id, conversation, is_following, read_seq, 0, 0, version)
        for root_id, conversation, is_following, read_seq, version in rows
    ]
    for client in (own, *(device.threads for device in person.devices)):
        found += [f"{person.user.name}: {text}" for text in client.differences(states)]
    there = {root_id for messages in newest.values() for root_id, replies in messages.threads.items() if replies.last}
    truth = {state.thread_id: state.read_seq for state in states if state.is_following and state.thread_id in there}
    answered = {thread.thread_id: thread.read_seq for thread in listed}
    if answered != truth:
        found.append(f"{person.user.name} is listed the threads {answered}, and follows {truth}")
    return found


async def _pages(world: "World", conversation: str, newest: Newest, stored: Sequence[Message]) -> list[str]:
    """The main history is without replies, but for those that are in it as well; a thread has its own."""
    person = next(person for person in world.people if conversation in person.conversations)
    main = await _page(world, person, "/api/messages", conversationId=conversation)
    found = []
    if main != [message for message in stored if in_main(message)]:
        found.append(f"the main history of {conversation} has {[message.id for message in main]}")
    for root_id, replies in list(newest.threads.items())[-PAGED:]:
        listed = await _page(world, person, f"/api/messages/{root_id}/replies")
        if listed != replies.there:
            found.append(f"{root_id} is answered the replies {[message.id for message in listed]}")
    return found


async def _page(world: "World", person: "Person", path: str, **query: str) -> list[Message]:
    """All pages of a history."""
    found, after = list[Message](), "0"
    while True:
        page: MessagePage = await _get(world, person, path, MessagePage, after=after, **query)
        found += page.items
        if page.next is None:
            return found
        after = page.next


async def _totals(person: "Person", listed: Sequence[Listed], threads: Sequence[Thread]) -> list[str]:
    """The totals of a badge are the sums of the counts, those of muted conversations apart."""
    now = datetime.now(UTC).isoformat()
    muted = [one for one in listed if (one.settings.notifications.muted_until or "") > now]
    loud = [one for one in listed if one not in muted]
    truth: dict[str, Any] = {"capped": False, "unreadThreads": sum(one.unread_count > 0 for one in threads)}
    for prefix, some in (("", loud), ("muted", muted)):
        for name, value in (
            ("unreadCount", sum(one.unread_count for one in some)),
            ("conversationCount", sum(one.unread_count > 0 for one in some)),
        ):
            truth[prefix + name[0].upper() + name[1:] if prefix else name] = value
    answer = await person.call("GetUnread")
    if answer is not None and answer.items() >= truth.items():
        return []
    return [f"{person.user.name} has the totals {answer}, not {truth}"]


async def _pins(world: "World", conversation: str, stored: Sequence[Message]) -> list[str]:
    """Each member is listed the messages that are pinned, as they are, the last one first."""
    pinned = [message for message in stored if message.pinned_at is not None]
    pinned.sort(key=lambda message: (message.pinned_at, message.id), reverse=True)
    found = []
    for person in world.people:
        if conversation in person.conversations:
            page = await _get(world, person, f"/api/conversations/{conversation}/pins", MessagePage)
            if list(page.items) != pinned:
                ids = [message.id for message in page.items], [message.id for message in pinned]
                found.append(f"{person.user.name} is listed the pins {ids[0]} in {conversation}, not {ids[1]}")
    return found


async def _finds(world: "World", conversation: str, stored: Sequence[Message]) -> list[str]:
    """The newest messages are found by their words; of those that were deleted, none."""
    person = next(person for person in world.people if conversation in person.conversations)
    said = [message for message in stored if message.type != SYSTEM]
    there = [message for message in said if message.deleted_at is None][-SEARCHED:]
    gone = [message for message in said if message.deleted_at is not None][-SEARCHED:]
    found = []
    for message in (*there, *gone):
        answer = await person.call("SearchMessages", {"query": f'"{message.client_message_id}"'})
        ids = {hit["message"]["id"] for hit in answer["items"]} if answer is not None else None
        if ids != ({message.id} if message.deleted_at is None else set()):
            found.append(f"a search for {message.client_message_id} in {conversation} finds {ids}: {message.id}")
    return found


# -- what is in the database ------------------------------------------------------------------------

_MEMBER = """
    SELECT conversation_id::text, read_seq, archived, favourite, settings_version
    FROM members WHERE user_id = '{user}'
"""


async def _rows_of_mentions(world: "World", stored: Stored) -> list[str]:
    rows = await world.query("SELECT user_id::text, message_id::text, seq, sender_id::text FROM mentions")
    truth = {
        (user_id, message.id, message.seq, message.sender_id)
        for message in _all(stored)
        for user_id in ([EVERYBODY] if message.mention_all else message.mentions)
        if user_id != message.sender_id
    }
    return _differ("mentions", {*rows}, truth)


_FOLLOWER = """
    SELECT root_id::text, conversation_id::text, is_following, read_seq, version FROM thread_members
    WHERE user_id = '{user}'
"""


async def _rows_of_threads(world: "World", newest: Mapping[str, Newest]) -> list[str]:
    """Counts of each thread, and of each user in it, to the number; and no root has anything left to be shown."""
    threads = [(root_id, replies) for one in newest.values() for root_id, replies in one.threads.items()]
    rows = await world.query(
        "SELECT root_id::text, reply_count, last_reply_id::text, last_reply_seq, is_shown FROM threads"
    )
    truth = {
        (root_id, len(replies.there), *((last.id, last.seq) if (last := replies.last) is not None else (None, 0)), True)
        for root_id, replies in threads
    }
    counts = await world.query(
        "SELECT root_id::text, user_id::text, reply_count, first_reply_id::text"
        " FROM thread_members WHERE reply_count > 0"
    )
    true_counts = {
        (root_id, user_id, count, replies.first_ids[user_id])
        for root_id, replies in threads
        for user_id, count in replies.counts.items()
    }
    return [*_differ("threads", {*rows}, truth), *_differ("thread_members", {*counts}, true_counts)]


async def _rows_of_pins(world: "World", stored: Stored) -> list[str]:
    rows = await world.query("SELECT conversation_id::text, message_id::text FROM pins")
    truth = {(message.conversation_id, message.id) for message in _all(stored) if message.pinned_at is not None}
    return _differ("pins", {*rows}, truth)


def _differ(table: str, rows: set[Any], truth: set[Any]) -> list[str]:
    return [
        *(f"there is a row of {table} that no message explains: {row}" for row in rows - truth),
        *(f"a row of {table} is missing: {row}" for row in truth - rows),
    ]


def _all(stored: Stored) -> Iterable[Message]:
    return (message for messages in stored.values() for message in messages)


# -- REST -------------------------------------------------------------------------------------------


async def _list(world: "World", person: "Person") -> Sequence[Listed]:
    page: ConversationPage = await _get(world, person, "/api/conversations", ConversationPage)
    return page.items


async def _list_threads(world: "World", person: "Person") -> Sequence[Thread]:
    found, query = list[Thread](), dict[str, str]()
    while True:
        page: ThreadPage = await _get(world, person, "/api/threads", ThreadPage, **query)
        found += page.items
        if page.next is None:
            return found
        query["cursor"] = page.next


async def _get(world: "World", person: "Person", path: str, kind: Any, **query: str) -> Any:
    instance = next(one for one in world.instances if one.alive)
    headers = {"Authorization": f"Bearer {person.user.token}"}
    async with plain_http.client(base_url=instance.url, headers=headers) as http:
        answer = await http.get(path, params={"limit": 200, **query})
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=kind)
