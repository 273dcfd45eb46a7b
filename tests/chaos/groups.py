"""A group in slow mode that people join by a link, on all instances at once: no use too many, no message too early.

Owns its people, who use REST alone, and what they were answered. When a message was written is the database's to say: a
trigger, which is ours, notes the time of each.
"""

import random
from typing import TYPE_CHECKING

import httpx
import trio

from tests import plain_http
from tests.running import User, checked, lasting

if TYPE_CHECKING:
    from tests.chaos.world import World

SECONDS = 1  # between two messages of one member
USES = 3  # of the link
MEMBERS, NEWCOMERS = 2, 6  # who are in it from the start, and who try to join
HANDS = 2  # senders of each member, on any instances
WITHIN = 1.5  # seconds in which all begin to join: before the fault, amid it, and after it
PATIENCE = 10.0  # seconds for an answer: an instance that is paused does not give one

NOTES = (
    "CREATE TABLE sent_at (message_id uuid, conversation_id uuid, sender_id uuid, at timestamptz)",
    """
    CREATE FUNCTION note_sent() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO sent_at VALUES (NEW.id, NEW.conversation_id, NEW.sender_id, statement_timestamp());
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER note_sent AFTER INSERT ON messages FOR EACH ROW WHEN (NEW.kind <> 'System')
    EXECUTE FUNCTION note_sent()
    """,
)
EARLY = """
    WITH acts AS (
        SELECT sender_id AS user_id, message_id::text AS what, at FROM sent_at WHERE conversation_id = '{group}'
        UNION ALL
        SELECT user_id, 'the joining', joined_at FROM members
        WHERE conversation_id = '{group}' AND user_id::text = ANY('{{{newcomers}}}')
    )
    SELECT user_id::text, what, gap::text FROM (
        SELECT *, at - lag(at) OVER (PARTITION BY user_id ORDER BY at) AS gap FROM acts
    ) AS gaps
    WHERE gap < interval '{seconds} seconds' AND user_id <> '{owner}'
"""


async def note_times(world: "World") -> None:
    """From now on the database notes when each message is written. Once."""
    for statement in NOTES:
        await world.execute(statement)


class SlowGroup:
    """Made by `open_group`."""

    def __init__(
        self, world: "World", group: str, link: str, token: str, owner: User, members: list[User], newcomers: list[User]
    ) -> None:
        self.world = world
        self.id = group
        self.link = link
        self.owner = owner
        self.members = members
        self.newcomers = newcomers
        self.joined: set[str] = set()  # users who were answered that they are members
        self.refused: set[str] = set()  # who were answered that the link is used up
        self.sent: set[str] = set()  # messages that were acknowledged
        self.senders: set[str] = set()  # users whose messages these are
        self.early = 0  # sends that were refused as too early
        self.all_answered = trio.Event()
        self._token = token

    async def go(self) -> None:
        """Send, and join, until cancelled."""
        async with trio.open_nursery() as nursery:
            for user in self.members:
                for _ in range(HANDS):
                    nursery.start_soon(self._send, user)
            for user in self.newcomers:
                nursery.start_soon(self._join, user, nursery)

    async def _join(self, user: User, nursery: trio.Nursery) -> None:
        """Repeated until it is answered, by any instance."""
        await trio.sleep(random.uniform(0, WITHIN))  # not all before the fault
        while True:
            answer = await self._post(user, "/api/join", {"token": self._token})
            if answer is not None and (answer.is_success or answer.status_code == 404):
                break
            await trio.sleep(0.05)  # a client's pause before it repeats
        (self.joined if answer.is_success else self.refused).add(user.id)
        if len(self.joined) + len(self.refused) == len(self.newcomers):
            self.all_answered.set()
        if user.id in self.joined:
            for _ in range(HANDS):
                nursery.start_soon(self._send, user)

    async def _send(self, user: User) -> None:
        number = 0
        while True:
            number += 1
            body = {"conversationId": self.id, "content": f"{user.name} {number}"}
            answer = await self._post(user, "/api/messages", body)
            if answer is not None and answer.is_success:
                self.sent.add(answer.json()["id"])
                self.senders.add(user.id)
            elif answer is not None and answer.status_code < 500:
                assert answer.json()["code"] == "slow_mode", answer.text
                self.early += 1
            await trio.sleep(random.uniform(0.05, 0.3))  # an impatient user's pause

    async def _post(self, user: User, path: str, body: dict[str, str]) -> httpx.Response | None:
        instance = random.choice([one for one in self.world.instances if one.alive] or self.world.instances)
        headers = {"Authorization": f"Bearer {user.token}"}
        try:
            async with plain_http.client(headers=headers, timeout=PATIENCE) as http:
                return await http.post(f"{instance.url}{path}", json=body)
        except httpx.HTTPError:
            return None

    async def differences(self) -> list[str]:
        """All that is not as it was answered, or more than is allowed."""
        found = []
        query = self.world.query
        rows = await query(f"SELECT user_id::text FROM members WHERE conversation_id = '{self.id}'")  # noqa: S608
        came = {user_id for (user_id,) in rows} - {user.id for user in (self.owner, *self.members)}
        ((uses, most),) = await query(f"SELECT uses, max_uses FROM join_links WHERE id = '{self.link}'")  # noqa: S608
        ((count,),) = await query(f"SELECT member_count FROM conversations WHERE id = '{self.id}'")  # noqa: S608
        if uses != len(came) or uses > most:
            found.append(f"the link of {self.id} was used {uses} times of {most}, and {len(came)} are in by it")
        if came != self.joined:
            found.append(f"{sorted(came)} are in {self.id} by its link; {sorted(self.joined)} were answered so")
        if self.refused and uses < most:
            found.append(f"{sorted(self.refused)} were refused in {self.id}; its link was used {uses} times of {most}")
        if count != len(rows):
            found.append(f"{self.id} counts {count} members, and has {len(rows)}")
        newcomers = ",".join(user.id for user in self.newcomers)
        early = EARLY.format(group=self.id, newcomers=newcomers, seconds=SECONDS, owner=self.owner.id)
        for user_id, what, gap in await query(early):
            found.append(f"{user_id} sent {what} in {self.id} only {gap} after what was before")
        stored = {
            message_id
            for (message_id,) in await query(
                f"SELECT message_id::text FROM sent_at WHERE conversation_id = '{self.id}'"  # noqa: S608
            )
        }
        if self.sent - stored:
            found.append(f"{sorted(self.sent - stored)} were acknowledged in {self.id}, and are not stored")
        return found


async def open_group(world: "World", number: int) -> SlowGroup:
    """A new one, with new people, whose names have this number. All instances are well."""
    server = world.instances[0].running
    assert server is not None
    people = [lasting(await server.register(f"g{number}n{place}")) for place in range(1 + MEMBERS + NEWCOMERS)]
    owner, members = people[0], people[1 : 1 + MEMBERS]
    group = await server.group(owner, *members)
    async with server.http(owner) as http:
        path = f"/api/conversations/{group}"
        checked(await http.put(path, json={"slowModeSeconds": SECONDS}))
        link = checked(await http.post(f"{path}/links", json={"maxUses": USES}))
    return SlowGroup(world, group, link["id"], link["token"], owner, members, people[1 + MEMBERS :])
