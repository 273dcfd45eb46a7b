"""Server-Sent Events and long polling on several instances without stickiness: each request may come to any of them."""

import json

import trio

from tests import plain_http
from tests.event_recorder import WAIT
from tests.integration.test_transports import PING, PONG, SHAKE, STREAM, of
from tests.running import running


async def test_the_wrong_instance(database: str, redis_url: str) -> None:
    """A request to an instance that does not hold the connection is answered by the one that does: POSTs, polls,
    DELETE and refusals. When the owner is gone it is 404, at once, and nothing goes round in circles."""
    async with running(database, redis_url) as one, running(database, redis_url) as two:
        alice, bob = await one.register("alice"), await one.register("bob")
        conversation = await one.direct(alice, bob)
        async with of(one, alice) as a, a.stream() as hears, of(two, bob) as b:
            assert a.url != b.url
            a.url = two.hub_url
            await b.ask("GET")  # connected to two
            await a.ask("POST", SHAKE)
            await hears(b"{}")
            b.url = one.hub_url
            await b.ask("POST", SHAKE)
            said = await b.polled(b"{}")
            for turn in range(6):
                speaker, b.url = (a, b)[turn % 2], (one.hub_url, two.hub_url)[turn // 2 % 2]
                call = {"type": 1, "target": "SendMessage"}
                call["arguments"] = [{"conversationId": conversation, "content": f"turn {turn}"}]
                await speaker.ask("POST", json.dumps(call).encode() + b"\x1e")
                await hears(b"turn %d" % turn)
                while b"turn %d" % turn not in said:
                    said += await b.polled(b"\x1e")
            assert [said.count(b'"content":"turn %d"' % turn) for turn in range(6)] == [1] * 6
            await a.ask("GET", status=409, **STREAM)
            await a.ask("DELETE", status=400)
            async with plain_http.client(headers={"Authorization": f"Bearer {bob.token}"}) as other:
                assert (await other.post(a.url, params={"id": a.id}, content=PING)).status_code == 403
                looped = await other.post(two.hub_url, params={"id": a.id}, headers={"X-Parley-Handed": "1"})
                assert looped.status_code == 404
            b.url = one.hub_url
            polling = trio.Event()
            async with trio.open_nursery() as nursery:

                async def poll() -> None:
                    polling.set()
                    statuses = [200]
                    while statuses[-1] == 200:  # how far the other is may still be on its way
                        statuses.append((await b.http.get(b.url, params={"id": b.id})).status_code)
                    assert statuses[-1] == 204 or (len(statuses) > 2 and statuses[-1] == 404)  # between two polls

                nursery.start_soon(poll)
                await polling.wait()
                await trio.sleep(1.0)  # it is on its way through one to two: nothing shows it from outside
                await b.ask("DELETE", status=202)
            await b.ask("POST", PING, status=404)
        async with of(one, alice) as a:
            await a.ask("GET")
            a.url = two.hub_url
            await a.ask("POST", SHAKE + PING)
            assert PONG in await a.polled(PONG)
            one.kill()
            await one.wait()
            with trio.fail_after(WAIT):
                for method in ("GET", "POST", "DELETE"):
                    await a.ask(method, status=404)
