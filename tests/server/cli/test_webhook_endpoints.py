"""`parley webhook`: an operator looks after endpoints, on the database itself."""

import os
import re
from uuid import UUID

from store.ids import new_id
from store.postgres.connection import Connection
from tests import forkserver
from tests.running import JWT_KEY
from tests.store.postgres.test_webhooks import make_letters

URL, EVENTS = "https://app.example/in", "message.created, member.added"


async def run(database: str, *arguments: str, columns: int = 200, **settings: str) -> forkserver.Ended:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    ours = {"DATABASE_URL": database, "JWT_KEY": JWT_KEY, **settings}
    environ |= {f"PARLEY_{name}": value for name, value in ours.items()}
    return await forkserver.run("webhook", *arguments, environ={**environ, "COLUMNS": str(columns)})


async def test_an_endpoint_from_end_to_end(database: str) -> None:
    """Made, with a secret that is printed once; shown, paused, resumed, given another secret, replayed, deleted."""
    made = await run(database, "create", "--url", URL, "--events", EVENTS)
    assert made.code == 0, made
    [secret] = re.findall(r"secret: +(whsec_\S+)", made.out)
    [webhook_id] = re.findall(r"id: +(\S+)", made.out)
    listed, shown = await run(database, "list"), await run(database, "show", webhook_id)
    for said in (listed, shown):
        assert webhook_id in said.out and EVENTS in said.out and secret not in said.out
    assert webhook_id in (await run(database, "list", columns=80)).out  # it is what other commands are given
    assert "Paused" in (await run(database, "pause", webhook_id)).out
    assert "Active" in (await run(database, "resume", webhook_id)).out
    changed = await run(database, "rotate-secret", webhook_id)
    assert "whsec_" in changed.out and secret not in changed.out and "old secret until" in changed.out
    conn = await Connection.open(database)
    ids = await make_letters(conn, UUID(webhook_id), 3)
    await conn.close()
    dead = await run(database, "deliveries", webhook_id, "--dead")
    assert all(event_id in dead.out for event_id in ids) and "HTTP 500" in dead.out
    assert ids[0] in (await run(database, "deliveries", webhook_id, "--dead", columns=80)).out
    assert ids[0] not in (await run(database, "deliveries", webhook_id, "--dead", "--limit", "2")).out
    assert "events wait in 0 conversations" in (await run(database, "deliveries", webhook_id)).out
    assert "1 will be tried again" in (await run(database, "replay", webhook_id, ids[0])).out
    assert "3 will be tried again" in (await run(database, "replay", webhook_id, "--all")).out
    assert (await run(database, "delete", webhook_id)).code == 0
    assert webhook_id not in (await run(database, "list")).out
    for command in ("show", "pause", "resume", "rotate-secret", "delete", "deliveries"):
        gone = await run(database, command, webhook_id)
        assert gone.code == 1 and "not_found" in gone.err


async def test_what_is_refused(database: str) -> None:
    """A URL that is not for webhooks is 1; a wrong command line, or a setting that is missing, is 2."""
    refused = await run(database, "create", "--url", "http://127.0.0.1/in")
    assert refused.code == 1 and "https" in refused.err
    named = await run(database, "create", "--url", "http://127.0.0.1/in", WEBHOOK_HOSTS="127.0.0.1")
    assert named.code == 0
    assert (await run(database, "replay", str(new_id()))).code == 2
    assert (await run(database, "show", "nonsense")).code == 2
    assert (await run("", "list")).code == 2
    assert (await run(database, "list", JWT_KEY="")).code == 2
