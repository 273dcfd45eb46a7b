"""store.postgres.queries: SQL that has names."""

import re
from typing import Any
from uuid import UUID

import pytest

from store.ids import new_id
from store.postgres import queries
from store.postgres.connection import Connection
from tests.store.postgres.test_conversations import rows_read
from tests.store.postgres.test_users import explained


def test_names_and_fragments() -> None:
    """Each query has its name, without its comments, with the fragments it embeds."""
    found = queries.parse(
        "-- about the file\n\n-- fragment: who\nid, name\n\n-- name: one\n-- uses an index\nSELECT {who} FROM t\n"
        "\n-- name: two\nSELECT 2\n"
    )
    assert found == {"one": "SELECT id, name FROM t", "two": "SELECT 2"}


@pytest.mark.parametrize("text", ["-- name: a\nx\n-- name: a\ny\n", "-- name: a\n{missing}\n"])
def test_mistakes_are_found_at_import(text: str) -> None:
    """A name that is there twice, a fragment that is not there."""
    with pytest.raises(ValueError, match=r"twice|unknown"):
        queries.parse(text)


def test_unknown_name() -> None:
    """A query that is in no file is an AttributeError, not an empty statement."""
    with pytest.raises(AttributeError):
        _ = queries.no_such_query


# Queries that do not look whether the group of a member whom they read was dissolved, and why they need not.
UNDER_LOCK = "the conversation is locked, and lives"
OF_OTHERS = "what it is about was found by a query that looks"
DOES_NOT_LOOK = {
    "insert_members": UNDER_LOCK,
    "delete_member": UNDER_LOCK,
    "delete_memberships": UNDER_LOCK,
    "promote_heirs": UNDER_LOCK,
    "update_role": UNDER_LOCK,
    "update_muted_until": UNDER_LOCK,
    "fetch_mute": UNDER_LOCK,
    "count_owners": UNDER_LOCK,
    "list_strangers": UNDER_LOCK,
    "list_reactors": UNDER_LOCK,
    "list_joined_since": UNDER_LOCK,
    "list_first_members": OF_OTHERS,
    "list_receipts": OF_OTHERS,
    "delete_dissolved_members": "those are what it is for",
    "lower_receipts": "it lowers cursors that nothing shows",
    "fetch_webhook_conversation": "it says who was there when it was made",
}
# How far the other members have got, for the status of messages that somebody may read.
STATUS = re.compile(r"JOIN members AS o ON o\.conversation_id = [cs]\.conversation_id")
MEMBERS = re.compile(r"\b(FROM|JOIN|INTO|UPDATE) members\b")
LOOKS = re.compile(r"FROM dissolutions\b|\bc\.deleted_at IS NULL")


def test_who_was_in_a_dissolved_group_is_no_member() -> None:
    """Each query that reads members passes those by whose group was dissolved, and whose rows are there still."""
    named = {name: STATUS.sub("", sql) for name, sql in queries.each()}
    blind = {name for name, sql in named.items() if MEMBERS.search(sql) and not LOOKS.search(sql)}
    assert blind == set(DOES_NOT_LOOK)


async def test_every_query_is_understood(conn: Connection) -> None:
    """PostgreSQL can plan each of them: no typing error waits for a rare path."""
    for name, sql in queries.each():
        plain, _ = queries.numbered(sql)
        async with conn.transaction(force_rollback=True):
            await conn.execute(f"PREPARE {name} AS {plain}".encode())


WHOSE = UUID(int=1)  # a user, or an endpoint
# For each query that looks for what is due, or was noted lately: its parameters, and 5,000 rows that are none of that.
NOT_DUE: dict[str, tuple[str, dict[str, Any], str]] = {
    "list_webhooks_due": (
        "webhook_positions",
        {"ids": [WHOSE], "limits": [100], "types": ["report.created"]},
        "(webhook_id, conversation_id, seq, noted_seq, due_at, waiting_since)"
        " SELECT {whose}, gen_random_uuid(), 1, 9, {later}, now()",
    ),
    "list_unread_scans": (
        "unread_scans",
        {"limit": 100, "delay": 5.0},
        "(conversation_id, seq, noted_seq, due_at) SELECT gen_random_uuid(), 1, 9, {later}",
    ),
    "list_unread_rechecks": (
        "unread_rechecks",
        {"limit": 100},
        "(conversation_id, user_id, seq, due_at) SELECT gen_random_uuid(), gen_random_uuid(), 1, {later}",
    ),
    "delete_expired_sessions": (
        "sessions",
        {"limit": 100},
        "(id, user_id, token_hash, expires_at) SELECT gen_random_uuid(), {whose}, sha256(n::text::bytea), {later}",
    ),
    "delete_expired_links": (
        "join_links",
        {"limit": 100},
        "(conversation_id, id, token_hash, created_by, expires_at)"
        " SELECT gen_random_uuid(), gen_random_uuid(), sha256(n::text::bytea), {whose}, {later}",
    ),
    "insert_sign_in": (
        "audit",
        {"id": new_id(), "act": "signIn", "user_id": WHOSE, "session_id": WHOSE, "address": "", "seconds": 3600.0},
        "(id, act, user_id) SELECT uuid7_floor(now() - n * interval '1 day'), 'signIn', {whose}",
    ),
}


@pytest.mark.parametrize("name", NOT_DUE)
async def test_what_is_not_due_is_not_read(conn: Connection, name: str) -> None:
    """However much waits: when something is due, or since when it is looked for, is a bound of an index."""
    table, parameters, rows = NOT_DUE[name]
    await conn.execute("SET session_replication_role = replica")  # whose rows they are does not matter
    values = rows.format(whose=f"'{WHOSE}'::uuid", later="now() + n * interval '1 second'")
    await conn.execute(f"INSERT INTO {table} {values} FROM generate_series(1, 5000) AS n".encode())
    await conn.execute(f"ANALYZE {table}".encode())
    assert rows_read(await explained(conn, getattr(queries, name), parameters), table) <= 1
