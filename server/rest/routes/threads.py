"""REST for threads (docs/rest.md). Owns the routes; `handlers.threads` implements them."""

from quart import Blueprint, Response

from handlers.model import MarkThread
from handlers.threads import Threads
from server.rest.operations import PAGE, SEQ, Answer, operation, query
from server.rest.requests import (
    answer,
    caller,
    cursor,
    limit,
    page,
    path_id,
    query_choice,
    query_number,
    seq_cursor,
)
from server.rest.routes.messages import LIMIT_AND_SEQ, MessagePage
from store.model import Thread, ThreadState, Wire

STATE = Answer(200, ThreadState, "What the thread is to the caller now.")
UNREAD = query(
    "unread", {"type": "boolean", "default": False}, "Only threads with replies that the caller has not read."
)
REPLIES = (
    query("before", SEQ, "Only replies below this `seq`."),
    query("after", SEQ, "Only replies above this `seq`, the oldest first."),
    *LIMIT_AND_SEQ,
)


class ThreadPage(Wire, frozen=True):
    items: tuple[Thread, ...]
    next: str | None


def blueprint(threads: Threads) -> Blueprint:
    routes = Blueprint("threads", __name__, url_prefix="/api")

    @routes.get("/messages/<id:message_id>/replies")
    @operation(
        Answer(200, MessagePage, "A page of messages."), parameters=REPLIES, refuses=("forbidden", "thread_nested")
    )
    async def list_replies(message_id: str) -> Response:
        """List the replies in the thread of a message.

        Ordered by `seq`: the newest first, or the oldest first if `after` is given; without those that were deleted. A
        page of long messages may have fewer than `limit` items without being the last one; only `next` shows whether
        there are more.
        """
        before, after, at = query_number("before", None), query_number("after", None), seq_cursor()
        if at is not None:
            before, after = (at, None) if after is None else (before, at)
        found = await threads.replies(caller(), path_id(message_id), before=before, after=after, limit=limit())
        return page(found.messages, None if found.next is None else str(found.next))

    @routes.get("/threads")
    @operation(Answer(200, ThreadPage, "A page of threads."), parameters=(UNREAD, *PAGE))
    async def list_mine() -> Response:
        """List the threads that the caller follows, where they are a member now.

        The one with the last reply first, of the 2,000 with the newest roots. A page may have fewer than `limit` items
        without being the last one; only `next` shows whether there are more.
        """
        unread = bool(query_choice("unread"))
        items, following = await threads.list(caller(), unread=unread, limit=limit(), cursor=cursor())
        return page(items, following)

    @routes.get("/threads/<id:thread_id>")
    @operation(Answer(200, Thread, "The thread."), refuses=("forbidden", "thread_nested"))
    async def get(thread_id: str) -> Response:
        """Get a thread by its root: whether the caller follows it, and what they have not read of it."""
        return answer(await threads.get(caller(), path_id(thread_id)))

    @routes.put("/threads/<id:thread_id>/read")
    @operation(STATE, takes=MarkThread, refuses=("forbidden", "thread_nested"))
    async def mark_read(thread_id: str, data: MarkThread) -> Response:
        """Mark the replies of a thread as read, up to a `seq`.

        It only rises. It is apart from how far the caller has read the conversation.
        """
        return answer(await threads.mark_read(caller(), path_id(thread_id), data.seq))

    @routes.put("/threads/<id:thread_id>/following")
    @operation(STATE, refuses=("forbidden", "thread_nested"))
    async def follow(thread_id: str) -> Response:
        """Follow a thread. What was said before is read; who follows it already stays as they are."""
        return answer(await threads.follow(caller(), path_id(thread_id)))

    @routes.delete("/threads/<id:thread_id>/following")
    @operation(STATE, refuses=("forbidden", "thread_nested"))
    async def unfollow(thread_id: str) -> Response:
        """Follow a thread no more. Who replies to it, or is mentioned there by name, follows it again."""
        return answer(await threads.unfollow(caller(), path_id(thread_id)))

    return routes
