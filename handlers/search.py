"""Search of messages: what may be asked, and putting a page together.

Owns the limits of a search and the form of its answers. What is found is read again before it is shown: the database
says whether the caller may see it now (`store.postgres.search.list_seen`); whether the text still has the words is
looked at here, as the terms may be a moment behind an edit.
"""

import re
from collections.abc import Generator
from datetime import datetime
from uuid import UUID

import msgspec
import trio

from handlers import page_cursors, permissions
from handlers.errors import ChatError
from handlers.model import Caller, Highlight, SearchHit, SearchMessages, SearchPage
from handlers.ports import Connections
from handlers.rate_limits import Limiter
from store import search_text
from store.ids import epoch_ms
from store.model import Message
from store.postgres import search as store
from store.postgres.conversations import fetch_member
from store.search_text import Match

MAX_QUERY = search_text.MAX_QUERY  # characters
MAX_PAGE = 50  # messages
DEFAULT_PAGE = 20
PAGE_BYTES = 512 * 1024  # octets of the contents of one page
ROUNDS = 3  # looks into the database for one page: what was not looked at then is for the next
TERMS = 50_000  # that are looked through for one page: a tenth of a second
PATIENCE = 1.0  # seconds after which no further one begins

_leap = re.compile(r":60(?=[.Zz+-])")  # a second that clocks here do not have


class Search:
    def __init__(self, pool: Connections, limit: Limiter[UUID]) -> None:
        self._pool = pool
        self._limit = limit

    async def find(self, caller: Caller, asked: SearchMessages) -> SearchPage:
        """A page of what the caller may see now and has all that is asked for, the newest first.

        The work for a page is bounded, so it may end before it is full; `next` says where to go on.
        """
        if len(asked.query) > MAX_QUERY or "\0" in asked.query:
            sentence = f"at most {MAX_QUERY} characters, none of them NUL"
            raise ChatError("invalid_request", f"The query has {sentence}.", errors={"query": sentence})
        before = page_cursors.decode_id(asked.cursor or None)
        scope = store.Scope(
            caller.user_id, asked.conversation_id, _ms("after", asked.after), _ms("before", asked.before)
        )
        query = search_text.parse(asked.query, _marks(asked))
        limit = min(asked.limit or DEFAULT_PAGE, MAX_PAGE)
        self._limit.require(caller.user_id)
        async with self._pool.connection() as conn:
            if asked.conversation_id is not None:
                permissions.require_member(await fetch_member(conn, asked.conversation_id, caller.user_id))
            if query is None:
                return SearchPage((), None)
            hits: list[SearchHit] = []
            size = looked = 0
            began = trio.current_time()
            for turn in range(ROUNDS):
                found = await store.find(conn, scope, query, before, limit + 1, is_first=turn == 0)
                for message in await store.list_seen(conn, caller.user_id, found.ids):
                    if hits and (len(hits) == limit or size + len(message.content) > PAGE_BYTES):
                        return _page(hits, hits[-1].message.id)
                    finding = query.finding(message.content, message.file.name if message.file else None)
                    matches, terms = await _look(finding)
                    looked += terms
                    if matches is not None:  # else it was edited since
                        size += len(message.content)
                        hits.append(_hit(message, matches))
                    if looked > TERMS:
                        return _page(hits, message.id)
                if len(found.ids) > limit:
                    before = found.ids[-1]
                elif found.bound is not None:
                    before = UUID(int=found.bound.int + 1)
                else:
                    return _page(hits, None)
                if trio.current_time() - began > PATIENCE:
                    break
        return _page(hits, before)


async def _look(finding: Generator[int, None, list[Match] | None]) -> tuple[list[Match] | None, int]:
    """Look through a message, with breaks. Return where the words are, and how many terms that took."""
    looked = 0
    while True:
        try:
            looked += next(finding)
        except StopIteration as end:
            return end.value, looked
        await trio.lowlevel.checkpoint()


def _marks(asked: SearchMessages) -> list[str]:
    found = []
    if asked.sender_id is not None:
        found.append(search_text.of_sender(asked.sender_id.bytes))
    if asked.has is not None:
        found.append({"file": search_text.FILE, "link": search_text.LINK}[asked.has])
    return found


def _ms(name: str, text: str | None) -> int | None:
    """Milliseconds since the epoch. Raises ChatError."""
    if text is None:
        return None
    try:
        at = msgspec.convert(_leap.sub(":59", text), datetime)
    except msgspec.ValidationError:
        at = datetime.min
    if at.tzinfo is None:
        sentence = "a time with a time zone, as 2026-01-31T12:00:00Z"
        raise ChatError("invalid_request", f"{name} is {sentence}.", errors={name: sentence})
    try:
        return max(epoch_ms(at), 0)
    except OverflowError:  # of the first or the last day there is
        return 0


def _page(hits: list[SearchHit], before: UUID | None) -> SearchPage:
    return SearchPage(tuple(hits), None if before is None else page_cursors.encode_id(before))


def _hit(message: Message, matches: list[Match]) -> SearchHit:
    shown = []
    for match in matches:
        text = message.file.name if match.in_name and message.file else message.content
        start = search_text.utf16(text, match.start)
        length = search_text.utf16(text[match.start : match.end], match.end - match.start)
        shown.append(Highlight("fileName" if match.in_name else "content", start, length))
    return SearchHit(message, tuple(shown))
