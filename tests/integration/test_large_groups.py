"""Groups of thousands of members: what is answered about them comes in pages."""

import psycopg

from tests.running import Running


async def test_joining_a_group_of_thousands(server: Running, database: str) -> None:
    """JoinConversation answers with the first members' cursors and where the rest is had; the connection lives."""
    alice = await server.register("alice")
    group = await server.group(alice)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO users (id, username, display_name)"
            " SELECT gen_random_uuid(), 'user' || n, 'user' || n FROM generate_series(1, 3200) AS n"
        )
        conn.execute(
            "INSERT INTO members (conversation_id, user_id, role) SELECT %s, id, 'Member' FROM users WHERE id <> %s",
            [group, alice.id],
        )
        conn.execute("UPDATE conversations SET member_count = 3201 WHERE id = %s", [group])
    async with server.connect(alice) as hub:
        joined = await hub.invoke("JoinConversation", group)
        assert len(joined["cursors"]) == 100 and await hub.invoke("Ping") == {}
    found = [cursor["userId"] for cursor in joined["cursors"]]
    following = joined["next"]
    async with server.http(alice) as http:
        while following is not None:
            query = {"cursor": following, "limit": 200}
            page = (await http.get(f"/api/conversations/{group}/members", params=query)).raise_for_status().json()
            found += [member["userId"] for member in page["items"]]
            following = page["next"]
    assert len(found) == len(set(found)) == 3201
    async with server.connect(alice) as hub:
        small = await hub.invoke("JoinConversation", await server.group(alice))
        assert len(small["cursors"]) == 1 and small["next"] is None
