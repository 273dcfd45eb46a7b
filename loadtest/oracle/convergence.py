"""What need not be right at once, but must become so: receipts, presence, what is each member's own, and what is found.

Owns the looking, again and again, until all is as it must be or the patience ends.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio

from loadtest.oracle import invariants
from loadtest.oracle.standing import Newest
from loadtest.payloads import ConversationPage, Joined, Message, SearchPage, Thread, ThreadPage, Totals, UserStatus
from loadtest.rest import RestError

if TYPE_CHECKING:
    from loadtest.virtual_user import VirtualUser
    from loadtest.world import World

POLL = 0.25  # seconds
CALL = 10.0  # seconds for an answer
ASKED = 200  # users in one GetPresence: the server's limit
ASKING = 50  # virtual users that ask for the presence of others; as many list their conversations, or search
LISTED = 200  # conversations, or threads, in one page
LISTED_THREADS = 1000  # of one user that are listed
ONLINE, OFFLINE = "Online", "Offline"


class Convergence:
    def __init__(self, world: "World", patience: float, newest: Mapping[str, Newest]) -> None:
        """`newest` is what the counts of each conversation follow from."""
        self._world = world
        self._newest = newest
        self._oracle = world.oracle
        self._patience = patience
        self._deadline = 0.0  # one for all: many that are wrong must not each take the whole patience

    async def run(self) -> None:
        self._deadline = trio.current_time() + self._patience
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receipts)
            nursery.start_soon(self._presence)
            nursery.start_soon(self._announced)
            nursery.start_soon(self._standings)
            nursery.start_soon(self._finds)

    async def _until(self, wrong: "Callable[[], Any]") -> Any:
        """What `wrong` still finds when the patience ends; nothing, as soon as it finds nothing."""
        while True:
            found = await wrong()
            if not found or trio.current_time() > self._deadline:
                return found
            await trio.sleep(POLL)

    # -- receipts --------------------------------------------------------------------------------

    async def _receipts(self) -> None:
        """P6: every acknowledged MarkRead is where it was put, or further on, and never past the head."""
        marked: dict[str, list[VirtualUser]] = {}
        for virtual_user in self._world.virtual_users.values():
            for conversation in virtual_user.marked:
                marked.setdefault(conversation, []).append(virtual_user)

        for conversation, virtual_users in marked.items():
            self._oracle.checked[invariants.RECEIPT] += len(virtual_users)

            async def wrong(
                conversation: str = conversation, virtual_users: Sequence["VirtualUser"] = virtual_users
            ) -> Any:
                joined = await self._ask(virtual_users, "JoinConversation", (conversation,), Joined)
                return (
                    unanswered(virtual_users, "receipts")
                    if joined is None
                    else low(joined, conversation, virtual_users)
                )

            for virtual_user, text in await self._until(wrong):
                self._oracle.breach(invariants.RECEIPT, text, virtual_user=virtual_user.number)

    # -- presence --------------------------------------------------------------------------------

    async def _presence(self) -> None:
        """P7: a virtual user that asks gets the true presence of all virtual users it shares a conversation with."""
        virtual_users = [virtual_user for virtual_user in self._world.virtual_users.values() if virtual_user.online]
        for virtual_user in self._world.rng.sample(virtual_users, min(ASKING, len(virtual_users))):
            truth = self._truth_for(virtual_user)
            self._oracle.checked[invariants.PRESENCE] += len(truth)

            async def wrong(virtual_user: "VirtualUser" = virtual_user, truth: Mapping[str, str] = truth) -> Any:
                found = await self._ask([virtual_user], "GetPresence", (list(truth),), list[UserStatus])
                answered = {one.user_id: one.status for one in found or ()}
                if found is None:
                    return unanswered([virtual_user], "presence")
                return [(virtual_user, text) for text in differences(answered, truth)]

            for asker, text in await self._until(wrong):
                self._oracle.breach(invariants.PRESENCE, f"p{asker.number} asked: {text}", virtual_user=asker.number)

    async def _announced(self) -> None:
        """P7: the last status that was announced of each virtual user is true."""
        truth = self._truth()

        async def wrong() -> Any:
            return [
                (virtual_user, text)
                for virtual_user in self._world.virtual_users.values()
                if virtual_user.online
                for text in differences(
                    virtual_user.peers, {user: truth[user] for user in virtual_user.peers if user in truth}
                )
            ]

        for virtual_user, text in await self._until(wrong):
            self._oracle.breach(
                invariants.PRESENCE, f"p{virtual_user.number} was notified: {text}", virtual_user=virtual_user.number
            )

    # -- what is each member's own ---------------------------------------------------------------

    async def _standings(self) -> None:
        """The counts in a virtual user's list are what the stored messages make them, the settings what it has."""
        if not self._newest:
            return
        for virtual_user in self._some(lambda one: one.settings.are_used or one.threads.is_used):

            async def wrong(virtual_user: "VirtualUser" = virtual_user) -> list[tuple[str, str]]:
                page = await self._get(virtual_user, "/api/conversations", ConversationPage, limit=LISTED)
                threads = await self._threads(virtual_user)
                if page is None or threads is None:
                    return [(invariants.COUNT, f"p{virtual_user.number} got no list of conversations, or of threads")]
                following = {thread.thread_id for thread in threads}
                wrong = await self._of_threads(virtual_user, threads)
                return wrong + [
                    (promise, text)
                    for listed in page.items
                    if listed.id in self._newest
                    for promise, texts in (
                        (
                            invariants.COUNT,
                            self._newest[listed.id].differences(virtual_user.user_id, listed, following),
                        ),
                        (invariants.SETTINGS, virtual_user.settings.differences(listed.id, listed.settings)),
                    )
                    for text in texts
                ]

            self._oracle.checked[invariants.COUNT] += len(virtual_user.conversations)
            for promise, text in await self._until(wrong):
                self._oracle.breach(promise, text, virtual_user=virtual_user.number)

    async def _threads(self, virtual_user: "VirtualUser") -> list[Thread] | None:
        """All that it follows, the first LISTED_THREADS of them; None when there was no answer."""
        if not any(newest.threads for newest in self._newest.values()):
            return []
        found: list[Thread] = []
        query: dict[str, object] = {"limit": LISTED}
        while len(found) < LISTED_THREADS:
            page = await self._get(virtual_user, "/api/threads", ThreadPage, **query)
            if page is None:
                return None
            found += page.items
            if page.next is None:
                break
            query["cursor"] = page.next
        return found

    async def _of_threads(self, virtual_user: "VirtualUser", listed: list[Thread]) -> list[tuple[str, str]]:
        """What is wrong with a user's list of threads, and with how many of them they have not read."""
        if not listed or len(listed) >= LISTED_THREADS:
            return []
        oracle, who = self._oracle, virtual_user.user_id
        texts = virtual_user.threads.differences(listed)
        for conversation in virtual_user.conversations:
            newest = self._newest.get(conversation)
            if newest is None:
                continue
            oracle.checked[invariants.THREAD] += len(newest.threads)
            mine = [one for one in listed if one.conversation_id == conversation]
            members = self._world.conversations[conversation].members
            if all(
                number in self._world.virtual_users for number in members
            ):  # else others have sent what is not known
                texts += self._world.threads.standing(who, newest.roots, newest.threads, mine, virtual_user.threads)
        totals = await self._get(virtual_user, "/api/users/me/unread", Totals)
        unread = sum(one.unread_count > 0 for one in listed)
        if totals is None or totals.unread_threads != unread:
            texts.append(f"unreadThreads of {who} is {totals}, not {unread}")
        return [(invariants.COUNT, text) for text in texts]

    # -- what is found ---------------------------------------------------------------------------

    async def _finds(self) -> None:
        """Where people search, the last message of each is found by its words."""
        for virtual_user in self._some(lambda one: True) if self._world.searched else ():
            last = virtual_user.last
            if last is None:
                continue
            self._oracle.checked[invariants.SEARCH] += 1

            async def wrong(virtual_user: "VirtualUser" = virtual_user, last: Message = last) -> list[str]:
                words = f'"{last.client_message_id}"'
                page = await self._get(virtual_user, "/api/search/messages", SearchPage, q=words)
                if page is not None and any(hit.message.id == last.id for hit in page.items):
                    return []
                return [f"p{virtual_user.number} does not find {last.id} of {last.conversation_id} by {words}"]

            for text in await self._until(wrong):
                self._oracle.breach(invariants.SEARCH, text, virtual_user=virtual_user.number)

    def _some(self, first: "Callable[[VirtualUser], bool]") -> list["VirtualUser"]:
        """Of those who are online, at most ASKING: some of those whom `first` chooses, and then of the others."""
        online = [virtual_user for virtual_user in self._world.virtual_users.values() if virtual_user.online]
        self._world.rng.shuffle(online)
        return sorted(online, key=first, reverse=True)[:ASKING]

    async def _get(self, virtual_user: "VirtualUser", path: str, kind: Any, **query: object) -> Any:
        """None when there was no answer."""
        try:
            return await self._world.rest.get(path, virtual_user.person.token, kind, **query)
        except RestError:
            return None

    def _truth(self) -> dict[str, str]:
        virtual_users = self._world.virtual_users.values()
        return {virtual_user.person.id: ONLINE if virtual_user.online else OFFLINE for virtual_user in virtual_users}

    def _truth_for(self, virtual_user: "VirtualUser") -> dict[str, str]:
        world = self._world
        numbers = {number for key in virtual_user.conversations for number in world.conversations[key].members}
        virtual_users = [world.virtual_users[number] for number in sorted(numbers) if number in world.virtual_users]
        return {one.person.id: ONLINE if one.online else OFFLINE for one in virtual_users[:ASKED]}

    async def _ask(
        self, virtual_users: Sequence["VirtualUser"], target: str, arguments: Sequence[object], kind: Any
    ) -> Any:
        """The answer that the first of them who is online gets; None when there is none."""
        asker = next((virtual_user for virtual_user in virtual_users if virtual_user.online), None)
        if asker is None:
            return None
        answered, answer = trio.Event(), None

        def done(result: Any) -> None:
            nonlocal answer
            answer = result
            answered.set()

        asker.call(target, arguments, done, kind)
        with trio.move_on_after(CALL):
            await answered.wait()
        return answer


def unanswered(virtual_users: Sequence["VirtualUser"], what: str) -> list[tuple["VirtualUser", str]]:
    """A question without an answer is a breach, unless no virtual user is online to ask it."""
    return [
        (virtual_user, f"p{virtual_user.number} got no answer about {what}")
        for virtual_user in virtual_users
        if virtual_user.online
    ][:1]


def low(joined: Joined, conversation: str, virtual_users: Sequence["VirtualUser"]) -> list[tuple["VirtualUser", str]]:
    """Return the virtual users whose stored receipt is below what was acknowledged to them, or past the end."""
    stored = {cursor.user_id: cursor.read_seq for cursor in joined.cursors}
    found = []
    for virtual_user in virtual_users:
        marked, is_at = virtual_user.marked[conversation], stored.get(virtual_user.person.id, 0)
        if not marked <= is_at <= joined.last_seq:
            read = f"read up to {is_at} of {conversation}, not {marked} (head {joined.last_seq})"
            text = f"p{virtual_user.number} has {read}"
            found.append((virtual_user, text))
    return found


def differences(found: Mapping[str, str], truth: Mapping[str, str]) -> list[str]:
    return [f"{user} is {found.get(user)}, not {status}" for user, status in truth.items() if found.get(user) != status]
