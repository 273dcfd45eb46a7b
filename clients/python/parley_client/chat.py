"""The chat of one user: what an application holds.

Owns the public face, and the way in and out (`connect`). Everything that goes on behind it is the engine's.
"""

import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import anyio
import anyio.to_thread
from msgspec import UNSET, UnsetType

from parley_client.conversation import Conversation, Outgoing, restriction, status_of, written
from parley_client.engine import CLOSE_TIMEOUT, PAGE, Engine
from parley_client.errors import ParleyError
from parley_client.events import Broadcaster, Event, MessageReceived, State, Subscription
from parley_client.groups import single
from parley_client.http import ask, open_client, server_url
from parley_client.model import (
    Block,
    ConversationInfo,
    ConversationSettings,
    FileInfo,
    FullReport,
    JoinLink,
    Link,
    Member,
    MemberBan,
    Message,
    MessageReceipt,
    MessageType,
    Page,
    Presence,
    Privacy,
    PublicGroup,
    Reactor,
    Registration,
    Report,
    Role,
    SearchHit,
    SessionInfo,
    Standing,
    Thread,
    ThreadState,
    UnreadTotals,
    User,
    UserRole,
    UserStatus,
    decoded,
)
from parley_client.outbox import Status
from parley_client.replica import KEPT, Replica
from parley_client.rest import Rest
from parley_client.store import MemoryStore, Store
from parley_client.tokens import TokenGiver, TokenSource

T = TypeVar("T")

TYPING_AGAIN = 3.0  # seconds after which it is said again that one is typing


class Chat:
    """One signed-in user. Made by `connect`."""

    def __init__(
        self,
        url: str,
        token: TokenSource,
        store: Store,
        *,
        keep: int,
        gives_delivered: bool,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self.url = url
        self._tokens = TokenGiver(token)
        self._rest = Rest(url, self._tokens, ssl_context=ssl_context)
        self._broadcaster = Broadcaster()
        self._first_messages = self._broadcaster.unclaimed(_message_of)
        self._first_events = self._broadcaster.unclaimed(_itself)
        self._engine = Engine(
            url,
            self._tokens,
            self._rest,
            store,
            self._broadcaster,
            lambda wake: Replica(self, self._emit, wake, keep=keep),
            gives_delivered=gives_delivered,
            ssl_context=ssl_context,
        )
        self._replica = self._engine.replica
        self._said_typing: dict[str, float] = {}
        self._users: dict[str, User] = {}

    # -- what there is -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """`connecting`, `catching_up`, `live`, `offline` or `closed`."""
        return self._engine.state

    @property
    def reason(self) -> ParleyError | None:
        """Why the chat is offline, or closed."""
        return self._engine.reason

    @property
    def me(self) -> User:
        """The user. Raises ParleyError before the first connection."""
        if self._engine.me is None:
            raise ParleyError("network", "there was no connection yet: who the user is is not known")
        return self._engine.me

    @property
    def conversations(self) -> Sequence[Conversation]:
        """All conversations of the user, the most recently active first. A new one is among them, and its events come,
        when its members are known."""

        def activity(one: Conversation) -> tuple[str, str]:
            last = one.last_message
            return (last.created_at if last else one.info.created_at, one.id)

        known = [one for one in self._replica.conversations.values() if one.info.members]
        return sorted(known, key=activity, reverse=True)

    def conversation(self, conversation_id: str) -> Conversation:
        """Return a conversation of the user. Raises ParleyError (`not_found`) if there is none with this id."""
        found = self._replica.conversations.get(conversation_id)
        if found is None:
            raise ParleyError("not_found", f"there is no conversation {conversation_id}")
        return found

    @property
    def presence(self) -> dict[str, Presence]:
        """How other users are to be shown, of those that something was heard of."""
        return dict(self._replica.presence)

    # -- what happens --------------------------------------------------------------------------------------------------

    def messages(self) -> Subscription[Message]:
        """Iterate over every message that this client had not seen: in each conversation each once, by rising seq;
        one's own too. It goes on through lost connections, and raises what has closed the chat. The first such
        iterator also has what was missed until it was made, while the program did not run."""
        return self._first_messages.claim()

    def events(self) -> Subscription[Event]:
        """Iterate over everything that happens; the first such iterator also has what was missed until it was made."""
        return self._first_events.claim()

    def subscribe(self, choose: Callable[[Event], Event | None]) -> Subscription[Event]:
        """Iterate over the events that a function chooses."""
        return self._broadcaster.subscribe(choose)

    async def wait_live(self) -> None:
        """Wait until everything that was missed is there. Raises what has closed the chat."""
        await self._engine.until(lambda: self._engine.state == "live")

    async def flush(self) -> None:
        """Wait until everything that was sent is committed or refused."""
        for conversation_id in self._replica.outbox.conversations():
            while (entry := self._replica.outbox.waiting(conversation_id)) is not None:
                try:
                    await Outgoing.of(entry, self).committed()
                except ParleyError:
                    if self.state == "closed":
                        raise

    def connect_now(self) -> None:
        """Make the next attempt at once: for applications that hear of the network being back."""
        self._engine.connect_now()

    # -- conversations and users ---------------------------------------------------------------------------------------

    async def direct(self, user: User | str) -> Conversation:
        """Return the conversation with another user: the one that there is, or a new one."""
        user_id = user if isinstance(user, str) else user.id
        return await self._begin("/api/conversations", {"type": "Direct", "memberIds": [user_id]})

    async def group(self, name: str, users: Sequence[User | str] = ()) -> Conversation:
        """Begin a group."""
        ids = [user if isinstance(user, str) else user.id for user in users]
        return await self._begin("/api/conversations", {"type": "Group", "name": name, "memberIds": ids})

    async def join(self, token: str) -> Conversation:
        """Join a group by the token of a link; who is a member already stays. Raises ParleyError (`not_found`)."""
        return await self._begin("/api/join", {"token": token})

    async def join_group(self, group: PublicGroup | str) -> Conversation:
        """Join a public group. Raises ParleyError (`not_found`)."""
        return await self._begin(f"/api/conversations/{group if isinstance(group, str) else group.id}/join", {})

    async def search_groups(self, text: str = "", *, limit: int = 50, cursor: str | None = None) -> Page[PublicGroup]:
        """Find public groups by the beginning of a word in their name or description.

        A page may have few items, or none, without being the last one; only if `next` is None there is no more.
        """
        return await self._rest.get("/api/groups", Page[PublicGroup], q=text, limit=limit, cursor=cursor)

    async def _begin(self, path: str, body: dict[str, Any]) -> Conversation:
        rounds = self._replica.rounds()
        found = self._replica.take_answer(await self._rest.post(path, body, ConversationInfo), rounds)
        if found is None:
            raise ParleyError("not_found", "the conversation was removed meanwhile")
        return found

    async def user(self, user_id: str) -> User:
        """Return a user. It is asked for once."""
        if user_id == self.me.id:
            return self.me
        if user_id not in self._users:
            self._users[user_id] = await self._rest.get(f"/api/users/{user_id}", User)
        return self._users[user_id]

    async def find_user(self, username: str) -> User | None:
        """Return the user with this name, in any case, or None."""
        for user in await self.search_users(username, limit=PAGE):
            if user.username.casefold() == username.casefold():
                return user
        return None

    async def search_users(self, text: str, *, limit: int = 50) -> list[User]:
        page = await self._rest.get("/api/users", Page[User], q=text, limit=limit)
        self._users.update({user.id: user for user in page.items})
        return list(page.items)

    async def search_messages(
        self,
        text: str,
        *,
        conversation_id: str | None = None,
        sender_id: str | None = None,
        before: str | None = None,
        after: str | None = None,
        has: Literal["file", "link"] | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> Page[SearchHit]:
        """Find messages by words, "phrases" and beginnings*, the newest first; `before` and `after` are times.

        A page may have few items, or none, without being the last one; only if `next` is None there is no more.
        """
        asked: dict[str, Any] = {
            "conversationId": conversation_id,
            "senderId": sender_id,
            "before": before,
            "after": after,
            "has": has,
            "cursor": cursor,
        }
        return await self._rest.get("/api/search/messages", Page[SearchHit], q=text, limit=limit, **asked)

    async def mentions(self, *, limit: int = 50, cursor: str | None = None) -> Page[Message]:
        """The messages that mention the user, by name or as one of all, the newest first.

        A page may have few items without being the last one; only if `next` is None there is no more.
        """
        return await self._rest.get("/api/mentions", Page[Message], limit=limit, cursor=cursor)

    async def message(self, message_id: str) -> Message:
        """Return a message as it is now, of any conversation of the user, loaded or not."""
        return await self._rest.get(f"/api/messages/{message_id}", Message)

    async def get_presence(self, user_ids: Sequence[str]) -> list[Presence]:
        """Ask how users are to be shown, at most 200. From then on `presence` has them."""
        found: list[Presence] = await self._engine.call("GetPresence", list(user_ids), kind=list[Presence])
        for one in found:
            self._replica.presence[one.user_id] = one
        return found

    async def privacy(self) -> Privacy:
        """What the user shows to others, and sees of them."""
        return await self._rest.get("/api/users/me/privacy", Privacy)

    async def block(self, user: User | str) -> None:
        """Keep a user away: no direct messages of theirs, and neither sees when the other is there. They do not learn
        it."""
        await self._rest.request("PUT", f"/api/users/me/blocks/{_id(user)}")
        self._replica.set_blocks(self.blocked_ids | {_id(user)})

    async def unblock(self, user: User | str) -> None:
        await self._rest.delete(f"/api/users/me/blocks/{_id(user)}")
        self._replica.set_blocks(self.blocked_ids - {_id(user)})

    @property
    def blocked_ids(self) -> frozenset[str]:
        """Whom the user has blocked, kept current, whichever device of theirs has done it: see `BlocksChanged`."""
        return self._replica.blocked

    def is_blocked(self, user: User | str) -> bool:
        return _id(user) in self.blocked_ids

    async def report(
        self,
        category: str,
        *,
        message: Message | str | None = None,
        user: User | str | None = None,
        comment: str | None = None,
    ) -> Report:
        """Report a message or a user to the moderators: as Spam, Harassment, Hate, Violence, Sexual, SelfHarm or
        Other."""
        body = {
            "category": category,
            "messageId": message if message is None or isinstance(message, str) else message.id,
            "userId": None if user is None else _id(user),
            "comment": comment,
        }
        return await self._rest.post("/api/reports", body, Report)

    async def own_reports(self, *, limit: int = 50, cursor: str | None = None) -> Page[Report]:
        """What the user has reported, the oldest first."""
        return await self._rest.get("/api/users/me/reports", Page[Report], limit=limit, cursor=cursor)

    async def blocks(self) -> list[Block]:
        """The users whom the user has blocked, all of them, read from the server."""
        return await self._engine.list_blocks()

    async def set_privacy(
        self, *, read_receipts: bool | None = None, typing: bool | None = None, last_seen: bool | None = None
    ) -> Privacy:
        """Change what is given: what the user hides from others, they do not see of them."""
        body = {"readReceipts": read_receipts, "typing": typing, "lastSeen": last_seen}
        return await self._rest.put("/api/users/me/privacy", body, Privacy)

    async def unread(self) -> UnreadTotals:
        """What the user has not read, as the server counts it. Where it is `capped`, there may be more."""
        return await self._rest.get("/api/users/me/unread", UnreadTotals)

    async def update_me(
        self,
        *,
        display_name: str | None = None,
        avatar_url: str | UnsetType | None = UNSET,
        email: str | UnsetType | None = UNSET,
        status_text: str | UnsetType | None = UNSET,
    ) -> User:
        """Change what is given of the user's own account; None takes it away."""
        given = {"avatarUrl": avatar_url, "email": email, "statusText": status_text}
        body = {name: value for name, value in given.items() if value is not UNSET}
        found = await self._rest.put(
            "/api/users/me", body | ({"displayName": display_name} if display_name else {}), User
        )
        self._engine.take_me(found)
        return found

    async def sessions(self) -> list[SessionInfo]:
        """Where the user is signed in, the newest first."""
        return await self._all("/auth/sessions", Page[SessionInfo])

    async def end_session(self, session: SessionInfo | str) -> None:
        """Sign out somewhere else, or here."""
        await self._rest.delete(f"/auth/sessions/{session if isinstance(session, str) else session.id}")

    async def export(self) -> bytes:
        """Return all data of the user, as a ZIP file."""
        answer = await self._rest.request("GET", "/api/users/me/export", timeout=300)
        return answer.content

    async def delete_account(self) -> None:
        """Erase the user: their messages stay, as those of a deleted user. The chat is closed."""
        await self._rest.delete(f"/api/users/{self.me.id}")

    # -- for moderators of the service ---------------------------------------------------------------------------------

    async def standing(self, user: User | str | None = None) -> Standing:
        """One's own role in the service, or for moderators anybody's, and until when they are banned."""
        return await self._rest.get(f"/api/users/{_id(user or self.me)}/standing", Standing)

    async def reports(
        self,
        *,
        state: Literal["open", "resolved"] | None = None,
        user: User | str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[FullReport]:
        """Reports, the oldest first: those about one user, or all."""
        about = None if user is None else _id(user)
        return await self._rest.get(
            "/api/reports", Page[FullReport], state=state, userId=about, limit=limit, cursor=cursor
        )

    async def resolve_report(
        self, report: Report | str, *, note: str | None = None, act: str | None = None, until: datetime | None = None
    ) -> FullReport:
        """Decide on a report, with a note for other moderators, and what is done with the decision: `act` is
        `DeleteMessage`, `MuteMember`, `KeepOut` or `BanUser`, until a time that has a zone, or for good."""
        report_id = report if isinstance(report, str) else report.id
        said = {"note": note, "act": act, "until": None if until is None else written(until)}
        return await self._rest.put(f"/api/reports/{report_id}/resolution", said, FullReport)

    async def ban(self, user: User | str, *, until: datetime | None = None, reason: str | None = None) -> Standing:
        """Ban a user until a time that has a zone, or for good. `reason` is for the audit log, as in all of these."""
        return await self._rest.put(f"/api/users/{_id(user)}/ban", restriction(until, reason), Standing)

    async def unban(self, user: User | str, *, reason: str | None = None) -> Standing:
        return await self._rest.remove(f"/api/users/{_id(user)}/ban", Standing, reason=reason)

    async def end_sessions(self, user: User | str, *, reason: str | None = None) -> Standing:
        """End all sessions and connections of a user, who may sign in again."""
        return await self._rest.remove(f"/api/users/{_id(user)}/sessions", Standing, reason=reason)

    async def rename_user(
        self,
        user: User | str,
        *,
        username: str | None = None,
        display_name: str | None = None,
        reason: str | None = None,
    ) -> User:
        """Give a user another name; what is left out stays."""
        body = {"username": username, "displayName": display_name, "reason": reason}
        return await self._rest.put(f"/api/users/{_id(user)}/name", body, User)

    async def set_user_role(self, user: User | str, role: UserRole, *, reason: str | None = None) -> Standing:
        """For administrators."""
        return await self._rest.put(f"/api/users/{_id(user)}/role", {"role": role.value, "reason": reason}, Standing)

    # -- lists and files -----------------------------------------------------------------------------------------------

    async def threads(self, *, unread: bool = False) -> list[Thread]:
        """The threads that the user follows, the one with the last reply first; with `unread` those that have replies
        which they have not read. Of the 2,000 with the newest roots."""
        rounds = self._replica.rounds()
        found = await self._all("/api/threads", Page[Thread], unread="true" if unread else None)
        for one in found:
            self._replica.take_thread(one, rounds)
        return found

    async def set_status(self, status: UserStatus, text: str | None = None) -> None:
        await self._engine.call("UpdateStatus", status.value, text, kind=Any)

    # -- files ---------------------------------------------------------------------------------------------------------

    async def upload(self, path: str | Path, *, name: str | None = None) -> FileInfo:
        """Upload a file, to be sent with a message."""
        path = Path(path)
        try:
            file: BinaryIO = await anyio.to_thread.run_sync(open, path, "rb")
        except OSError as error:
            raise ParleyError("invalid_request", f"{path} cannot be read: {error.strerror or error}") from None
        try:
            content = await anyio.to_thread.run_sync(file.read)
        finally:
            file.close()
        return await self.upload_bytes(content, name or path.name)

    async def upload_bytes(self, content: bytes, name: str) -> FileInfo:
        answer = await self._rest.request(
            "POST", "/api/files/upload", key=_key(), files={"file": (name, content)}, timeout=300
        )
        found: FileInfo = decoded(answer.content, FileInfo)
        return found

    async def download(self, file: FileInfo | str) -> bytes:
        """Return the content of a file."""
        key = file if isinstance(file, str) else file.key
        answer = await self._rest.request("GET", f"/api/files/{key}", follow_redirects=True)
        return answer.content

    async def link(self, file: FileInfo | str) -> Link:
        """Return where a file can be read without an access token, for some minutes."""
        return await self._rest.get(
            "/api/files/presigned-url", Link, fileKey=file if isinstance(file, str) else file.key
        )

    async def delete_file(self, file: FileInfo) -> None:
        """Delete a file of one's own: messages show none from then on."""
        await self._rest.delete("/api/files", fileUrl=file.url)

    # -- what conversations ask for (see `conversation.Actions`) -------------------------------------------------------

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
    ) -> Outgoing:
        self.require_open()
        entry = self._replica.outbox.add(
            conversation_id,
            content,
            type=type.value,
            file_id=file_id,
            reply_to_id=reply_to_id,
            client_message_id=client_message_id,
            mentions=mentions,
            mention_all=mention_all,
            thread_id=thread_id,
            also_in_conversation=also_in_conversation,
        )
        self._replica.touch_outbox()
        return Outgoing.of(entry, self)

    def status(self, message: Message) -> Status:
        """Return what all others have reached with a message, as far as it is known by now."""
        found = self._replica.conversations.get(message.conversation_id)
        return status_of(message) if found is None else found.status(message)

    def retry(self, outgoing: Outgoing) -> None:
        self._replica.outbox.retry(outgoing._entry)
        self._replica.touch_outbox()

    def discard(self, outgoing: Outgoing) -> None:
        self._replica.outbox.discard(outgoing._entry)
        self._replica.touch_outbox()

    def mark_read(self, conversation_id: str, seq: int) -> None:
        found = self._replica.conversations.get(conversation_id)
        if found is not None:  # of one that is gone there is nothing to say
            self._replica.mark_read(found, seq)

    def say_typing(self, conversation_id: str, is_typing: bool) -> None:
        now = anyio.current_time()
        if not is_typing:
            if self._said_typing.pop(conversation_id, None) is not None:
                self._engine.say("StopTyping", conversation_id)
        elif now - self._said_typing.get(conversation_id, -TYPING_AGAIN) >= TYPING_AGAIN:
            self._said_typing[conversation_id] = now
            self._engine.say("StartTyping", conversation_id)

    async def load_older(self, conversation_id: str, limit: int) -> int:
        return await self._engine.load_older(self.conversation(conversation_id), limit)

    async def page(self, conversation_id: str, query: Mapping[str, Any]) -> Page[Message]:
        asked = {"conversationId": conversation_id, "replies": "true", **query}
        return await self._rest.get("/api/messages", Page[Message], **asked)

    async def receipts(self, message_id: str, query: Mapping[str, Any]) -> Page[MessageReceipt]:
        return await self._rest.get(f"/api/messages/{message_id}/receipts", Page[MessageReceipt], **query)

    async def reactors(self, message_id: str, query: Mapping[str, Any]) -> Page[Reactor]:
        return await self._rest.get(f"/api/messages/{message_id}/reactions", Page[Reactor], **query)

    async def edit(
        self,
        message_id: str,
        content: str,
        mentions: Sequence[str] | None = None,
        mention_all: bool | None = None,
    ) -> Message:
        # Servers of before take two arguments.
        more = () if mentions is None and mention_all is None else (mentions, mention_all)
        found: Message = await self._engine.call("EditMessage", message_id, content, *more, kind=Message)
        return found

    async def delete_message(self, message_id: str) -> Message:
        found = await self._engine.call("DeleteMessage", message_id, kind=Message, done_already="gone")
        return found if found is not None else await self._rest.get(f"/api/messages/{message_id}", Message)

    async def react(self, message_id: str, emoji: str) -> Message:
        found: Message = await self._engine.call("React", message_id, emoji, kind=Message)
        return found

    async def unreact(self, message_id: str, emoji: str) -> Message:
        found: Message = await self._engine.call("Unreact", message_id, emoji, kind=Message)
        return found

    async def pin(self, message_id: str, is_pinned: bool) -> Message:
        found: Message = await self._engine.call("Pin" if is_pinned else "Unpin", message_id, kind=Message)
        return found

    async def pins(self, conversation_id: str) -> list[Message]:
        return await self._all(f"/api/conversations/{conversation_id}/pins", Page[Message])

    async def read_replies(self, root_id: str, limit: int) -> list[Message]:
        found: list[Message] = []
        before: str | None = None
        while True:
            page = await self.page_replies(root_id, {"before": before, "limit": min(limit - len(found), PAGE)})
            found += page.items
            before = page.next
            if before is None or len(found) >= limit:
                return found[::-1]

    async def page_replies(self, root_id: str, query: Mapping[str, Any]) -> Page[Message]:
        return await self._rest.get(f"/api/messages/{root_id}/replies", Page[Message], **query)

    async def set_thread(self, method: str, root_id: str, *arguments: Any) -> ThreadState:
        rounds = self._replica.rounds()
        found: ThreadState = await self._engine.call(method, root_id, *arguments, kind=ThreadState)
        self._replica.set_thread(found, rounds)
        return found

    def ask_thread(self, conversation_id: str, root_id: str) -> None:
        self._replica.ask_thread(conversation_id, root_id)

    async def update(self, conversation_id: str, changes: Mapping[str, Any]) -> None:
        rounds, path = self._replica.rounds(), f"/api/conversations/{conversation_id}"
        self._replica.take_answer(await self._rest.put(path, changes, ConversationInfo), rounds)

    async def create_link(self, conversation_id: str, body: Mapping[str, Any]) -> JoinLink:
        return await self._rest.post(f"/api/conversations/{conversation_id}/links", body, JoinLink)

    async def links(self, conversation_id: str) -> list[JoinLink]:
        return await self._all(f"/api/conversations/{conversation_id}/links", Page[JoinLink])

    async def revoke_link(self, conversation_id: str, link_id: str) -> None:
        await self._rest.delete(f"/api/conversations/{conversation_id}/links/{link_id}")

    async def update_settings(self, conversation_id: str, changes: Mapping[str, Any]) -> None:
        rounds, path = self._replica.rounds(), f"/api/conversations/{conversation_id}/settings"
        self._replica.set_settings(conversation_id, await self._rest.put(path, changes, ConversationSettings), rounds)

    async def add_member(self, conversation_id: str, user_id: str, role: Role) -> None:
        rounds, path = self._replica.rounds(), f"/api/conversations/{conversation_id}/members"
        body = {"userId": user_id, "role": role.value}
        self._replica.take_answer(await self._rest.post(path, body, ConversationInfo), rounds)

    async def remove_member(self, conversation_id: str, user_id: str) -> None:
        await self._rest.delete(f"/api/conversations/{conversation_id}/members/{user_id}")

    async def restrict(self, path: str, body: Mapping[str, Any] | None) -> None:
        if body is None:
            await self._rest.delete(path)
        else:
            await self._rest.request("PUT", path, json=body)

    async def kept_out(self, conversation_id: str) -> list[MemberBan]:
        return await self._all(f"/api/conversations/{conversation_id}/bans", Page[MemberBan])

    async def change_role(self, conversation_id: str, user_id: str, role: Role) -> None:
        rounds, path = self._replica.rounds(), f"/api/conversations/{conversation_id}/members/{user_id}/role"
        self._replica.take_answer(await self._rest.put(path, {"role": role.value}, ConversationInfo), rounds)

    async def all_members(self, conversation_id: str) -> list[Member]:
        return await self._all(f"/api/conversations/{conversation_id}/members", Page[Member])

    async def _all(self, path: str, kind: type[Page[T]], **query: Any) -> list[T]:
        found: list[T] = []
        cursor: str | None = None
        while True:
            page = await self._rest.get(path, kind, limit=PAGE, cursor=cursor, **query)
            found += page.items
            cursor = page.next
            if cursor is None:
                return found

    async def delete_conversation(self, conversation_id: str) -> None:
        await self._rest.delete(f"/api/conversations/{conversation_id}")

    def _emit(self, event: Event) -> None:
        self._broadcaster.emit(event)
        self._first_messages.forget()
        self._first_events.forget()

    def require_open(self) -> None:
        """Raises what has closed the chat."""
        if self.state == "closed":
            raise self.reason or ParleyError("closed", "the chat was closed")


def _id(user: User | str) -> str:
    return user if isinstance(user, str) else user.id


def _message_of(event: Event) -> Message | None:
    return event.message if isinstance(event, MessageReceived) else None


def _itself(event: Event) -> Event:
    return event


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: TokenSource,
    store: Store | None = None,
    wait: bool = True,
    keep: int = KEPT,
    delivered: bool = True,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[Chat]:
    """The chat of the user whose access token this is, for as long as the block runs.

    `token` is a token, or a function (async or not) that gives one: it is called again whenever another is needed.
    `store` keeps what must outlive the process (`FileStore`); in memory when left out. The block begins when everything
    is there, and not before; with `wait=False` at once. `keep` limits the messages of each conversation that stay in
    memory. `delivered`: say of messages that come that they have come.

    Raises ParleyError when the server refuses the user, or there is none at this URL; one that is out of reach is
    waited for, with one warning in the log. An error in the block comes out as it is, not in an exception group.
    """
    used = store or MemoryStore()
    chat = Chat(server_url(url), token, used, keep=keep, gives_delivered=delivered, ssl_context=ssl_context)
    try:
        with single():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(chat._engine.run)
                try:
                    if wait:
                        await chat.wait_live()
                    yield chat
                finally:
                    tasks.cancel_scope.cancel()
    finally:
        # The store first, and with patience: the next process has to find it closed.
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await used.aclose()
        with anyio.move_on_after(2, shield=True):
            await chat._rest.aclose()


async def register(
    url: str, username: str, *, display_name: str | None = None, ssl_context: ssl.SSLContext | None = None
) -> Registration:
    """Make a user, where registration is open."""
    body = {"username": username} | ({"displayName": display_name} if display_name else {})
    async with open_client(server_url(url), ssl_context) as http:
        answer = await ask(http, "POST", "/api/users", json=body, headers={"Idempotency-Key": _key()})
    found: Registration = decoded(answer.content, Registration)
    return found


def _key() -> str:
    return str(uuid.uuid4())
