"""Both client libraries: blocks, reports and what moderators do, by the same names, against a real server."""

import json
from datetime import UTC, datetime
from typing import Any

import parley_client
import psycopg
import trio
from parley_client import BlocksChanged, Chat, MessageFailed, ParleyError, UserRole

from tests.clients.conftest import JAVASCRIPT
from tests.clients.live import WAIT
from tests.running import Running, User, running
from tests.waiting import wait_until

UNTIL = "2099-01-02T03:04:05.000Z"
TIME = datetime(2099, 1, 2, 3, 4, 5, tzinfo=UTC)

JAVASCRIPT_ONE = """
const { Parley } = await import(process.argv[1]);
const [url, group, own, bobs, bob, carol] = process.argv.slice(2);
const open = (token) => Parley.connect({ url, token: () => token });
const [chat, phone, theirs] = [await open(own), await open(own), await open(bobs)];
const code = (promise) => promise.then(() => null, (error) => error.code);
const until = new Date("2099-01-02T03:04:05Z");
const next = (where, type) => new Promise((resolve) => where.on(type, resolve));
const found = {};
let heard = next(phone, "blocks");
await chat.block(carol);
found.blocked = [chat.isBlocked(carol), [...(await heard).userIds], (await chat.blocks()).map(({ userId }) => userId)];
const tablet = await open(own);
if (!tablet.isBlocked(carol)) await next(tablet, "blocks");
found.later = [...tablet.blockedIds];
heard = next(phone, "blocks");
await chat.unblock(carol);
found.unblocked = [chat.isBlocked(carol), [...(await heard).userIds], phone.isBlocked(carol)];
found.report = (await chat.report({ category: "Spam", userId: bob })).state;
found.ownReports = (await chat.ownReports()).items.map(({ userId }) => userId);
const [report] = (await chat.reports({ state: "Open", userId: bob })).items;
found.reports = [report.category, report.reporterId];
found.resolved = (await chat.resolveReport(report.id, { note: "seen" })).state;
await chat.report({ category: "Other", userId: carol });
const [other] = (await chat.reports({ state: "Open", userId: carol })).items;
const resolved = await chat.resolveReport(other.id, { act: "BanUser", until });
found.acted = [resolved.state, (await chat.standing(carol)).bannedUntil];
await chat.unban(carol);
const conversation = chat.conversation(group);
await conversation.muteMember(bob, { until, reason: "noise" });
const failed = next(theirs, "failed");
theirs.conversation(group).send("hello?");
const { error } = await failed;
found.muted = [error.code, error.until];
await conversation.unmuteMember(bob);
await conversation.keepOut(carol, { until });
found.keptOut = (await conversation.keptOut()).items.map(({ userId, until }) => [userId, until]);
await conversation.letIn(carol);
found.letIn = (await conversation.keptOut()).items;
const { role, bannedUntil } = await chat.standing();
found.standing = [role, bannedUntil];
found.renamed = (await chat.renameUser(carol, { displayName: "Other" })).displayName;
found.ended = (await chat.endSessions(carol)).userId;
found.banned = (await chat.ban(carol, { until })).bannedUntil;
found.unbanned = (await chat.unban(carol)).bannedUntil;
found.role = await code(chat.setUserRole(bob, "Moderator"));
for (const one of [chat, phone, tablet, theirs]) await one.close();
console.log(JSON.stringify(found));
"""


def expected(alice: User, bob: User, carol: User) -> dict[str, Any]:
    return {
        "blocked": [True, [carol.id], [carol.id]],
        "later": [carol.id],
        "unblocked": [False, [], False],
        "report": "Open",
        "ownReports": [bob.id],
        "reports": ["Spam", alice.id],
        "resolved": "Resolved",
        "acted": ["Resolved", UNTIL],
        "muted": ["muted", UNTIL],
        "keptOut": [[carol.id, UNTIL]],
        "letIn": [],
        "standing": ["Moderator", None],
        "renamed": "Other",
        "ended": carol.id,
        "banned": UNTIL,
        "unbanned": None,
        "role": "forbidden",
    }


async def begin(server: Running, database: str) -> tuple[User, User, User, str]:
    """A moderator, a member of a group, and somebody else."""
    alice, bob, carol = [await server.register(name) for name in ("alice", "bob", "carol")]
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE users SET role = 'Moderator' WHERE id = %s", (alice.id,))
    return alice, bob, carol, await server.group(alice, bob)


async def test_javascript(node: str, database: str, redis_url: str) -> None:
    """Each does what its documentation says, in the JavaScript library; one's own devices hear of blocks."""
    library = str(JAVASCRIPT / "src" / "index.js")
    options = ["--experimental-websocket", "--no-warnings", "--input-type=module", "-e", JAVASCRIPT_ONE]
    async with running(database, redis_url) as server:
        alice, bob, carol, group = await begin(server, database)
        arguments = [server.url, group, alice.token, bob.token, bob.id, carol.id]
        with trio.fail_after(WAIT):
            done = await trio.run_process([node, *options, library, *arguments], capture_stdout=True)
        assert json.loads(done.stdout) == expected(alice, bob, carol)


async def test_python(database: str, redis_url: str) -> None:
    """Each does what its documentation says, in the Python library; one's own devices hear of blocks."""
    async with running(database, redis_url) as server:
        alice, bob, carol, group = await begin(server, database)
        with trio.fail_after(WAIT):
            async with (
                parley_client.connect(server.url, token=alice.token) as chat,
                parley_client.connect(server.url, token=alice.token) as phone,
                parley_client.connect(server.url, token=bob.token) as theirs,
            ):
                found = await do_all(server, chat, phone, theirs, group, alice, bob, carol)
        assert found == expected(alice, bob, carol)


async def blocks_of(chat: Chat, count: int) -> list[str]:
    """The ids that the next event has which says of so many."""
    async for event in chat.events():
        if isinstance(event, BlocksChanged) and len(event.user_ids) == count:
            return list(event.user_ids)
    raise AssertionError


async def do_all(
    server: Running, chat: Chat, phone: Chat, theirs: Chat, group: str, alice: User, bob: User, carol: User
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    await chat.block(carol.id)
    listed = [one.user_id for one in await chat.blocks()]
    found["blocked"] = [chat.is_blocked(carol.id), await blocks_of(phone, 1), listed]
    async with parley_client.connect(server.url, token=alice.token) as tablet:
        found["later"] = list(tablet.blocked_ids)
    await chat.unblock(carol.id)
    await wait_until(lambda: not phone.is_blocked(carol.id))
    found["unblocked"] = [chat.is_blocked(carol.id), list(phone.blocked_ids), phone.is_blocked(carol.id)]
    found["report"] = (await chat.report("Spam", user=bob.id)).state
    found["ownReports"] = [one.user_id for one in (await chat.own_reports()).items]
    [report] = (await chat.reports(state="open", user=bob.id)).items
    found["reports"] = [report.category, report.reporter_id]
    found["resolved"] = (await chat.resolve_report(report, note="seen")).state
    await chat.report("Other", user=carol.id)
    [other] = (await chat.reports(state="open", user=carol.id)).items
    resolved = await chat.resolve_report(other, act="BanUser", until=TIME)
    found["acted"] = [resolved.state, (await chat.standing(carol.id)).banned_until]
    await chat.unban(carol.id)
    conversation = chat.conversation(group)
    await conversation.mute_member(bob.id, until=TIME, reason="noise")
    theirs.conversation(group).send("hello?")
    async for event in theirs.events():
        if isinstance(event, MessageFailed):
            assert event.outgoing.error is not None
            found["muted"] = [event.outgoing.error.code, event.outgoing.error.until]
            break
    await conversation.unmute_member(bob.id)
    await conversation.keep_out(carol.id, until=TIME)
    found["keptOut"] = [[one.user_id, one.until] for one in await conversation.kept_out()]
    await conversation.let_in(carol.id)
    found["letIn"] = await conversation.kept_out()
    standing = await chat.standing()
    found["standing"] = [standing.role, standing.banned_until]
    found["renamed"] = (await chat.rename_user(carol.id, display_name="Other")).display_name
    found["ended"] = (await chat.end_sessions(carol.id)).user_id
    found["banned"] = (await chat.ban(carol.id, until=TIME)).banned_until
    found["unbanned"] = (await chat.unban(carol.id)).banned_until
    try:
        await chat.set_user_role(bob.id, UserRole.MODERATOR)
    except ParleyError as error:
        found["role"] = error.code
    return found
