"""The JavaScript client and real servers: people chat while instances are killed, drained and paused, and while
history goes back. At the end what each of them is shown equals what PostgreSQL has."""

import json
import random
import re
import subprocess
from pathlib import Path

import pytest
import trio

from tests.clients.conftest import JAVASCRIPT
from tests.clients.live import WAIT, World, instances, started
from tests.interop.test_readme import Program
from tests.running import free_port, running


async def test_people_chat_through_it_all(node: str, database: str, redis_url: str, tmp_path: Path) -> None:
    """Over each transport: kill -9, a drain, a reload, a history that goes back. Each message is there once, as it was
    sent, nothing is pending."""
    dice = random.Random(1)
    async with instances(database, redis_url, 2) as servers, started(node) as process:
        world = World(process, servers, tmp_path)
        await world.settle_in(people=6, groups=3)
        await process.call("talk", pause=100)
        await world.have_sent(30)
        await servers.kill(0)
        await world.have_sent(20)
        servers.reset(1)
        await servers.lose_history(dice.choice(world.groups), dice)
        await process.call("reload", which=4)
        await world.have_sent(20)
        await servers.drain(1)
        await world.have_sent(20)
        reports = await world.quiet()
        assert len(reports) == 6 and all(report["lists"] for report in reports)


NEW_CONVERSATION = """
const { Parley } = await import(process.argv[1]);
const [url, token, other] = process.argv.slice(2);
const chat = await Parley.connect({ url, token: () => token });
const direct = await chat.createDirect(other);
const group = await chat.createGroup({ name: "new", memberIds: [other] });
for (const made of [direct, group]) while (!made.isComplete) await made.loadOlder();
await direct.send("hello").whenSent();
while (direct.messages.some(({ seq }) => seq === 0)) await new Promise((resolve) => setTimeout(resolve, 10));
console.log(JSON.stringify([direct, group].map(({ messages }) => messages.map(({ seq, content }) => [seq, content]))));
await chat.close();
"""


async def test_a_new_conversation_has_its_pages(node: str, database: str, redis_url: str) -> None:
    """Who makes a conversation can read it at once, before anything happens in it, and lacks nothing later."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        library = str(JAVASCRIPT / "src" / "index.js")
        command = [
            node,
            "--experimental-websocket",
            "--no-warnings",
            "--input-type=module",
            "-e",
            NEW_CONVERSATION,
            library,
        ]
        with trio.fail_after(WAIT):
            done = await trio.run_process([*command, server.url, alice.token, bob.id], capture_stdout=True)
        direct, group = json.loads(done.stdout)
    assert [seq for seq, _ in direct] == [1, 2] and direct[-1][1] == "hello" and [seq for seq, _ in group] == [1]


JOINED = """
const { Parley } = await import(process.argv[1]);
const [url, one, other] = process.argv.slice(2);
const [alice, bob] = await Promise.all([one, other].map((token) => Parley.connect({ url, token: () => token })));
const until = async (isSo) => { while (!isSo()) await new Promise((resolve) => setTimeout(resolve, 10)); };
const group = await alice.createGroup({ name: "Garden" });
const { id, token } = await group.createLink({ maxUses: 1 });
const there = await bob.join(token);
const [{ uses }] = (await group.links()).items;
await group.revokeLink(id);
const { code } = await bob.join(token).catch((error) => error);
const { seq } = await group.send("welcome").whenSent();
await until(() => there.messages.some((message) => message.seq === seq));
await group.update({ description: "Roses", slowModeSeconds: 600, isPublic: true });
await until(() => there.slowModeSeconds === 600);
const shown = [there.description, there.posting, there.isPublic, there.avatarUrl];
const refused = await there.send("at once").whenSent().catch((error) => error);
await there.leave();
const [found] = (await bob.searchGroups("gard")).items;
const again = await bob.joinGroup(found.id);
console.log(JSON.stringify([uses, code, shown, refused.code, refused.retryAfterMs > 0, again.id === group.id]));
await Promise.all([alice, bob].map((chat) => chat.close()));
"""


async def test_who_joins_a_group_takes_part(node: str, database: str, redis_url: str) -> None:
    """By a link, or a public one: they see what is said from then on and what is set for the group; a message that slow
    mode refuses has failed, with the time to wait."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        library = str(JAVASCRIPT / "src" / "index.js")
        command = [node, "--experimental-websocket", "--no-warnings", "--input-type=module", "-e", JOINED, library]
        with trio.fail_after(WAIT):
            done = await trio.run_process([*command, server.url, alice.token, bob.token], capture_stdout=True)
    shown = ["Roses", "Everyone", True, None]
    assert json.loads(done.stdout) == [1, "not_found", shown, "slow_mode", True, True]


async def test_long(node: str, database: str, redis_url: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """For minutes: 50 people on three instances, one fault after another."""
    minutes = pytestconfig.getoption("--clients-minutes")
    if not minutes:
        pytest.skip("--clients-minutes is not given: make test-clients")
    seed = pytestconfig.getoption("--clients-seed") or random.randrange(1, 10**6)
    print(f"seed {seed}")  # noqa: T201
    dice = random.Random(seed)
    async with instances(database, redis_url, 3) as servers, started(node) as process:
        world = World(process, servers, tmp_path)
        await world.settle_in(people=50, groups=6)
        await process.call("talk", pause=1000)
        end = trio.current_time() + minutes * 60
        while trio.current_time() < end:
            await trio.sleep(dice.uniform(0.5, 5))  # the pace of faults
            match dice.randrange(10):
                case 0:
                    await process.call("reload", which=dice.randrange(50))
                case 1 | 2:
                    await servers.lose_history(dice.choice(world.groups), dice)
                case _:
                    await servers.fail(dice)
        reports = await world.quiet()
        count = sum(len(report["sent"]) for report in reports)
        print(f"{count} messages sent by {len(reports)} people through {dict(servers.faults)}, 0 mismatches")  # noqa: T201


async def test_the_readme_as_printed(
    node: str, npm: str, package: Path, database: str, redis_url: str, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """The first example, in an empty folder with the package installed: what is typed arrives once, what others say is
    shown, through a kill -9."""
    [text] = re.findall(r"^```js\n(.*?)^```", (JAVASCRIPT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "package.json").write_text('{"type": "module", "private": true}')
    (tmp_path / "chat.mjs").write_text(text)
    install = [npm, "install", "--offline", "--no-fund", "--no-audit", "--silent", str(package)]
    await trio.run_process(install, cwd=tmp_path)
    port = free_port()
    async with running(database, redis_url, port=port) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        command = [node, "chat.mjs", server.url, alice.token, bob.id]
        process = await trio.lowlevel.open_process(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        program = Program(process)
        nursery.start_soon(program.run)
        try:
            await program.type("hello, bob")
            await program.has_shown("hello, bob")
            conversation = await server.direct(alice, bob)
            async with server.connect(bob) as b:
                await b.invoke("SendMessage", {"conversationId": conversation, "content": "hello, alice"})
            await program.has_shown("hello, alice")
            server.kill()
            await server.wait()
            await program.type("while it is gone")
            async with running(database, redis_url, port=port) as again:
                await program.has_shown("while it is gone")
                assert await program.end() == 0
                said = [message["content"] for message in await again.history(bob, conversation)]
        finally:
            process.kill()
    assert said == ["hello, bob", "hello, alice", "while it is gone"]
    shown = [line for line in program.lines if not line.startswith("(")]
    assert shown == ["> hello, bob", "< hello, alice", "> while it is gone"]
