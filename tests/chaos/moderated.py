"""People some of whom are muted, blocked, banned and kept out while they write, through all instances.

Owns these people, what they were answered, and what each connection was sent. The acts are repeated, at any instance,
until they are answered; the oracle (`loadtest.oracle.refusals`) knows from then on what may be accepted.
"""

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import httpx
import trio

from loadtest.client import ClientError, HubClient
from loadtest.oracle.refusals import BANNED, EVERYWHERE, GONE, MUTED, UNAVAILABLE, Refusals
from server.config.loading import load
from server.identity.access_tokens import mint_token
from tests import plain_http, transports
from tests.oracle_client import make_oracle
from tests.running import JWT_KEY, TOKEN_TTL, User, lasting

if TYPE_CHECKING:
    from tests.chaos.world import World

NAMES = ("owner", "friend", "muted", "blocked", "banned", "removed")
HOLD = 1.0  # seconds that an act lasts, about
PATIENCE = 10.0  # seconds for an answer: an instance that is paused does not give one
STORED = """
    SELECT client_message_id, seq FROM messages
    WHERE conversation_id::text = ANY('{{{conversations}}}') AND kind <> 'System'
"""
REMOVED_AT = """
    SELECT max(seq) FROM messages
    WHERE conversation_id = '{group}' AND kind = 'System' AND body LIKE '%memberRemoved%' AND body LIKE '%{user}%'
"""


class Sent(NamedTuple):
    """What was answered of one message: accepted, or the code of the refusal."""

    accepted: bool
    is_sure: bool  # no attempt of it is without an answer


class Moderated:
    """Made by `open_moderated`. `held` counts the acts of each kind that were taken back again."""

    def __init__(self, world: "World", people: Mapping[str, User], group: str, direct: str) -> None:
        self.world = world
        self.people = people
        self.group = group
        self.direct = direct
        self.oracle = make_oracle([])
        self.refusals = {name: Refusals(self.oracle, number) for number, name in enumerate(NAMES)}
        self.sent: dict[str, Sent] = {}  # by clientMessageId
        self.shown: dict[str, set[str]] = {name: set() for name in NAMES}  # the same, of what each was sent by the hub
        self.last_seen = 0  # the highest change of the group that came to who was removed
        self.held = dict.fromkeys(("muted", "blocked", "banned", "removed"), 0)
        self.refused = dict.fromkeys((MUTED, UNAVAILABLE, BANNED, GONE), 0)
        root = load({}, None, jwt_key=JWT_KEY)
        owner = people["owner"]
        self._root = owner._replace(token=mint_token(root, UUID(owner.id), TOKEN_TTL, admin=True))

    @property
    def is_whole(self) -> bool:
        """Each has been kept from something, and let again, and has met that."""
        return all(self.held.values()) and all(self.refused.values())

    async def go(self) -> None:
        """Write, listen and act, until cancelled."""
        async with trio.open_nursery() as nursery:
            for name in NAMES:
                nursery.start_soon(self._write, name, self.group)
                nursery.start_soon(self._listen, name)
            for name in ("friend", "blocked"):
                nursery.start_soon(self._write, name, self.direct)
            members = f"/api/conversations/{self.group}"
            nursery.start_soon(self._again, "muted", MUTED, self.group, "owner", f"{members}/members/{{}}/mute")
            nursery.start_soon(self._again, "blocked", UNAVAILABLE, self.direct, "friend", "/api/users/me/blocks/{}")
            nursery.start_soon(self._again, "banned", BANNED, EVERYWHERE, "root", "/api/users/{}/ban")
            nursery.start_soon(self._remove, f"{members}/bans/{self.people['removed'].id}")

    async def _again(self, name: str, code: str, where: str, by: str, path: str) -> None:
        """One act on one user, and its end, over and over."""
        target = path.format(self.people[name].id)
        while True:
            await trio.sleep(random.uniform(0.5, 1.5) * HOLD)  # how often it is done
            kept = self.refusals[name].keep(code, where)
            await self._done("PUT", target, by)
            kept.answer(self.oracle.now())
            await trio.sleep(random.uniform(0.5, 1.5) * HOLD)  # how long it lasts
            kept.end(self.oracle.now())
            await self._done("DELETE", target, by)
            kept.finish(self.oracle.now())
            self.held[name] += 1

    async def _remove(self, path: str) -> None:
        await trio.sleep(HOLD)  # not before they have written something
        kept = self.refusals["removed"].keep(GONE, self.group)
        await self._done("PUT", path, "owner")
        kept.answer(self.oracle.now())
        self.held["removed"] += 1

    async def _done(self, method: str, path: str, by: str) -> None:
        """Repeated until it is answered, by any instance."""
        user = self._root if by == "root" else self.people[by]
        while True:
            answer = await self._ask(user, method, path, {} if method == "PUT" else None)
            if answer is not None and answer.is_success:
                return
            assert answer is None or answer.status_code >= 500, answer.text
            await trio.sleep(0.05)  # a client's pause before it repeats

    async def _write(self, name: str, conversation: str) -> None:
        refusals, number = self.refusals[name], len(NAMES) * (conversation == self.direct)
        where = "direct" if conversation == self.direct else "group"
        while True:
            number += 1
            key = f"{name}:{where}:{number}"
            body = {"conversationId": conversation, "content": f"this is {key}", "clientMessageId": key}
            await self._send(name, refusals, hash(key), key, body)
            await trio.sleep(random.uniform(0.05, 0.3))  # a user's pause

    async def _send(self, name: str, refusals: Refusals, number: int, key: str, body: dict[str, str]) -> None:
        """Repeated until it is accepted or refused."""
        where, is_sure = body["conversationId"], True
        while True:
            began = self.oracle.now()
            answer = await self._ask(self.people[name], "POST", "/api/messages", body)
            if answer is not None and answer.is_success:
                refusals.accept(number, where, began)
                self.sent[key] = Sent(True, is_sure)
                return
            if answer is not None and answer.status_code < 500:
                code = str(answer.json()["code"])
                refusals.refuse(number, code, where, began)
                self.refused[code] += 1  # any other one is a defect of the test or the server
                self.sent[key] = Sent(False, is_sure)
                return
            refusals.refuse(number, "unavailable", where, began)
            is_sure = False
            await trio.sleep(0.05)  # a client's pause before it repeats

    async def _listen(self, name: str) -> None:
        """Over a connection to any instance, and then to another one."""
        while True:
            instance = random.choice([one for one in self.world.instances if one.alive] or self.world.instances)
            try:
                async with transports.connect(
                    "socket", f"{instance.url}/hubs/chat", self.people[name].token, on_event=self._hearing(name)
                ) as client:
                    with trio.move_on_after(random.uniform(2, 4)):  # they move about
                        await client.closed.wait()
            except* (ClientError, OSError, httpx.HTTPError):
                pass
            await trio.sleep(random.uniform(0.05, 0.3))  # a client's pause before it connects again

    def _hearing(self, name: str) -> Callable[[str, list[Any]], None]:
        def hear(target: str, arguments: list[Any]) -> None:
            if target in ("ReceiveMessage", "MessageChanged"):
                message = arguments[0]
                self.shown[name].add(message["clientMessageId"] or "")
                if name == "removed" and message["conversationId"] == self.group:
                    self.last_seen = max(self.last_seen, message["changedSeq"])

        return hear

    async def _ask(self, user: User, method: str, path: str, body: Any) -> httpx.Response | None:
        instance = random.choice([one for one in self.world.instances if one.alive] or self.world.instances)
        headers = {"Authorization": f"Bearer {user.token}"}
        try:
            async with plain_http.client(headers=headers, timeout=PATIENCE) as http:
                return await http.request(method, f"{instance.url}{path}", json=body)
        except httpx.HTTPError:
            return None

    async def ends_everywhere(self) -> None:
        """A ban at the end: each connection to each instance ends, and none comes about again."""
        user, path = self.people["banned"], f"/api/users/{self.people['banned'].id}/ban"
        await self._done("DELETE", path, "root")
        await self._let_in(user)
        clients: list[HubClient] = []
        async with trio.open_nursery() as nursery:
            for instance in self.world.instances:
                clients.append(await nursery.start(self._hold, f"{instance.url}/hubs/chat", user))
            await self._done("PUT", path, "root")
            for client in clients:
                await client.closed.wait()
                assert client.close_message is not None and "banned" in (client.close_message.error or "")
            nursery.cancel_scope.cancel()

    async def _let_in(self, user: User) -> None:
        """Until they may stay at each instance: news of the ban before may be in an inbox that was out of reach."""
        for instance in self.world.instances:
            while True:
                try:
                    async with transports.connect("socket", f"{instance.url}/hubs/chat", user.token) as client:
                        await client.invoke("Ping")
                        break
                except* (ClientError, OSError, httpx.HTTPError):
                    pass
                await trio.sleep(0.05)  # a client's pause before it connects again

    @staticmethod
    async def _hold(url: str, user: User, *, task_status: trio.TaskStatus[HubClient]) -> None:
        """Until cancelled. News of the ban before, in an inbox that was out of reach, may end the first of them."""
        client: HubClient | None = None
        while client is None:
            try:
                async with transports.connect("socket", url, user.token) as tried:
                    await tried.invoke("Ping")
                    client = tried
                    task_status.started(client)
                    await trio.sleep_forever()
            except* (ClientError, OSError, httpx.HTTPError):
                if client is not None:
                    raise
            await trio.sleep(0.05)  # a client's pause before it connects again

    async def differences(self) -> list[str]:
        """All that is not as it was answered."""
        conversations = ",".join((self.group, self.direct))
        rows = await self.world.query(STORED.format(conversations=conversations))
        stored = {key for key, _ in rows}
        accepted = {key for key, sent in self.sent.items() if sent.accepted}
        refused = {key for key, sent in self.sent.items() if not sent.accepted and sent.is_sure}
        found = [breach.text for breach in self.oracle.breaches]
        for what, keys in (
            ("were acknowledged, and are not stored", accepted - stored),
            ("were refused, and are stored", refused & stored),
        ):
            if keys:
                found.append(f"{sorted(keys)} {what}")
        for name, shown in self.shown.items():
            if refused & shown:
                found.append(f"{sorted(refused & shown)} came to {name}, and were refused")
        removal = REMOVED_AT.format(group=self.group, user=self.people["removed"].id)
        ((removed_at,),) = await self.world.query(removal)
        if removed_at is None or self.last_seen > removed_at:
            found.append(f"change {self.last_seen} came to who was removed by change {removed_at}")
        return found


async def open_moderated(world: "World", number: int) -> Moderated:
    """New people, whose names have this number. All instances are well."""
    server = world.instances[0].running
    assert server is not None
    people = {name: lasting(await server.register(f"m{number}-{name}")) for name in NAMES}
    owner, *members = people.values()
    group = await server.group(owner, *members)
    direct = await server.direct(people["friend"], people["blocked"])
    return Moderated(world, people, group, direct)
