"""Lists: {"items", "next"}, limit 1 to 200, default 50; paging while others write lists each item once."""

from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any

from store.model import Role
from store.postgres import conversations, users
from tests.site import Site

Between = Callable[[int], Awaitable[object]]


async def pages(site: Site, path: str, token: str, between: Between, **query: Any) -> list[Any]:
    """Read a list page by page, with something happening between two pages."""
    items: list[Any] = []
    number = 0
    while True:
        page = await site.call("GET", path, token=token, params=query)
        assert set(page) == {"items", "next"} and len(page["items"]) <= int(query["limit"])
        items += page["items"]
        if page["next"] is None:
            return items
        assert len(page["items"]) == int(query["limit"])
        query["cursor"] = page["next"]
        await between(number)
        number += 1


async def test_conversations_keep_their_order(site: Site) -> None:
    """Activity in conversations, or new ones, during paging neither repeats nor skips any."""
    _, a = await site.user("alice")
    groups = []
    for number in range(7):
        body = {"type": "Group", "name": str(number)}
        groups.append((await site.call("POST", "/api/conversations", body, token=a, status=201))["id"])

    async def talk(number: int) -> None:
        for group in (groups[0], groups[6 - number]):  # one that is still to be listed, one that was listed
            said = {"conversationId": group, "content": "x"}
            await site.call("POST", "/api/messages", said, token=a, status=201)
        await site.call("POST", "/api/conversations", {"type": "Group", "name": "new"}, token=a, status=201)

    found = [c["id"] for c in await pages(site, "/api/conversations", a, talk, limit=2)]
    assert found == groups[::-1]
    again = [c["id"] for c in (await site.call("GET", "/api/conversations", token=a))["items"]]
    assert len(again) == 10 and again.index(groups[0]) < again.index(groups[1])


async def test_conversations_with_long_messages_keep_their_order(site: Site) -> None:
    """So they do where a page ends before its limit, as the last messages are long."""
    _, a = await site.user("alice")
    groups = []
    for number in range(12):
        body = {"type": "Group", "name": str(number)}
        groups.append((await site.call("POST", "/api/conversations", body, token=a, status=201))["id"])
        said = {"conversationId": groups[-1], "content": "x" * 30_000}
        await site.call("POST", "/api/messages", said, token=a, status=201)
    first = await site.call("GET", "/api/conversations", token=a)
    said = {"conversationId": groups[0], "content": "x"}
    await site.call("POST", "/api/messages", said, token=a, status=201)
    rest = await site.call("GET", "/api/conversations", token=a, params={"cursor": first["next"]})
    assert [one["id"] for one in (*first["items"], *rest["items"])] == groups[::-1]


async def test_messages_of_a_talk_that_goes_on(site: Site) -> None:
    """Backwards, the messages that existed; forwards, new ones, too. `next` works as cursor and as seq."""
    _, a = await site.user("alice")
    body = {"type": "Group", "name": "g"}
    group = (await site.call("POST", "/api/conversations", body, token=a, status=201))["id"]

    async def say(number: int) -> None:
        said = {"conversationId": group, "content": f"m{number}"}
        await site.call("POST", "/api/messages", said, token=a, status=201)

    for number in range(100, 106):
        await say(number)
    back = await pages(site, "/api/messages", a, say, conversationId=group, limit=2)
    assert [m["content"] for m in back if m["type"] != "System"] == [f"m{n}" for n in range(105, 99, -1)]
    everything = await pages(site, "/api/messages", a, say, conversationId=group, after=0, limit=3)
    seqs = [m["seq"] for m in everything]
    assert seqs == list(range(1, len(seqs) + 1)) and len(seqs) > 7 + 3
    span = await site.call("GET", "/api/messages", token=a, params={"conversationId": group, "after": 2, "before": 5})
    assert [m["seq"] for m in span["items"]] == [3, 4]


async def test_people(site: Site) -> None:
    """Members past the first hundred, receipts, users and sessions are listed once while others are added."""
    _, a = await site.user("alice")
    group = (await site.call("POST", "/api/conversations", {"type": "Group", "name": "g"}, token=a, status=201))["id"]
    async with site.process.pool.connection() as conn:
        made = [(await users.insert_user(conn, f"user{number:03}", "U")).id for number in range(120)]
        for user_id in made[:110]:
            await conversations.insert_member(conn, group, user_id, Role.MEMBER, by=made[0])
    said = {"conversationId": group, "content": "x"}
    sent = await site.call("POST", "/api/messages", said, token=a, status=201)
    shown = await site.call("GET", f"/api/conversations/{group}", token=a)
    assert (len(shown["members"]), shown["memberCount"]) == (100, 111)

    async def join(number: int) -> None:
        body = {"userId": str(made[110 + number])}
        await site.call("POST", f"/api/conversations/{group}/members", body, token=a, status=201)

    members = [m["userId"] for m in await pages(site, f"/api/conversations/{group}/members", a, join, limit=40)]
    assert len(set(members)) == len(members) and {str(user_id) for user_id in made[:110]} < set(members)

    async def register(number: int) -> None:
        await site.user(f"user{number:03}x")

    found = [u["username"] for u in await pages(site, "/api/users", a, register, q="user", limit=30)]
    assert len(set(found)) == len(found) and {f"user{number:03}" for number in range(120)} <= set(found)

    async with site.process.pool.connection() as conn:
        await conn.execute("UPDATE members SET delivered_seq = %s, read_seq = %s", (sent["seq"], sent["seq"]))

    async def nothing(number: int) -> None:
        pass

    path = f"/api/messages/{sent['id']}/receipts"
    receipts = await pages(site, path, a, nothing, limit=50)
    assert (
        len({receipt["userId"] for receipt in receipts}) == len(receipts) == 110
    )  # members who joined later have no receipt
    assert {receipt["status"] for receipt in receipts} == {"Read"}


async def test_limits(site: Site) -> None:
    """Invalid limits and cursors are refused; an empty cursor is the first page."""
    _, a = await site.user("alice")
    for path in ("/api/users", "/api/conversations", "/auth/sessions"):
        for query in ({"limit": 0}, {"limit": 201}, {"limit": "x"}, {"limit": ""}, {"limit": "1.0"}, {"cursor": "!"}):
            await site.call("GET", path, token=a, params=query, status=400)
        await site.call("GET", path, token=a, params={"limit": 200, "cursor": ""})


async def test_limits_are_numbers_in_range(site: Site) -> None:
    """However a limit is written, no page exceeds the maximum, and no number is too long to be refused."""
    _, token = await site.user("alice")
    numbers = ["0" * 18 + "1999999", "1" * 5000, "0" * 5000, "201", "-1", "1e2", "\u0661", " 5", "+5", "0"]
    for path in ("/api/users", "/api/conversations", "/auth/sessions"):
        for number in numbers:
            problem = await site.call("GET", path, token=token, params={"limit": number}, status=400)
            assert problem["code"] == "invalid_request" and "limit" in problem["errors"]
        assert await site.call("GET", path, token=token, params={"limit": "00200"})


async def test_numbers_of_messages(site: Site) -> None:
    """The same holds for each number in a query, and for cursors that are not ours."""
    _, token = await site.user("alice")
    group = (await site.call("POST", "/api/conversations", {"type": "Group", "name": "g"}, token=token, status=201))[
        "id"
    ]
    numbers = ("9" * 5000, "0" * 30 + "9" * 20, str(2**64), "1.0")
    for name, number in product(("before", "after", "cursor", "limit"), numbers):
        query = {"conversationId": group, name: number}
        assert name in (await site.call("GET", "/api/messages", token=token, params=query, status=400))["errors"]
    for path in (f"/api/conversations/{group}/members", "/api/conversations", "/auth/sessions"):
        for cursor in ("9" * 5000, "\u0661" * 22, "=" * 24, "A" * 5000):
            await site.call("GET", path, token=token, params={"cursor": cursor}, status=400)
    await site.call("GET", "/api/users", token=token, params={"cursor": "A" * 5000}, status=400)
