"""`parley admin`: what an operator does on the database, whether instances run or not."""

import json
import os
import re
import shlex
from types import ModuleType
from typing import Any, NamedTuple
from uuid import UUID

import pytest
import trio
from quart import Quart

from server.cli.admin.commands import REPORT_ACTS, admin
from server.rest import converters, key_access
from server.rest.routes import member_moderation, moderation
from server.rest.routes import reports as reports_routes
from store.ids import new_id
from store.model import Act, Message, ReportAct, ReportCategory
from store.postgres import reports
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from tests import forkserver
from tests.running import running
from tests.server.rest.routes.test_moderation import end_of
from tests.store.world import fetch_value, make_group, make_users, make_writer


async def run(database: str, *arguments: str) -> forkserver.Ended:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    return await forkserver.run("admin", *arguments, environ={**environ, "PARLEY_DATABASE_URL": database})


async def test_acts(database: str) -> None:
    """Roles, bans, sessions and names, with one line for each, and an entry of the audit log."""
    conn = await Connection.open(database)
    alice, bob = await make_users(conn, 2)
    for arguments, said in (
        (("grant", "administrator", str(alice)), f"{alice}: Administrator"),
        (("ban", str(bob), "--for", "7d", "--reason", "spam", "--as", str(alice)), f"{bob}: User, banned until 20"),
        (("show", str(bob)), f"{bob}: User, banned until 20"),
        (("unban", str(bob)), f"{bob}: User"),
        (("end-sessions", str(bob)), f"{bob}: User"),
        (("rename-user", str(bob), "--username", "kind", "--display-name", "Kind"), f"{bob}: kind, Kind"),
        (("ban", "kind"), f"{bob}: User, banned until 9999"),
        (("revoke", "administrator", str(alice)), f"{alice}: User"),
    ):
        done = await run(database, *arguments)
        assert done.code == 0 and done.out.startswith(said), (arguments, done)
    exported = await run(database, "audit", "--json")
    found: list[dict[str, Any]] = [json.loads(line) for line in exported.out.splitlines()]
    assert [one["act"] for one in found] == [
        "roleChanged",
        "userBanned",
        "userRenamed",
        "sessionsEnded",
        "userUnbanned",
        "userBanned",
        "roleChanged",
    ]
    assert [one["actorId"] for one in found] == [None] * 5 + [str(alice), None]
    some = await run(database, "audit", "--act", "userBanned", "--by", str(alice), "--last", "1h", "--json")
    assert [json.loads(line)["reason"] for line in some.out.splitlines()] == ["spam"]
    table = await run(database, "audit", "--limit", "2")
    assert table.code == 0 and "roleChanged" in table.out and "sessionsEnded" not in table.out
    whole = await run(database, "audit")  # into a pipe: a line for each entry, and nothing is cut
    head, *lines = whole.out.splitlines()
    assert head.split() == ["when", "act", "who", "whom", "until", "what", "why"] and len(lines) == 7
    assert all(str(alice) in line or str(bob) in line for line in lines)
    shown = await run(database, "show", str(bob), "--json")
    assert json.loads(shown.out)["bannedUntil"].startswith("9999-")
    assert await fetch_value(conn, "SELECT count(*) FROM outbox") == 3  # for the relay of an instance
    await conn.close()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", "unheard-of"), 1, "no user"),
        (("grant", "king", "x"), 2, "king"),
        (("ban", "x", "--for", "soon"), 2, "--for"),
        (("audit", "--act", "x"), 1, "no act"),
        (("audit", "--last", "1000000d"), 2, "--last"),
        (("ban", "x", "--for", "1000000d"), 2, "--for"),
        (("rename-user", "x"), 2, "--username"),
        (("erase-user", "x"), 1, "Aborted"),
        (("delete-message", str(UUID(int=1))), 1, "no such message"),
        (("delete-message", "x"), 2, "x"),
        (("rename-group", str(UUID(int=1)), "a name"), 1, "--as"),
        (("resolve", str(UUID(int=1)), "--act", "ban"), 1, "no such report"),
        (("resolve", str(UUID(int=1)), "--act", "dance"), 2, "dance"),
        (("resolve", str(UUID(int=1)), "--act", "delete-message", "--for", "1h"), 2, "--for"),
    ],
)
async def test_what_cannot_be_done(database: str, arguments: tuple[str, ...], code: int, said: str) -> None:
    """One line says why."""
    done = await run(database, *arguments)
    assert done.code == code and said in done.out + done.err


async def test_who_may_not(database: str) -> None:
    """On behalf of a user it needs their role."""
    conn = await Connection.open(database)
    alice, bob = await make_users(conn, 2)
    done = await run(database, "ban", str(bob), "--as", str(alice))
    assert done.code == 1 and "forbidden" in done.out + done.err
    assert await fetch_value(conn, "SELECT count(*) FROM audit") == 0
    await conn.close()


async def test_a_ban_ends_connections(database: str, redis_url: str) -> None:
    """An instance that runs hears of it from its relay, at once: it need not be asked."""
    async with running(database, redis_url) as server:
        user = await server.register("user")
        async with server.connect(user) as client:
            await client.invoke("Ping")
            assert (await run(database, "ban", "user")).code == 0
            assert (await end_of(client)).startswith("banned:")


async def test_members(database: str) -> None:
    """What the members of a conversation see is done by a moderator; it is a change for the relay."""
    conn = await Connection.open(database)
    alice, bob = await make_users(conn, 2)
    group = str(await make_group(conn, [alice, bob]))
    nameless = await run(database, "mute", group, str(bob))
    assert nameless.code == 1 and "--as" in nameless.out + nameless.err
    assert (await run(database, "grant", "moderator", str(alice))).code == 0
    for arguments in (
        ("mute", group, str(bob), "--for", "1h"),
        ("unmute", group, str(bob)),
        ("keep-out", group, str(bob), "--reason", "spam"),
        ("kept-out", group),
        ("let-in", group, str(bob)),
        ("rename-group", group, "a calm group", "--reason", "an insult"),
    ):
        done = await run(database, *arguments, "--as", str(alice), "--json")
        assert done.code == 0, done
        [said] = map(json.loads, done.out.splitlines())
        assert str(bob) in said.values() or said["name"] == "a calm group", said
    acts = await fetch_value(conn, "SELECT string_agg(act, ' ' ORDER BY id) FROM audit")
    assert acts == "roleChanged memberMuted memberUnmuted memberBanned memberUnbanned groupRenamed"
    assert await fetch_value(conn, "SELECT count(*) FROM outbox WHERE seq > 1") == 4
    assert await fetch_value(conn, "SELECT title FROM conversations") == "a calm group"
    await conn.close()


async def test_reports_and_messages(database: str, pool: Pool, nursery: trio.Nursery) -> None:
    """A report is resolved with an act, in one transaction; a message is deleted, and a user is erased."""
    writer = make_writer(pool)
    await nursery.start(writer.lanes.run)
    conn = await Connection.open(database)
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob, carol])
    said = [await writer.send(group, bob, text).message() for text in ("one", "two", "three")]

    async def report(message: Message | None) -> str:
        made = await reports.insert_report(
            conn,
            new_id(),
            carol,
            bob,
            message_id=None if message is None else message.id,
            conversation_id=None if message is None else group,
            category=ReportCategory.SPAM,
            comment="a\x1b[2J comment",
            content=None if message is None else message.content,
        )
        assert made is not None
        return str(made.id)

    first, second, third = [await report(message) for message in (said[0], said[1], None)]
    listed = await run(database, "reports")
    assert listed.code == 0 and len(listed.out.splitlines()) == 4 and "\x1b" not in listed.out
    assert all(one in listed.out for one in (first, second, third, str(said[0].id)))
    nameless = await run(database, "resolve", first, "--act", "mute")
    assert nameless.code == 1 and "administrator" in nameless.err
    nothing = await run(database, "resolve", third, "--act", "delete-message")
    assert nothing.code == 1 and "of a message" in nothing.err
    for arguments in (
        ("resolve", first, "--act", "delete-message", "--note", "an insult", "--json"),
        ("resolve", third, "--act", "ban", "--for", "7d", "--json"),
        ("resolve", third, "--act", "ban", "--json"),  # it is resolved: nothing is done
    ):
        done = await run(database, *arguments)
        assert done.code == 0 and json.loads(done.out)["state"] == "Resolved", done
    assert (await run(database, "grant", "moderator", str(alice))).code == 0
    kept_out = await run(database, "resolve", second, "--act", "keep-out", "--as", str(alice))
    assert kept_out.code == 0 and kept_out.out == f"{second}: Resolved\n"
    deleted = await run(database, "delete-message", str(said[2].id), "--reason", "spam", "--json")
    assert deleted.code == 0 and json.loads(deleted.out)["conversationId"] == str(group)
    again = await run(database, "delete-message", str(said[2].id))
    assert again.code == 1 and "gone" in again.err
    assert (await run(database, "erase-user", str(bob), "--yes")).code == 0
    noted = await fetch_value(conn, "SELECT array_agg(act || coalesce(' ' || detail, '') ORDER BY id) FROM audit")
    assert noted == [
        "messageDeleted",
        "reportResolved DeleteMessage",
        "userBanned",
        "reportResolved BanUser",
        "roleChanged Moderator",
        "memberBanned",
        "reportResolved KeepOut",
        "messageDeleted",
        "userErased",
    ]
    contents = await fetch_value(conn, "SELECT array_agg(body ORDER BY seq) FROM messages WHERE kind = 'Text'")
    assert contents == ["", "two", ""]
    await conn.close()
    nursery.cancel_scope.cancel()


class Way(NamedTuple):
    """How an act is done over REST, and by which commands; or why it is not."""

    routes: tuple[str, ...]
    commands: tuple[str, ...]
    why_not: str = ""


MEMBER = "/api/conversations/{conversation_id}/members/{user_id}"
OUT = "/api/conversations/{conversation_id}/bans/{user_id}"
KEYS = "keys are an operator's, who has `parley apikey`"
ENDPOINTS = ("POST /api/webhooks", "PUT /api/webhooks/{webhook_id}", "DELETE /api/webhooks/{webhook_id}")
WEBHOOKS = "`parley webhook`"
WAYS: dict[Act, Way] = {
    Act.SIGN_IN: Way((), (), "users do it themselves"),
    Act.ROLE_CHANGED: Way(("PUT /api/users/{user_id}/role",), ("grant", "revoke")),
    Act.USER_BANNED: Way(("PUT /api/users/{user_id}/ban",), ("ban",)),
    Act.USER_UNBANNED: Way(("DELETE /api/users/{user_id}/ban",), ("unban",)),
    Act.USER_RENAMED: Way(("PUT /api/users/{user_id}/name",), ("rename-user",)),
    Act.USER_ERASED: Way(("DELETE /api/users/{user_id}",), ("erase-user",)),
    Act.SESSIONS_ENDED: Way(("DELETE /api/users/{user_id}/sessions",), ("end-sessions",)),
    Act.KEY_CREATED: Way((), (), KEYS),
    Act.KEY_ROTATED: Way((), (), KEYS),
    Act.KEY_REVOKED: Way((), (), KEYS),
    Act.WEBHOOK_CREATED: Way(ENDPOINTS[:1], (), WEBHOOKS),
    Act.WEBHOOK_CHANGED: Way(ENDPOINTS[1:2], (), WEBHOOKS),
    Act.WEBHOOK_DELETED: Way(ENDPOINTS[2:], (), WEBHOOKS),
    Act.MEMBER_MUTED: Way((f"PUT {MEMBER}/mute",), ("mute",)),
    Act.MEMBER_UNMUTED: Way((f"DELETE {MEMBER}/mute",), ("unmute",)),
    Act.MEMBER_BANNED: Way((f"PUT {OUT}",), ("keep-out",)),
    Act.MEMBER_UNBANNED: Way((f"DELETE {OUT}",), ("let-in",)),
    Act.MESSAGE_DELETED: Way(("DELETE /api/messages/{message_id}",), ("delete-message",)),
    Act.GROUP_RENAMED: Way(("PUT /api/conversations/{conversation_id}/name",), ("rename-group",)),
    Act.REPORT_RESOLVED: Way(("PUT /api/reports/{report_id}/resolution",), ("resolve",)),
}
# What is only looked at, by each command.
READS = {
    "show": "GET /api/users/{user_id}/standing",
    "audit": "GET /api/audit",
    "reports": "GET /api/reports",
    "kept-out": "GET /api/conversations/{conversation_id}/bans",
}
BY_USERS = {"POST /api/reports"}  # routes beside those of moderators that are no act of theirs


def test_each_act_has_both_ways() -> None:
    """Whatever the audit log may have an entry of is done over REST and by a command, or it is said why not; no command
    and no route of moderators is without its act."""
    assert WAYS.keys() == set(Act)
    known = {*key_access.ROUTES, *key_access.REFUSED}
    for act, way in WAYS.items():
        assert (way.routes and way.commands) or way.why_not, act
        assert {*way.routes} <= known, act
    assert {*READS.values()} <= known
    assert {name for way in WAYS.values() for name in way.commands} | READS.keys() == admin.commands.keys()
    acts = {route for way in WAYS.values() for route in way.routes}
    for module in (moderation, member_moderation, reports_routes):
        assert routes_of(module) <= acts | set(READS.values()) | BY_USERS | {"GET /api/users/me/reports"}, module


def routes_of(module: ModuleType) -> set[str]:
    app = Quart(__name__)
    converters.install(app.url_map)
    app.register_blueprint(module.blueprint(None))
    rules = [rule for rule in app.url_map.iter_rules() if rule.endpoint != "static"]
    paths = [(rule.methods or set(), re.sub("<(?:[a-z_]+:)?([a-z_]+)>", r"{\1}", rule.rule)) for rule in rules]
    return {f"{method} {path}" for methods, path in paths for method in methods - {"HEAD", "OPTIONS"}}


@pytest.mark.parametrize("name", sorted(admin.commands))
def test_help_teaches(name: str) -> None:
    """Each command shows itself in an example that its own parser takes, and prints JSON when it is asked to."""
    found = admin.commands[name]
    examples = re.findall(rf"parley admin {name}\b(.*)", found.help or "")
    assert examples, name
    for example in examples:
        words = shlex.split(example.split(" > ")[0].split(" | ")[0])
        found.make_context(name, words, resilient_parsing=False).close()
    assert "--json" in {option for parameter in found.params for option in parameter.opts}


def test_acts_of_reports() -> None:
    """The command has each act with which a report is resolved."""
    assert sorted(REPORT_ACTS.values()) == sorted(act.value for act in ReportAct)
