"""Both client libraries: what one can do the other can, by the same name, and does it against a real server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import parley_client
import trio
from parley_client import Chat, Conversation, Outgoing, ParleyError
from parley_client.conversation import Actions

from tests.clients.conftest import JAVASCRIPT
from tests.clients.live import WAIT
from tests.running import Running, User, running

MINE, OLDEST = "mine", "message 0"
COUNT = 120  # messages: more than come by themselves
REACTION, OTHERS_REACTION = "👍", "🎉"

# Where a name of the JavaScript library is another one in the Python library: there it would be a word of the language,
# a property, or is older than the other library. None: Python has a block, or needs no such thing.
RENAMED: dict[str, str | None] = {
    "create_direct": "direct",
    "create_group": "group",
    "presence_of": "presence",
    "request": None,
    "reconnect": "connect_now",
    "close": None,
    "when_live": "wait_live",
    "load_members": "all_members",
    "set_role": "change_role",
    "when_sent": "committed",
}
# What is in the Python library alone: it is asked for by other means, or has a type of its own.
ONLY_PYTHON = {
    *("get_presence", "subscribe", "upload_bytes", "events", "get", "status", "delete_for_all", "delete_file"),
}

JAVASCRIPT_ONE = """
const { Parley } = await import(process.argv[1]);
const [url, token, id, mine, other] = process.argv.slice(2);
const chat = await Parley.connect({ url, token: () => token });
const conversation = chat.conversation(id);
const code = (promise) => promise.then(() => null, (error) => error.code);
const found = {};
found.message = (await chat.message(mine)).content;
found.users = [(await chat.findUser("BOB"))?.id === other, await chat.findUser("stranger")];
const page = await conversation.page({ after: 0, limit: 3 });
const further = await conversation.page({ after: page.next, limit: 1 });
found.page = [...page.messages.slice(1), ...further.messages].map(({ content }) => content);
found.loaded = conversation.messages.length;
const message = await conversation.loadTo(mine);
found.loadTo = [message.content, conversation.messages.length > found.loaded];
found.loadTo.push(await conversation.loadTo(crypto.randomUUID()));
found.loaded = null;
await message.react("👍");
found.reactors = (await conversation.reactors(mine)).items.map(({ userId, emoji }) => [userId, emoji]).sort();
found.own = (await conversation.reactors(mine, { emoji: "👍" })).items.map(({ userId }) => userId);
found.receipts = (await conversation.receipts(mine)).items.map(({ userId, status }) => [userId, status]);
await conversation.mute();
found.muted = [conversation.isMuted];
await conversation.unmute();
found.muted.push(conversation.isMuted);
const file = await chat.files.upload(new Blob(["what is in it"], { type: "text/plain" }), { name: "a.txt" });
const { url: link } = await chat.files.link(file);
found.file = [await (await chat.files.download(file)).text(), await (await fetch(link)).text()];
await chat.files.delete(file);
found.deleted = await code(chat.files.link(file));
await chat.updateMe({ displayName: "Alice", statusText: "away" });
found.me = [(await chat.updateMe({ statusText: null })).displayName, (await chat.me()).statusText];
found.sessions = (await chat.sessions()).map(({ current }) => current);
found.export = (await (await chat.export()).text()).slice(0, 2);
conversation.send("the last one");
await chat.flush();
found.flushed = [chat.pendingCount, (await chat.message(conversation.lastMessage.id)).content];
const closed = new Promise((resolve) => {
  chat.on("state", ({ state, reason }) => state === "closed" && resolve(reason.code));
});
if (process.argv[7] === "leave") await chat.deleteAccount();
else await chat.endSession((await chat.sessions())[0].id);
found.closed = await closed;
await chat.close();
console.log(JSON.stringify(found));
"""


def expected(alice: User, bob: User) -> dict[str, Any]:
    return {
        "message": MINE,
        "users": [True, None],
        "page": [MINE, OLDEST, "message 1"],
        "loaded": None,
        "loadTo": [MINE, True, None],
        "reactors": sorted([[alice.id, REACTION], [bob.id, OTHERS_REACTION]]),
        "own": [alice.id],
        "receipts": [[bob.id, "Read"]],
        "muted": [True, False],
        "file": ["what is in it", "what is in it"],
        "deleted": "not_found",
        "me": ["Alice", None],
        "sessions": [True],
        "export": "PK",
        "flushed": [0, "the last one"],
        "closed": "unauthenticated",
    }


async def begin(server: Running, alice: User, bob: User) -> tuple[str, str]:
    """A message of Alice's, which Bob has read and reacted to, and many of his."""
    chat = await server.direct(alice, bob)
    async with server.connect(alice) as a, server.connect(bob) as b:
        mine = (await a.invoke("SendMessage", {"conversationId": chat, "content": MINE}))["id"]
        await b.invoke("React", mine, OTHERS_REACTION)
        for number in range(COUNT):
            await b.invoke("SendMessage", {"conversationId": chat, "content": f"message {number}"})
    async with server.http(bob) as http:
        assert (await http.put(f"/api/messages/{mine}/status", json={"status": "Read"})).is_success
    return chat, mine


async def test_javascript(node: str, database: str, redis_url: str, tmp_path: Path) -> None:
    """Each does what its documentation says, in the JavaScript library."""
    library = str(JAVASCRIPT / "src" / "index.js")
    options = ["--experimental-websocket", "--no-warnings", "--input-type=module", "-e", JAVASCRIPT_ONE]
    async with running(database, redis_url, objects=f"file://{tmp_path}/files") as server:
        bob = await server.register("bob")
        for name, end in (("alice", "leave"), ("carol", "sign out")):
            alice = await server.register(name)
            chat, mine = await begin(server, alice, bob)
            command = [node, *options, library, server.url, alice.token, chat, mine, bob.id, end]
            with trio.fail_after(WAIT):
                done = await trio.run_process(command, capture_stdout=True)
            assert json.loads(done.stdout) == expected(alice, bob)


async def test_python(database: str, redis_url: str, tmp_path: Path) -> None:
    """Each does what its documentation says, in the Python library."""
    async with running(database, redis_url, objects=f"file://{tmp_path}/files") as server:
        bob = await server.register("bob")
        for name, leaves in (("alice", True), ("carol", False)):
            alice = await server.register(name)
            where, mine = await begin(server, alice, bob)
            with trio.fail_after(WAIT):
                async with parley_client.connect(server.url, token=alice.token) as chat:
                    assert await do_all(chat, where, mine, bob, leaves=leaves) == expected(alice, bob)


async def do_all(chat: Chat, where: str, mine: str, bob: User, *, leaves: bool) -> dict[str, Any]:
    events, conversation = chat.events(), chat.conversation(where)
    found: dict[str, Any] = {"message": (await chat.message(mine)).content, "loaded": None}
    user = await chat.find_user("BOB")
    found["users"] = [user is not None and user.id == bob.id, await chat.find_user("stranger")]
    page = await conversation.page(after=0, limit=3)
    further = await conversation.page(after=page.next, limit=1)
    found["page"] = [message.content for message in (*page.items[1:], *further.items)]
    loaded = len(conversation.messages)
    message = await conversation.load_to(mine)
    assert message is not None
    lost = await conversation.load_to("00000000-0000-0000-0000-000000000000")
    found["loadTo"] = [message.content, len(conversation.messages) > loaded, lost]
    await conversation.react(message, REACTION)
    reactors = await conversation.reactors(message)
    found["reactors"] = sorted([one.user_id, one.emoji] for one in reactors.items)
    found["own"] = [one.user_id for one in (await conversation.reactors(mine, emoji=REACTION)).items]
    found["receipts"] = [[one.user_id, one.status.value] for one in (await conversation.receipts(message)).items]
    await conversation.mute()
    found["muted"] = [conversation.is_muted]
    await conversation.unmute()
    found["muted"].append(conversation.is_muted)
    file = await chat.upload_bytes(b"what is in it", "a.txt")
    async with httpx.AsyncClient() as http:
        linked = (await http.get((await chat.link(file)).url)).text
    found["file"] = [(await chat.download(file)).decode(), linked]
    await chat.delete_file(file)
    try:
        await chat.link(file)
    except ParleyError as error:
        found["deleted"] = error.code
    await chat.update_me(display_name="Alice", status_text="away")
    found["me"] = [(await chat.update_me(status_text=None)).display_name, chat.me.status_text]
    found["sessions"] = [session.current for session in await chat.sessions()]
    found["export"] = (await chat.export())[:2].decode()
    last = conversation.send("the last one")
    await chat.flush()
    assert last.message is not None
    found["flushed"] = [len(conversation.outgoing), (await chat.message(last.message.id)).content]
    if leaves:
        await chat.delete_account()
    else:
        await chat.end_session((await chat.sessions())[0])
    try:
        async for _ in events:
            pass
    except ParleyError as error:
        found["closed"] = error.code
    return found


def public(module: str) -> Iterator[str]:
    """The methods of a class of the JavaScript library, in the Python way of writing."""
    source = (JAVASCRIPT / "src" / module).read_text()
    source = re.sub(r"/\*\*(?:(?!\*/).)*@internal(?:(?!\*/).)*\*/\n  [^\n]*", "", source, flags=re.DOTALL)
    for name in re.findall(r"^  (?:async )?([a-z]\w*)\([^\n]*\) \{$", source, re.MULTILINE):
        if name not in ("constructor", "catch", "if", "for", "while", "switch"):
            yield re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", name)


def test_the_names_are_the_same() -> None:
    """A method of one library is in the other, by the same name, or here is the reason."""
    python = {name for kind in (Chat, Conversation, Outgoing) for name in dir(kind) if not name.startswith("_")}
    modules = ("chat.js", "conversation.js", "message.js", "files.js")
    javascript = {name for module in modules for name in public(module)}
    assert javascript > {"send", "load_older", "search_messages", "react", "upload", "mute"}  # they were found
    missing = {name for name in javascript - python if RENAMED.get(name, name) not in {*python, None}}
    assert not missing
    actions = {name for name in vars(Actions) if not name.startswith("_")}
    methods = {
        name
        for kind in (Chat, Conversation, Outgoing)
        for name, one in vars(kind).items()
        if callable(one) and not name.startswith("_") and not (kind is Chat and name in actions)
    }
    assert not methods - javascript - set(RENAMED.values()) - ONLY_PYTHON


def test_the_readmes_name_them() -> None:
    """Each public method is in the README of its library."""
    javascript = (JAVASCRIPT / "README.md").read_text()
    for name in {name for module in ("chat.js", "conversation.js") for name in public(module)}:
        camel = re.sub(r"_(\w)", lambda match: match[1].upper(), name)
        assert re.search(rf"\b{camel}\b", javascript), camel
    python = (Path(parley_client.__file__).parents[1] / "README.md").read_text()
    actions = {name for name in vars(Actions) if not name.startswith("_")}
    for kind in (Chat, Conversation):
        for name, one in vars(kind).items():
            if callable(one) and not name.startswith("_") and not (kind is Chat and name in actions):
                assert re.search(rf"\b{name}\b", python), name
