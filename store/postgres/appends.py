"""A message for the lanes to write, and the reasons for which one is refused.

Owns both types, and the numbers by which the statements refuse (`queries/group_commit.sql`). Touches nothing.
`store.postgres.group_commit` queues and answers messages, `store.postgres.message_batch` writes them.
"""

from collections.abc import Callable
from uuid import UUID

from msgspec import Struct

from store.errors import StoreError
from store.model import Message, MessageType

# What the statement says of each message: 0 when it was written, DUPLICATE when its clientMessageId was used before, or
# one of REFUSALS.
DUPLICATE = 1
REFUSALS = {
    2: "no_conversation",
    3: "not_a_member",
    4: "muted",
    5: "no_reply_target",
    6: "no_file",
    7: "no_such_mention",  # a user who is mentioned is not a member
    8: "mention_all",  # the sender may not mention all members
    9: "posting",  # only admins send here
    10: "slow_mode",
    11: "unavailable",  # the other user of a direct conversation has blocked the sender, or is banned
    12: "banned",
    20: "no_thread",
    21: "thread_nested",  # the message that is replied to is a reply itself
    22: "thread_of_system",
    23: "thread_deleted",
}


class AppendError(Exception):
    """A message that was refused.

    `code` is one of REFUSALS, or invalid_content: PostgreSQL cannot store it, because of a NUL character or a lone
    surrogate. `wait_ms` is a time in milliseconds: with slow_mode, how long the sender has to wait; with muted and
    banned, when that ends, since the epoch; otherwise None.
    """

    def __init__(self, code: str, wait_ms: int | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.wait_ms = wait_ms


Done = Callable[[Message | AppendError | StoreError], None]


class Append(Struct, frozen=True):
    """One message to write. `done` is called once, without awaiting, in order within the conversation.

    `all_up_to`: the message mentions all members; in a conversation with at most that many, any member may do so. None:
    it does not mention all. `thread_id`: the message is a reply in the thread of that message, and shown in the main
    history only if it is `also_in_conversation`.
    """

    message_id: UUID
    conversation_id: UUID
    sender_id: UUID
    type: MessageType
    content: str
    file_id: UUID | None
    reply_to_id: UUID | None
    client_message_id: str | None
    done: Done
    mentions: tuple[UUID, ...] = ()
    all_up_to: int | None = None
    thread_id: UUID | None = None
    also_in_conversation: bool = False
