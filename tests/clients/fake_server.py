"""A stand-in of the server, of what the hub promises and nothing else: small enough to be broken on purpose.

Owns the truth about conversations, and the queues of connections. It does no I/O: `tests.clients.fake_network` puts it
behind sockets.
"""

import json
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

MAX_BEHIND = 1000
Json = dict[str, Any]


class Connection:
    """One of a user: what waits to be sent to it, and to which conversations it is attached."""

    def __init__(self, user: str, wake: Callable[[], None] = lambda: None) -> None:
        self.user = user
        self.queue: deque[Json] = deque()
        self.attached: set[str] = set()
        self.is_synced = False
        self.wake = wake

    def event(self, target: str, *arguments: Any) -> None:
        self.queue.append({"type": 1, "target": target, "arguments": list(arguments)})
        self.wake()

    def answer(self, call_id: str, result: Any = None, error: str | None = None) -> None:
        answer: Json = {"type": 3, "invocationId": call_id}
        self.queue.append(answer | ({"error": error} if error is not None else {"result": result}))
        self.wake()


class Talk:
    def __init__(self, conversation_id: str, members: list[str]) -> None:
        self.id = conversation_id
        self.members = members
        self.head = 0
        self.messages: dict[str, Json] = {}
        self.log: list[Json] = []  # every state that a message had, in the order of the changes
        self.name = "a group"
        self.read: dict[str, int] = {}  # how far, by user
        self.settings: Json = {"archived": False, "favourite": False, "notifications": {}, "version": 1}
        self.went_back = False  # and those who are attached do not know

    def in_order(self) -> list[Json]:
        return sorted(self.messages.values(), key=lambda message: message["seq"])

    def proof(self) -> str | None:
        return next((one["id"] for one in self.messages.values() if one["changedSeq"] == self.head), None)


class Truth:
    """What is committed."""

    def __init__(self) -> None:
        self.talks: dict[str, Talk] = {}
        self.connections: list[Connection] = []
        self._sent: dict[tuple[str, str], str] = {}
        self._clock = 0
        self.threads: dict[str, Json] = {}  # what they are to the user whose client is tested, by root

    # -- what people do ------------------------------------------------------------------------------------------------

    def create(self, *members: str) -> str:
        talk = Talk(str(uuid.uuid4()), list(members))
        self.talks[talk.id] = talk
        self._say(talk, {"event": "conversationCreated", "by": members[0]})
        self._attach(talk, members)
        return talk.id

    def add(self, conversation_id: str, user: str) -> None:
        talk = self.talks[conversation_id]
        talk.members.append(user)
        self._say(talk, {"event": "memberAdded", "by": talk.members[0], "userId": user, "role": "Member"})
        self._attach(talk, [user])

    def _attach(self, talk: Talk, users: Sequence[str]) -> None:
        """What follows the change that made these users members is sent to them; the details come when they come."""
        for connection in self.connections:
            if connection.is_synced and connection.user in users:
                connection.attached.add(talk.id)

    def send(self, user: str, conversation_id: str, content: str, client_id: str | None = None, **more: Any) -> Json:
        """Raises KeyError where there is no such conversation."""
        talk = self.talks[conversation_id]
        known = self._sent.get((user, client_id or ""))
        if known is not None:
            return talk.messages[known]
        message = self._message(talk, user, content, clientMessageId=client_id, **more)
        if client_id:
            self._sent[user, client_id] = message["id"]
        self._commit(talk, message, "ReceiveMessage")
        return message

    def edit(self, message_id: str, content: str) -> None:
        for talk in self.talks.values():
            if message_id in talk.messages:
                at = self._now()
                changed = {**talk.messages[message_id], "content": content, "editedAt": at, "changedAt": at}
                self._commit(talk, changed, "MessageChanged")

    def delete(self, message_id: str) -> None:
        for talk in self.talks.values():
            if message_id in talk.messages:
                at = self._now()
                changed = {**talk.messages[message_id], "content": "", "deletedAt": at, "changedAt": at}
                self._commit(talk, changed, "MessageChanged")

    def react(self, message_id: str, user: str, emoji: str) -> None:
        for talk in self.talks.values():
            if message_id in talk.messages:
                before = talk.messages[message_id]
                shown = [*before.get("reactions", ()), {"emoji": emoji, "count": 1, "userIds": [user]}]
                self._commit(talk, {**before, "reactions": shown, "changedAt": self._now()}, "MessageChanged")

    def say_details(self, conversation_id: str, name: str) -> None:
        """Give it another name."""
        talk = self.talks[conversation_id]
        talk.name = name
        for connection in self.connections:
            if talk.id in connection.attached:
                connection.event("ConversationChanged", self.info(talk))

    def set_settings(self, conversation_id: str, **changes: Any) -> None:
        """Of the user whose client is tested, by another device of theirs."""
        talk = self.talks[conversation_id]
        talk.settings = {**talk.settings, "version": talk.settings["version"] + 1, **changes}
        for connection in self.connections:
            connection.event("ConversationChanged", self.info(talk))

    def set_thread(self, conversation_id: str, root: str, *, is_following: bool, version: int | None = None) -> None:
        """By another device of the user whose client is tested. PostgreSQL may have lost later `version`s."""
        replies = [one["seq"] for one in self.talks[conversation_id].messages.values() if one.get("threadId") == root]
        state = {
            "threadId": root,
            "conversationId": conversation_id,
            "isFollowing": is_following,
            "lastReplySeq": max(replies, default=0),
            "version": self.threads.get(root, {"version": 0})["version"] + 1 if version is None else version,
        }
        self.threads[root] = state
        for connection in self.connections:
            connection.event("ThreadChanged", state)

    def mark_read(self, user: str, conversation_id: str) -> None:
        talk = self.talks[conversation_id]
        talk.read[user] = talk.head
        update = {"conversationId": talk.id, "userId": user, "status": "Read", "seq": talk.head, "at": self._now()}
        for connection in self.connections:
            if talk.id in connection.attached:
                connection.event("MessageStatusUpdated", update)

    def go_back(self, conversation_id: str, head: int) -> None:
        """Lose every change after this head."""
        talk = self.talks[conversation_id]
        talk.log = [state for state in talk.log if state["changedSeq"] <= head]
        kept = {state["id"]: state for state in talk.log}
        lost = talk.messages.keys() - kept.keys()
        self._sent = {key: value for key, value in self._sent.items() if value not in lost}
        talk.messages, talk.head, talk.went_back = kept, head, True
        talk.read = {user: min(seq, head) for user, seq in talk.read.items()}

    def _now(self) -> str:
        self._clock += 1
        return f"{self._clock:024}"

    def _say(self, talk: Talk, content: Json) -> None:
        message = self._message(talk, talk.members[0], json.dumps(content), type="System")
        self._commit(talk, message, "ReceiveMessage")

    def _message(self, talk: Talk, user: str, content: str, **more: Any) -> Json:
        seq = talk.head + 1
        named = {"id": str(uuid.uuid4()), "conversationId": talk.id, "seq": seq, "senderId": user, "content": content}
        return {"type": "Text", "createdAt": self._now(), "status": "Sent", "changedSeq": seq, **named, **more}

    def _commit(self, talk: Talk, message: Json, event: str) -> None:
        before, proof = talk.head, talk.proof()
        talk.head += 1
        message = {**message, "changedSeq": talk.head}
        talk.messages[message["id"]] = message
        talk.log.append(message)
        if event == "ReceiveMessage":
            talk.read[message["senderId"]] = talk.head
        for connection in self.connections:
            if talk.id in connection.attached:
                if talk.went_back:
                    notice = {"conversationId": talk.id, "lastSeq": before, "messageId": proof}
                    connection.event("Resync", notice)
                connection.event(event, message)
        talk.went_back = False

    # -- what clients ask ----------------------------------------------------------------------------------------------

    def page(self, conversation_id: str, before: int | None, limit: int) -> Json:
        found = [one for one in self.talks[conversation_id].in_order() if before is None or one["seq"] < before]
        items = found[-limit:][::-1]
        return {"items": items, "next": str(items[-1]["seq"]) if len(found) > limit else None}

    def infos(self, user: str) -> list[Json]:
        return [self.info(talk) for talk in self.talks.values() if user in talk.members]

    def info(self, talk: Talk) -> Json:
        reached = {one: talk.read.get(one, 0) for one in talk.members}
        plain = {"role": "Member", "joinedAt": "0"}
        members = [{"userId": one, "deliveredSeq": seq, "readSeq": seq, **plain} for one, seq in reached.items()]
        shown = {"id": talk.id, "type": "Group", "name": talk.name, "createdAt": "0", "lastSeq": talk.head}
        shown |= {"settings": talk.settings}  # of the one user whose client is tested
        return {**shown, "unreadCount": 0, "memberCount": len(members), "members": members}

    def call(self, connection: Connection, call_id: str, target: str, arguments: list[Any]) -> None:
        """Answer a call of the hub, with its events before."""
        try:
            if target == "Sync":
                connection.answer(call_id, self.sync(connection, *arguments))
            elif target == "SendMessage":
                [asked] = arguments
                more = {name: asked[name] for name in ("threadId", "alsoInConversation") if name in asked}
                message = self.send(
                    connection.user, asked["conversationId"], asked["content"], asked.get("clientMessageId"), **more
                )
                connection.answer(call_id, {**message, "after": message["changedSeq"] - 1})
            else:
                connection.answer(call_id)
        except KeyError:
            connection.answer(call_id, error="not_found: There is no such conversation.")

    def sync(self, connection: Connection, cursors: dict[str, Json], options: Json) -> Json:
        others = options.get("others") or "replay"
        answered = []
        for id_, cursor in cursors.items():
            answered.append(self._replay(connection, id_, cursor))
        for talk in self.talks.values():
            if connection.user in talk.members and talk.id not in cursors and talk.id not in connection.attached:
                if others == "replay":
                    answered.append(self._replay(connection, talk.id, {"seq": 0}))
                elif others == "attach":
                    connection.attached.add(talk.id)
                    answered.append(self._outcome(talk, "attached"))
        connection.is_synced = True
        return {"heads": {}, "resync": [], "conversations": answered, "next": None}

    def _replay(self, connection: Connection, id_: str, cursor: Json) -> Json:
        talk = self.talks.get(id_)
        if talk is None or connection.user not in talk.members:
            return {"conversationId": id_, "lastSeq": 0, "messageId": None, "unreadCount": 0, "outcome": "gone"}
        connection.attached.add(id_)
        seq = cursor["seq"]
        changes = sorted((m for m in talk.messages.values() if m["changedSeq"] > seq), key=lambda m: m["changedSeq"])
        proved = cursor.get("messageId") is None or any(
            (state["id"], state["changedSeq"]) == (cursor.get("messageId"), seq)
            and cursor.get("changedAt") in (None, state.get("changedAt"))
            for state in talk.log
        )
        if talk.head < seq or not proved or len(changes) > MAX_BEHIND:
            connection.event("Resync", {"conversationId": id_, "lastSeq": talk.head, "messageId": talk.proof()})
            return self._outcome(talk, "resync")
        for message in changes:
            connection.event("ReceiveMessage" if message["seq"] > seq else "MessageChanged", message)
        return self._outcome(talk, "replayed")

    @staticmethod
    def _outcome(talk: Talk, outcome: str) -> Json:
        head = {"conversationId": talk.id, "lastSeq": talk.head, "messageId": talk.proof()}
        return {**head, "unreadCount": 0, "outcome": outcome, "settingsVersion": talk.settings["version"]}
