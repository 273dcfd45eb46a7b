"""Webhooks of a whole server: what is said in a chat reaches an application, whatever other endpoints do."""

import time
from typing import Any
from uuid import UUID

import jwt
import trio

from tests import transports
from tests.running import JWT_KEY
from tests.site import Site, open_site
from tests.waiting import wait_until
from tests.webhook_receiver import Received, answer, receiving


def administrator(token: str) -> str:
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode({**claims, "exp": int(time.time()) + 600, "role": "admin"}, JWT_KEY, algorithm="HS256")


async def make(site: Site, admin: str, url: str) -> dict[str, str]:
    found: dict[str, str] = await site.call("POST", "/api/webhooks", {"url": url}, token=admin, status=201)
    return found


async def test_who_is_offline(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """A member without a connection is named, with what they have not read; one who is connected is not, until their
    connection has ended."""
    options: dict[str, Any] = {"webhook_hosts": ("127.0.0.1",), "webhook_unread_delay": 1.0, "presence_grace": 0.0}
    async with (
        receiving() as receiver,
        open_site(database, redis_url, nursery, **options) as site,
    ):
        (_, alice), (bob_id, _), (carol_id, carol) = [await site.user(name) for name in ("alice", "bob", "carol")]
        body = {"url": receiver.url, "events": ["user.offline_with_unread"]}
        made = await site.call("POST", "/api/webhooks", body, token=administrator(alice), status=201)
        receiver.secrets.append(made["secret"])
        group = await site.call(
            "POST",
            "/api/conversations",
            {"type": "Group", "name": "one", "memberIds": [bob_id, carol_id]},
            token=alice,
            status=201,
        )

        def named(seq: int) -> set[str]:
            found = [one.event["data"] for one in receiver.received]
            return {data["userId"] for data in found if data["seq"] == seq}

        async def say() -> int:
            body = {"conversationId": group["id"], "content": "hello"}
            sent = await site.call("POST", "/api/messages", body, token=alice, status=201)
            return int(sent["seq"])

        async def is_gone() -> bool:
            return not await site.process.cluster.announcer.online([UUID(carol_id)])

        async with transports.connect("socket", f"{site.url}/hubs/chat", carol):
            first = await say()
            await wait_until(lambda: named(first))
            assert named(first) == {bob_id}
        await wait_until(is_gone)
        second = await say()
        await wait_until(lambda: named(second) == {bob_id, carol_id})
        assert all(one.event["data"]["unreadCount"] >= 1 for one in receiver.received)


async def test_what_is_said_arrives(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """With endpoints that hang, redirect, are not there, or whose name leads to this machine without being named: the
    good one has everything, signed and in order, and what is sent is accepted at once; each says why it fails."""

    async def hang(received: Received) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async with receiving() as good, receiving() as slow, receiving() as elsewhere, receiving() as secret:

        async def redirect(received: Received) -> bytes:
            await trio.lowlevel.checkpoint()
            return answer(307, f"Location: {secret.url}")

        slow.behave, elsewhere.behave = hang, redirect
        async with open_site(database, redis_url, nursery, webhook_hosts=("127.0.0.1",), webhook_timeout=1.0) as site:
            _, alice = await site.user("alice")
            admin = administrator(alice)
            made = await make(site, admin, good.url)
            good.secrets.append(made["secret"])
            others = {
                "HTTP 307; redirects are not followed": await make(site, admin, elsewhere.url),
                "no answer within 1 s": await make(site, admin, slow.url),
                "its name leads to this machine itself": await make(site, admin, f"https://localhost:{secret.port}/"),
            }
            group = await site.call(
                "POST", "/api/conversations", {"type": "Group", "name": "one"}, token=alice, status=201
            )
            for number in range(20):
                body = {"conversationId": group["id"], "content": f"{number}"}
                sent = await site.call("POST", "/api/messages", body, token=alice, status=201)
            await site.call("PUT", f"/api/messages/{sent['id']}", {"content": "edited"}, token=alice)
            await wait_until(lambda: "message.changed" in good.types)
            once = {one.id: one.event for one in good.received}.values()  # it was too slow where one came again
            seqs = [event["data"]["seq"] for event in once]
            assert seqs == sorted(seqs) and good.types[0] == "conversation.created"
            created = [event["data"]["message"] for event in once if event["type"] == "message.created"]
            assert [message["content"] for message in created[:19]] == [f"{number}" for number in range(19)]

            async def says(webhook_id: str, failure: str) -> bool:
                found = await site.call("GET", f"/api/webhooks/{webhook_id}", token=admin)
                return bool(found["lastFailure"] == failure)

            for failure, other in others.items():
                await wait_until(lambda: says(other["id"], failure))  # noqa: B023
            assert secret.connections == 0 and slow.received and elsewhere.received
