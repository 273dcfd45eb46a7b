"""Faults of PostgreSQL's own (damaged pages, a file system that fails), as clients, operators and the log see them."""

from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from loadtest.client import HubError, connect
from store.postgres import damage, messages
from store.postgres.connection import Connection
from tests.server.rest.routes.test_messages import talk
from tests.site import Site
from tests.waiting import wait_until

STATES = ("58030", "58P01", "53200", "XX000", "XX001", "XX002")
FAULT = "could not read block 7 in file"


async def test_what_is_seen(site: Site, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends, edits and reads that meet one end with `unavailable`, on REST and hub; all others work, and these again
    when it is mended. Health is Degraded; the log has one line, with PostgreSQL's words and no one else's."""
    conversation, a, b = await talk(site)
    path = f"/api/messages?conversationId={conversation}"
    body = {"conversationId": conversation, "content": "hello"}
    first = await site.call("POST", "/api/messages", body, token=a, status=201)
    secret = {**body, "content": "secret", "clientMessageId": "1"}
    read = messages.list_messages_for_caller
    state = ""

    async def read_damaged(
        conn: Connection, *arguments: Any, **options: Any
    ) -> tuple[messages.Standing, messages.Page | None]:
        if state:
            await conn.execute(f"DO $$ BEGIN RAISE '{FAULT}' USING ERRCODE = '{state}'; END $$".encode())
        return await read(conn, *arguments, **options)

    async def is_in_health(status: str, *checks: str) -> None:
        """In the end: a machine that stands still for a while costs other checks their answers."""

        async def is_so() -> bool:
            found = (await site.http.get("/health/ready")).json()
            return (found["status"], *(name for name, word in found["checks"].items() if word != "ok")) == (
                status,
                *checks,
            )

        await wait_until(is_so)

    monkeypatch.setattr(messages, "list_messages_for_caller", read_damaged)
    await is_in_health("Healthy")
    with psycopg.connect(database, autocommit=True) as other, capture_logs() as lines:
        for state in STATES:
            other.execute(
                "CREATE OR REPLACE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" IF NEW.body LIKE 'secret%' THEN RAISE '{FAULT}' USING ERRCODE = '{state}'; END IF;"
                " RETURN NEW; END $$".encode()
            )
            other.execute(
                "CREATE OR REPLACE TRIGGER fault BEFORE INSERT OR UPDATE ON messages"
                " FOR EACH ROW EXECUTE FUNCTION fault()"
            )
            for method, where, what in (
                ("POST", "/api/messages", secret),
                ("PUT", f"/api/messages/{first['id']}", {"content": "secret"}),
                ("GET", path, None),
            ):
                problem = await site.call(method, where, what, token=a, status=503)
                assert problem["code"] == "unavailable", (state, method)
            async with connect(f"{site.url}/hubs/chat", b) as client:
                with pytest.raises(HubError, match="unavailable: "):
                    await client.invoke("SendMessage", secret)
                assert (await client.invoke("SendMessage", {**body, "content": "meanwhile"}))["seq"]
            await is_in_health("Degraded", "damage")
        state = ""
        other.execute("DROP TRIGGER fault ON messages")
        sent = await site.call("POST", "/api/messages", secret, token=a, status=201)
        assert sent["id"] in [message["id"] for message in (await site.call("GET", path, token=a))["items"]]
        monkeypatch.setattr(damage, "SHOWN", 0.0)
        await is_in_health("Healthy")
    said = [line for line in lines if line["event"].startswith("postgres_")]
    assert not [line for line in lines if line["log_level"] == "error" and line not in said]
    assert [line["event"] for line in said] == ["postgres_damaged", "postgres_damaged_over"], said
    assert said[0]["reason"] == f"{FAULT} ({STATES[0]})"
    assert "secret" not in str(lines) and "exc_info" not in str(lines)
