"""A conversation, and a message of one's own, as an application sees them.

Owns what is known of one conversation (its list, members, receipts, who is typing), and the few calculations on it.
What needs a connection is asked of `Actions`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import anyio

from parley_client.errors import ParleyError
from parley_client.events import ConversationRemoved, Event, InConversation, OfOutgoing, Subscription
from parley_client.model import (
    ConversationInfo,
    ConversationType,
    Cursor,
    FileInfo,
    JoinLink,
    Member,
    MemberBan,
    Message,
    MessageReceipt,
    MessageStatus,
    MessageType,
    Page,
    Posting,
    Reactor,
    Role,
    ThreadState,
    User,
)
from parley_client.outbox import Entry, Outbox, Status
from parley_client.view import View

FOR_EVER = "9999-12-31T23:59:59.999Z"
LOADED = 200  # messages that are read at once, to get to one
COUNTED = 1000  # the server counts unread messages among so many of the newest
_STATUS: dict[MessageStatus, Status] = {
    MessageStatus.SENT: "sent",
    MessageStatus.DELIVERED: "delivered",
    MessageStatus.READ: "read",
}


def status_of(message: Message) -> Status:
    """Return what all others had reached with a message when it came."""
    return _STATUS.get(message.status, "sent")


def _ids(people: "Iterable[User | Member | str]") -> list[str]:
    return [one if isinstance(one, str) else one.id if isinstance(one, User) else one.user_id for one in people]


def written(time: datetime) -> str:
    """A time that has a time zone, as servers read it."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds")


def restriction(until: datetime | None, reason: str | None) -> dict[str, Any]:
    """What is said with an act of a moderator; without `until` it is for good."""
    return {"until": None if until is None else written(until), "reason": reason}


class Actions(Protocol):
    """What conversations ask of the connection."""

    @property
    def me(self) -> User: ...

    def require_open(self) -> None: ...
    def subscribe(self, choose: Callable[[Event], Event | None]) -> Subscription[Event]: ...
    def send(
        self,
        conversation_id: str,
        content: str,
        type: MessageType,
        file_id: str | None,
        reply_to_id: str | None,
        client_message_id: str | None,
        mentions: Sequence[str],
        mention_all: bool,
        thread_id: str | None,
        also_in_conversation: bool,
    ) -> "Outgoing": ...
    def status(self, message: Message) -> Status: ...
    def retry(self, outgoing: "Outgoing") -> None: ...
    def discard(self, outgoing: "Outgoing") -> None: ...
    def mark_read(self, conversation_id: str, seq: int) -> None: ...
    def say_typing(self, conversation_id: str, is_typing: bool) -> None: ...
    async def load_older(self, conversation_id: str, limit: int) -> int: ...
    async def page(self, conversation_id: str, query: Mapping[str, Any]) -> Page[Message]: ...
    async def receipts(self, message_id: str, query: Mapping[str, Any]) -> Page[MessageReceipt]: ...
    async def reactors(self, message_id: str, query: Mapping[str, Any]) -> Page[Reactor]: ...
    async def edit(
        self, message_id: str, content: str, mentions: Sequence[str] | None, mention_all: bool | None
    ) -> Message: ...
    async def delete_message(self, message_id: str) -> Message: ...
    async def react(self, message_id: str, emoji: str) -> Message: ...
    async def unreact(self, message_id: str, emoji: str) -> Message: ...
    async def pin(self, message_id: str, is_pinned: bool) -> Message: ...
    async def pins(self, conversation_id: str) -> list[Message]: ...
    async def read_replies(self, root_id: str, limit: int) -> list[Message]: ...
    async def page_replies(self, root_id: str, query: Mapping[str, Any]) -> Page[Message]: ...
    async def set_thread(self, method: str, root_id: str, *arguments: Any) -> ThreadState: ...
    def ask_thread(self, conversation_id: str, root_id: str) -> None: ...
    async def update(self, conversation_id: str, changes: Mapping[str, Any]) -> None: ...
    async def create_link(self, conversation_id: str, body: Mapping[str, Any]) -> JoinLink: ...
    async def links(self, conversation_id: str) -> list[JoinLink]: ...
    async def revoke_link(self, conversation_id: str, link_id: str) -> None: ...
    async def update_settings(self, conversation_id: str, changes: Mapping[str, Any]) -> None: ...
    async def add_member(self, conversation_id: str, user_id: str, role: Role) -> None: ...
    async def remove_member(self, conversation_id: str, user_id: str) -> None: ...
    async def restrict(self, path: str, body: Mapping[str, Any] | None) -> None: ...
    async def kept_out(self, conversation_id: str) -> list[MemberBan]: ...
    async def change_role(self, conversation_id: str, user_id: str, role: Role) -> None: ...
    async def all_members(self, conversation_id: str) -> list[Member]: ...
    async def delete_conversation(self, conversation_id: str) -> None: ...


class Receipt:
    """How far a member has got: it rises, until there is another connection and it is said anew."""

    __slots__ = ("_heard", "delivered", "read")

    def __init__(self) -> None:
        self.delivered = 0
        self.read = 0
        self._heard = (0, 0)  # what was said since `renew`

    def rise(self, status: MessageStatus, seq: int) -> bool:
        before = (self.delivered, self.read)
        read = seq if status is MessageStatus.READ else 0
        self._heard = (max(self._heard[0], seq), max(self._heard[1], read))
        self.delivered, self.read = max(self.delivered, seq), max(self.read, read)
        return before != (self.delivered, self.read)

    def renew(self) -> None:
        """The history may have gone back, and this with it. What is known is shown until it is said anew."""
        self._heard = (0, 0)

    def take(self, member: Member) -> None:
        """Take what the server's answer says: it may be older than what came as an event, but than nothing else."""
        self._heard = (max(self._heard[0], member.delivered_seq), max(self._heard[1], member.read_seq))
        self.delivered, self.read = self._heard


class Conversation:
    """One conversation of the user. It is made by the library, and changes as events come."""

    def __init__(self, info: ConversationInfo, view: View, outbox: Outbox, actions: Actions) -> None:
        self._info = info
        self._view = view
        self._outbox = outbox
        self._actions = actions
        self._receipts: dict[str, Receipt] = {}
        self._typing: dict[str, float] = {}
        self._threads: dict[str, ThreadState] = {}  # by root, as far as something was said of them
        self._heard: set[str] = set()  # roots of which it was said in this round: of others something may have changed
        self._followed: dict[str, bool] = {}  # by root, while something is counted
        self._mark_read = 0  # what is to be said to the server, and was not yet
        self._mark_delivered = 0
        self._round = 0  # of the history: an answer to what was asked for in an earlier one may be of a lost one
        self.is_removed = False

    def __repr__(self) -> str:
        return f"<Conversation {self.id} {self._info.name or self._info.type.value}>"

    # -- what there is -------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self._info.id

    @property
    def type(self) -> ConversationType:
        return self._info.type

    @property
    def name(self) -> str | None:
        """The title of a group."""
        return self._info.name

    @property
    def info(self) -> ConversationInfo:
        """What the server said last; the rest of this object is newer."""
        return self._info

    @property
    def messages(self) -> Sequence[Message]:
        """What is committed, oldest first: without a gap from as far back as it was loaded, and without replies that
        are in their threads only (`replies`). Do not change it."""
        return self._view.main

    @property
    def all_messages(self) -> Sequence[Message]:
        """The same with all replies, as they came. Do not change it."""
        return self._view.messages

    def replies(self, root: Message | str) -> list[Message]:
        """Return the replies in the thread of a message that are loaded, oldest first."""
        root_id = root.id if isinstance(root, Message) else root
        return [message for message in self._view.messages if message.thread_id == root_id]

    @property
    def outgoing(self) -> list["Outgoing"]:
        """What one has sent and is not committed yet, or has failed: to be shown below `messages`."""
        return [Outgoing.of(entry, self._actions) for entry in self._outbox.shown(self.id)]

    @property
    def is_whole(self) -> bool:
        """Whether `messages` reaches back to the beginning."""
        return self._view.is_whole

    @property
    def cursor(self) -> Cursor | None:
        return self._view.cursor

    @property
    def head(self) -> int:
        """The number of the last change."""
        return max(self._info.last_seq, self._view.cursor.seq if self._view.cursor else 0)

    @property
    def last_message(self) -> Message | None:
        return self._view.messages[-1] if self._view.messages else self._info.last_message

    @property
    def members(self) -> Sequence[Member]:
        """The members, of a large group the first ones: `all_members` reads the others."""
        return self._info.members

    @property
    def is_archived(self) -> bool:
        return self._info.settings.archived

    @property
    def is_favourite(self) -> bool:
        return self._info.settings.favourite

    @property
    def muted_until(self) -> datetime | None:
        """No notifications are wanted before this time; for ever: `datetime.max`, or almost. None: they are."""
        said = self._info.settings.notifications.muted_until
        return None if said is None else datetime.fromisoformat(said.replace("Z", "+00:00"))

    @property
    def is_muted(self) -> bool:
        """Whether no notifications are wanted now."""
        until = self.muted_until
        return until is not None and until > datetime.now(UTC)

    @property
    def typing(self) -> set[str]:
        """The ids of the other users who are typing."""
        return set(self._typing)

    @property
    def read_seq(self) -> int:
        """How far one has read, on any device."""
        mine = self._receipts.get(self._actions.me.id)
        return max(mine.read if mine else 0, self._mark_read)

    @property
    def unread_count(self) -> int:
        """How many messages of others one has not read, among the newest 1,000. Of replies in threads that one does not
        follow those that mention one."""
        return self._count(self._is_unread, self._info.unread_count)

    @property
    def mention_count(self) -> int:
        """How many messages that one has not read mention one, by name or as one of all."""
        return self._count(self._is_unread_mention, self._info.mention_count)

    def _count(self, is_counted: Callable[[Message], bool], listed: int) -> int:
        """Of what is loaded, if that is all since one has read; else as the server has counted, and what came since."""
        self._followed.clear()
        mine = self._receipts.get(self._actions.me.id)
        read = self.read_seq
        if mine is not None and self._view.floor <= read:
            return sum(map(is_counted, self._view.messages[-COUNTED:]))
        if read >= self.head:
            return 0
        later = (message for message in self._view.messages[-COUNTED:] if message.seq > self._info.last_seq)
        return min(COUNTED, listed + sum(map(is_counted, later)))

    def _is_unread(self, message: Message) -> bool:
        if not self._is_after(message):
            return False
        if message.thread_id is None or message.also_in_conversation or message.mentions_user(self._actions.me.id):
            return True
        if message.thread_id not in self._followed:
            self._followed[message.thread_id] = self.is_following(message.thread_id)
        return self._followed[message.thread_id]

    def _is_after(self, message: Message) -> bool:
        is_others = message.sender_id != self._actions.me.id
        return is_others and message.seq > self.read_seq and message.deleted_at is None

    def _is_unread_mention(self, message: Message) -> bool:
        return message.mentions_user(self._actions.me.id) and self._is_after(message)

    def is_following(self, root: Message | str) -> bool:
        """Whether one follows a thread: as was said of it last, and what has come since; else as far as it is loaded.
        The server is asked where it has not said so on this connection: see `ThreadChanged`."""
        root_id, me = root.id if isinstance(root, Message) else root, self._actions.me.id
        if root_id not in self._heard:
            self._actions.ask_thread(self.id, root_id)
        state = self._threads.get(root_id)
        if state is not None and state.is_following:
            return True
        said = 0 if state is None else state.last_reply_seq
        later = [message for message in self.replies(root_id) if message.seq > said]
        if any(message.sender_id == me or me in message.mentions for message in later):
            return True
        found = self._view.get(root_id)
        is_first = state is None or (state.version == 0 and said == 0)
        return bool(is_first and later and found and (found.sender_id == me or me in found.mentions))

    def get(self, message_id: str) -> Message | None:
        """Return a message that is loaded."""
        return self._view.get(message_id)

    def status(self, message: Message) -> Status:
        """Return what all others have reached with a message, as far as it is known by now."""
        known = status_of(message)
        others = [member.user_id for member in self._info.members if member.user_id != message.sender_id]
        if known == "read" or not others or self._info.member_count > len(self._info.members):
            return known
        receipts = [self._receipts.get(user_id) or Receipt() for user_id in others]
        if min(receipt.read for receipt in receipts) >= message.seq:
            return "read"
        if min(receipt.delivered for receipt in receipts) >= message.seq:
            return "delivered"
        return known

    def events(self) -> Subscription[Event]:
        """Iterate over what happens in this conversation from now on."""
        return self._actions.subscribe(self._is_here)

    def _is_here(self, event: Event) -> Event | None:
        match event:
            case InConversation(conversation=found):
                return event if found is self else None
            case ConversationRemoved(conversation_id=id_) | OfOutgoing(outgoing=Outgoing(conversation_id=id_)):
                return event if id_ == self.id else None
        return None

    # -- what one does -------------------------------------------------------------------------------------------------

    def send(
        self,
        content: str,
        *,
        type: MessageType = MessageType.TEXT,
        file: FileInfo | str | None = None,
        reply_to: Message | str | None = None,
        client_message_id: str | None = None,
        mentions: Iterable[User | Member | str] = (),
        mention_all: bool = False,
        thread: Message | str | None = None,
        also_in_conversation: bool = False,
    ) -> "Outgoing":
        """Send a message. It is queued at once, and sent until it is committed or refused: see `Outgoing`.

        `file` is one that was uploaded (`Chat.upload`); the type is then Image or File, as it is. A program that sends
        again after its own crash gives the message a `client_message_id` of its own (1 to 128 visible characters):
        repeated within seven days it is the message that was sent, as it was sent. `mentions` are members: for them, or
        for all with `mention_all`, the message counts in `mention_count`. `thread` is the message to which it is a
        reply in a thread; the main history shows it, too, if it is `also_in_conversation`.
        """
        file_id = file.id if isinstance(file, FileInfo) else file
        if isinstance(file, FileInfo) and type is MessageType.TEXT:
            type = MessageType.IMAGE if file.content_type.startswith("image/") else MessageType.FILE
        reply_to_id = reply_to.id if isinstance(reply_to, Message) else reply_to
        thread_id = thread.id if isinstance(thread, Message) else thread
        named = _ids(mentions)
        return self._actions.send(
            *(self.id, content, type, file_id, reply_to_id, client_message_id),
            *(named, mention_all, thread_id, also_in_conversation),
        )

    def mark_read(self, seq: int | None = None) -> None:
        """Say that everything up to a seq was read; all there is when it is left out. It is repeated until durable.
        While the conversation is read anew it is passed over: what is shown is not what is there."""
        self._actions.mark_read(self.id, self.head if seq is None else seq)

    def start_typing(self) -> None:
        """Say that one is typing: with each key, for it is passed on every few seconds at most."""
        self._actions.say_typing(self.id, True)

    def stop_typing(self) -> None:
        self._actions.say_typing(self.id, False)

    async def load_older(self, limit: int = 50) -> int:
        """Read further back. Returns how many messages have been added at the front of `messages`; 0 at the end."""
        return await self._actions.load_older(self.id, limit)

    async def load_to(self, message: Message | str) -> Message | None:
        """Read further back until a message is in `messages`. None: it is not there to be read."""
        message_id = message if isinstance(message, str) else message.id
        while (found := self.get(message_id)) is None and await self.load_older(LOADED):
            pass
        return found

    async def page(
        self, *, before: int | str | None = None, after: int | str | None = None, limit: int = 50
    ) -> Page[Message]:
        """Return a page of the history with all replies, which does not become part of `messages`: newest first before
        a seq, oldest first after one. `next` is the next `before`, or `after`."""
        return await self._actions.page(self.id, {"before": before, "after": after, "limit": limit})

    async def receipts(
        self, message: Message | str, *, cursor: str | None = None, limit: int = 200
    ) -> Page[MessageReceipt]:
        """Return who has received a message, and who has read it."""
        message_id = message if isinstance(message, str) else message.id
        return await self._actions.receipts(message_id, {"cursor": cursor, "limit": limit})

    async def reactors(
        self, message: Message | str, *, emoji: str | None = None, cursor: str | None = None, limit: int = 200
    ) -> Page[Reactor]:
        """Return who has reacted to a message, to each emoji the first before the later ones; or to one emoji alone."""
        message_id = message if isinstance(message, str) else message.id
        return await self._actions.reactors(message_id, {"emoji": emoji, "cursor": cursor, "limit": limit})

    async def edit(
        self,
        message: Message | str,
        content: str,
        *,
        mentions: Iterable[User | Member | str] | None = None,
        mention_all: bool | None = None,
    ) -> Message:
        """Replace the content, and whom the message mentions where that is given."""
        message_id = message if isinstance(message, str) else message.id
        named = None if mentions is None else _ids(mentions)
        return await self._actions.edit(message_id, content, named, mention_all)

    async def delete(self, message: Message | str) -> Message:
        """Delete a message: it keeps its place, without content."""
        return await self._actions.delete_message(message if isinstance(message, str) else message.id)

    async def react(self, message: Message | str, emoji: str) -> Message:
        """Put an emoji, or the name of one between colons, under a message. The same again changes nothing."""
        return await self._actions.react(message if isinstance(message, str) else message.id, emoji)

    async def unreact(self, message: Message | str, emoji: str) -> Message:
        """Take one's own reaction back."""
        return await self._actions.unreact(message if isinstance(message, str) else message.id, emoji)

    async def pin(self, message: Message | str) -> Message:
        """Keep a message at hand for all members. The same again changes nothing."""
        return await self._actions.pin(message if isinstance(message, str) else message.id, True)

    async def unpin(self, message: Message | str) -> Message:
        return await self._actions.pin(message if isinstance(message, str) else message.id, False)

    async def pins(self) -> list[Message]:
        """What is pinned, the last one to be pinned first: read from the server, also what is not loaded."""
        return await self._actions.pins(self.id)

    async def read_replies(self, root: Message | str, limit: int = 200) -> list[Message]:
        """Read the newest replies in a thread from the server, also such as are not loaded, oldest first."""
        return await self._actions.read_replies(root.id if isinstance(root, Message) else root, limit)

    async def page_replies(
        self, root: Message | str, *, before: int | str | None = None, limit: int = 50
    ) -> Page[Message]:
        """Return a page of the replies in a thread, newest first before a seq, which does not become part of `replies`.
        `next` is the next `before`."""
        root_id = root.id if isinstance(root, Message) else root
        return await self._actions.page_replies(root_id, {"before": before, "limit": limit})

    async def mark_thread_read(self, root: Message | str, seq: int | None = None) -> ThreadState:
        """Say that the replies in a thread were read up to a seq; all there are when it is left out."""
        root_id = root.id if isinstance(root, Message) else root
        return await self._actions.set_thread("MarkThreadRead", root_id, self.head if seq is None else seq)

    async def follow_thread(self, root: Message | str) -> ThreadState:
        """Follow a thread: its replies are unread from now on."""
        return await self._actions.set_thread("FollowThread", root.id if isinstance(root, Message) else root)

    async def unfollow_thread(self, root: Message | str) -> ThreadState:
        """Follow a thread no more, until one replies there, or is mentioned."""
        return await self._actions.set_thread("UnfollowThread", root.id if isinstance(root, Message) else root)

    async def rename(self, name: str) -> None:
        await self._actions.update(self.id, {"name": name})

    async def update(
        self,
        *,
        name: str | None = None,
        description: str | None = None,
        avatar_url: str | None = None,
        posting: Posting | None = None,
        slow_mode_seconds: int | None = None,
        is_public: bool | None = None,
    ) -> None:
        """Change a group; what is left out stays as it is. An empty description or picture takes it away."""
        changes: dict[str, Any] = {
            "name": name,
            "description": description,
            "avatarUrl": avatar_url,
            "posting": posting and posting.value,
            "slowModeSeconds": slow_mode_seconds,
            "isPublic": is_public,
        }
        await self._actions.update(
            self.id, {field: None if value == "" else value for field, value in changes.items() if value is not None}
        )

    async def create_link(self, *, expires_in: int | None = None, max_uses: int | None = None) -> JoinLink:
        """Make a link by which people join (`Chat.join`), for so many seconds: its `token` is shown this once."""
        return await self._actions.create_link(self.id, {"expiresInSeconds": expires_in, "maxUses": max_uses})

    async def links(self) -> list[JoinLink]:
        """The links of the group, for its admins: read from the server."""
        return await self._actions.links(self.id)

    async def revoke_link(self, link: JoinLink | str) -> None:
        await self._actions.revoke_link(self.id, link if isinstance(link, str) else link.id)

    async def update_settings(self, *, archived: bool | None = None, favourite: bool | None = None) -> None:
        """Archive it, or make it a favourite, for oneself, on all one's devices. What is left out stays as it is."""
        changes = {"archived": archived, "favourite": favourite}
        await self._actions.update_settings(self.id, {name: one for name, one in changes.items() if one is not None})

    async def mute(self, until: datetime | None = None) -> None:
        """Want no notifications, for ever or until a time that has a time zone; on all one's devices."""
        said = FOR_EVER if until is None else written(until)
        await self._actions.update_settings(self.id, {"notifications": {"mutedUntil": said}})

    async def unmute(self) -> None:
        await self._actions.update_settings(self.id, {"notifications": {"mutedUntil": None}})

    async def add_member(self, user: User | str, role: Role = Role.MEMBER) -> None:
        await self._actions.add_member(self.id, user if isinstance(user, str) else user.id, role)

    async def remove_member(self, user: User | str) -> None:
        await self._actions.remove_member(self.id, user if isinstance(user, str) else user.id)

    async def mute_member(self, user: User | str, *, until: datetime | None = None, reason: str | None = None) -> None:
        """A member sends, edits and reacts no more until a time that has a zone, or for good. For admins and owners of
        a group, and moderators of the service. `reason` is for the audit log."""
        [user_id] = _ids([user])
        await self._actions.restrict(f"/api/conversations/{self.id}/members/{user_id}/mute", restriction(until, reason))

    async def unmute_member(self, user: User | str) -> None:
        [user_id] = _ids([user])
        await self._actions.restrict(f"/api/conversations/{self.id}/members/{user_id}/mute", None)

    async def keep_out(self, user: User | str, *, until: datetime | None = None, reason: str | None = None) -> None:
        """Remove a user from a group, if they are a member; they do not come back before then, or never. For the same
        people."""
        [user_id] = _ids([user])
        await self._actions.restrict(f"/api/conversations/{self.id}/bans/{user_id}", restriction(until, reason))

    async def let_in(self, user: User | str) -> None:
        [user_id] = _ids([user])
        await self._actions.restrict(f"/api/conversations/{self.id}/bans/{user_id}", None)

    async def kept_out(self) -> list[MemberBan]:
        """Who is kept out, and until when: read from the server."""
        return await self._actions.kept_out(self.id)

    async def change_role(self, user: User | str, role: Role) -> None:
        await self._actions.change_role(self.id, user if isinstance(user, str) else user.id, role)

    async def all_members(self) -> list[Member]:
        return await self._actions.all_members(self.id)

    async def leave(self) -> None:
        await self._actions.remove_member(self.id, self._actions.me.id)

    async def delete_for_all(self) -> None:
        await self._actions.delete_conversation(self.id)


class Outgoing:
    """A message of one's own, from `send` on. The same object for as long as anybody holds it."""

    def __init__(self, entry: Entry, actions: Actions) -> None:
        self._entry = entry
        self._actions = actions
        self._waiters: list[anyio.Event] = []
        entry.watch(self)

    @classmethod
    def of(cls, entry: Entry, actions: Actions) -> "Outgoing":
        """Return the object of an entry: the one that there is, or a new one."""
        known = entry.watcher
        return known if isinstance(known, Outgoing) else cls(entry, actions)

    def __repr__(self) -> str:
        return f"<Outgoing {self.id} {self.status}>"

    @property
    def id(self) -> str:
        """Its `clientMessageId`."""
        return self._entry.draft.id

    @property
    def conversation_id(self) -> str:
        return self._entry.draft.conversation_id

    @property
    def content(self) -> str:
        return self._entry.draft.content

    @property
    def status(self) -> Status:
        """`pending`, `sent`, `delivered`, `read`, or `failed`. It rises, but for a history that goes back: what is in
        it no more is pending again, and of what is, the others have reached what the server says by then."""
        entry = self._entry
        return self._actions.status(entry.message) if entry.stage == "sent" and entry.message else entry.stage

    @property
    def error(self) -> ParleyError | None:
        """Why it has failed."""
        return self._entry.error

    @property
    def message(self) -> Message | None:
        """The message, once it is committed."""
        return self._entry.message

    def retry(self) -> None:
        """Send a message that failed again, as the same message."""
        self._actions.retry(self)

    def discard(self) -> None:
        """Give up a message that failed."""
        self._actions.discard(self)

    async def committed(self) -> Message:
        """Wait until it is committed, through whatever happens to the connection. Raises the error if it is refused, or
        what has closed the chat."""
        while True:
            if self._entry.stage == "failed":
                assert self._entry.error is not None
                raise self._entry.error
            if self._entry.message is not None and self._entry.stage == "sent":
                return self._entry.message
            self._actions.require_open()
            event = anyio.Event()
            self._waiters.append(event)
            try:
                await event.wait()
            finally:
                self._waiters.remove(event)

    def _on_changed(self) -> None:
        for event in self._waiters:
            event.set()
