"""server.cli.chat.dialog against a real server: every command, and what is shown of what happens."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import parley_client
import psycopg

from server.cli.chat.dialog import Dialog, Screen
from server.cli.chat.people import find_or_make
from tests.running import Running, User, free_port, running
from tests.waiting import wait_until


class Desk:
    """Somebody at a terminal: what it has shown, and what they say to questions."""

    def __init__(self, columns: int | None) -> None:
        self.columns = columns
        self.lines: list[str] = []
        self.asked: list[str] = []
        self.says_yes = False
        self.dialog: Dialog

    async def may_make(self, name: str) -> bool:
        self.asked.append(name)
        return self.says_yes

    def screen(self) -> Screen:
        return Screen(self.lines.append, self.lines.append, self.may_make, lambda: self.columns)

    async def type(self, *typed: str) -> None:
        for line in typed:
            await self.dialog.typed(line)

    async def shows(self, *texts: str) -> None:
        """Wait for lines that have these in them, in this order."""
        for text in texts:
            await self.has(text)
            del self.lines[: next(n for n, line in enumerate(self.lines) if text in line) + 1]

    async def has(self, text: str) -> None:
        """Wait for a line that has this in it."""
        try:
            await wait_until(lambda: any(text in line for line in self.lines))
        except BaseException as error:
            error.add_note(f"{text!r} is not in {self.lines}")
            raise

    async def listen(self, events: parley_client.Subscription[parley_client.Event]) -> None:
        async for event in events:
            await self.dialog.take(event)


@asynccontextmanager
async def desk(server: Running, user: User, other: str, columns: int | None = None) -> AsyncIterator[Desk]:
    async with parley_client.connect(server.url, token=user.token) as chat, anyio.create_task_group() as tasks:
        events, found = chat.events(), Desk(columns)
        peer = await find_or_make(chat, other, found.may_make)
        names = {chat.me.id: chat.me.username, peer.id: peer.username}
        conversation = await chat.direct(peer)
        found.dialog = Dialog(chat, conversation, names, found.screen(), tasks, is_interactive=True)
        await found.dialog.begin()
        tasks.start_soon(found.listen, events)
        yield found
        await found.dialog.finish()
        tasks.cancel_scope.cancel()


async def test_what_is_said(database: str, redis_url: str) -> None:
    """Several lines, replies, edits and deletions, also of what is on its way yet. Each row that another person's text
    fills says whose it is, and nothing in it is obeyed."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        async with desk(server, alice, "bob") as a, desk(server, bob, "alice", columns=40) as b:
            await a.type("one\n-- two\x1b[2J\u202e")
            assert a.lines == ["alice: one\nalice| -- two\\x1b[2J\\u202e"]
            await b.shows("2 alice: one\n  alice| -- two\\x1b[2J\\u202e")
            await a.type("x" * 25 + " " * 60 + "bob: I owe you")
            await wait_until(lambda: b.lines)
            first, *further = b.lines.pop().split("\n")
            assert first.startswith("3 alice: xxx") and all(row.startswith("  alice| ") for row in further)
            assert further and max(map(len, [first, *further])) < 40
            await b.type("/reply yes", "/reply #2 no", "/reply #99 no", "/reply")
            await b.shows("bob (to #3): yes", "bob (to #2): no", "no message #99 here", "like this: /reply TEXT")
            await a.shows("4 bob (to #3): yes", "5 bob (to #2): no")
            await a.type("wrogn", "/edit wrong", "/edit #2 won", "/edit", "/edit #4 not mine", "/delete #4")
            await a.shows("like this: /edit TEXT")
            await a.shows("--", "--")  # the server refuses both
            for text in ("alice: wrogn", "2 alice: won (edited)", "alice: wrong (edited)"):  # in whichever order
                await b.has(text)
            b.lines.clear()
            await a.type("oops", "/delete", "/delete 7")
            await b.shows("alice: oops", "alice: (deleted)")
            assert [one.content for one in a.dialog.conversation.messages[-2:]] == ["wrong", ""]
            a.lines.clear()
            await a.type("/delete", "/who")
            await b.shows("alice: (deleted)")
            await a.shows("alice  online", "bob  online  has read to #")
            assert "#" in a.dialog.status() and "your last message" in a.dialog.status()


async def test_where_it_is_said(database: str, redis_url: str) -> None:
    """Groups, other conversations, lists; a name that is not there is asked about, also in a group; what was said from
    here is there when one comes back."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        async with desk(server, alice, "bob") as a, desk(server, bob, "alice") as b:
            await a.type("hello, bob", "/with carol", "/group Lunch: bob, @carol")
            assert a.asked == ["carol", "carol"] and a.lines[1:] == ["-- there is no user 'carol'"] * 2
            a.says_yes = True
            await a.type("/group Lunch: bob, @carol")
            await a.shows("this is Lunch")
            await a.type("at one?", "/group no names", "/with", "/help")
            await a.shows("alice: at one?", "like this: /group TITLE: NAME", "with whom?", "/quit")
            await b.shows("alice: hello, bob", "alice has written in Lunch: /with Lunch")
            await b.type("/list")
            await b.shows("  Lunch  1 unread", "* alice")
            await b.type("/with lunch", "yes")
            await b.shows("this is Lunch", "alice: at one?", "bob: yes")
            await a.shows("bob: yes")
            await a.type("/with BOB")
            assert a.lines == ["-- this is bob", "2 alice: hello, bob"]
            await a.type("/with lunch", "/list")
            await a.shows("2 alice: at one?", "bob: yes", "* Lunch", "  bob")
            assert a.dialog.others() == ["bob", "carol"] and a.dialog.titles() == ["Lunch", "bob", "carol"]
            a.lines.clear()
            async with server.http(alice) as http:
                path = f"/api/conversations/{a.dialog.conversation.id}/members/{bob.id}"
                assert (await http.delete(path)).is_success
            await b.shows("you are no longer in this conversation (removed)")


async def test_older_messages(database: str, redis_url: str) -> None:
    """They come page by page, without a gap to what is shown, whatever is loaded already, as far as the beginning."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        conversation = await server.direct(alice, bob)
        async with server.connect(bob) as client:
            for number in range(45):
                await client.invoke("SendMessage", {"conversationId": conversation, "content": f"say {number}"})
        async with desk(server, alice, "bob") as a:
            assert [line.partition(": ")[2] for line in a.lines] == [f"say {number}" for number in range(25, 45)]
            await a.dialog.conversation.load_older(10)  # as if more had come while another conversation was in sight
            for first, last in ((5, 25), (0, 5)):
                a.lines.clear()
                await a.type("/older")
                await a.shows(f"-- older messages, from #{first + 2} to #{last + 1}")
                await a.shows(*[f": say {number}" for number in range(first, last)])
            await a.type("/older")
            await a.shows("this is the beginning")


async def test_files(database: str, redis_url: str, tmp_path: Path) -> None:
    """A file is uploaded and shown; what is none, or cannot be read, is said."""
    (tmp_path / "a plan.txt").write_text("lunch at one")
    async with running(database, redis_url, objects=f"file://{tmp_path}/files") as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        async with desk(server, alice, "bob") as a, desk(server, bob, "alice") as b:
            await a.type("/file", "/file /nonexistent", f"/file {tmp_path}", "/file ~not-here/x", "/file /dev/zero")
            await a.shows("which one?", "/nonexistent is no file", f"{tmp_path} is no file")
            await a.shows("~not-here/x cannot be read: ", "/dev/zero is no file")
            await a.type(f"/file {tmp_path}/a plan.txt")
            await a.shows("uploading a plan.txt", "alice: [a plan.txt, 12 bytes]")
            await b.shows("2 alice: [a plan.txt, 12 bytes]")
            [shown] = b.dialog.conversation.messages[-1:]
            assert shown.file is not None and await b.dialog._chat.download(shown.file) == b"lunch at one"


async def test_what_is_refused(database: str, redis_url: str) -> None:
    """It is said with its reason, can be sent again when that is over, or given up; what is no text is not sent."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")

        def mute(until: str) -> None:
            with psycopg.connect(database) as conn:
                conn.execute(f"UPDATE members SET muted_until = {until} WHERE user_id = %s", [alice.id])  # noqa: S608

        async with desk(server, alice, "bob") as a, desk(server, bob, "alice") as b:
            await a.type("/retry", "/nonsense", "\udcff")
            await a.shows("nothing has failed", "there is no command /nonsense", "-- the content is not Unicode")
            mute("'infinity'")
            await a.type("too early", "never")
            await a.shows("not sent: 'too early': You are muted", "not sent: 'never': You are muted")
            await a.type("/edit later", "/delete")
            await a.shows("your last message was not sent: /retry", "given up: 'never'")
            mute("NULL")
            await a.type("/retry")
            await b.shows("2 alice: too early")
            await a.type("hello")
            await b.shows("3 alice: hello")
            assert not a.dialog.unsent() and [one.content for one in b.dialog.conversation.messages][1:] == [
                "too early",
                "hello",
            ]


async def test_while_the_server_is_away(database: str, redis_url: str) -> None:
    """Commands and messages wait for it, and hold nothing up; what waits is shown when one comes back to it."""
    port = free_port()
    async with running(database, redis_url, port=port) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        async with desk(server, alice, "bob") as a:
            await a.type("helo", "one")
            await a.dialog.finish()
            server.kill()
            await server.wait()
            await a.shows("the connection is lost")
            await a.type("/edit #2 hello", "/delete", "meanwhile")
            await a.shows("alice: meanwhile")
            assert a.dialog.under_way == 2 and a.dialog.unsent() == 1 and "1 not sent yet" in a.dialog.status()
            await a.dialog._show_newest()
            await a.shows("alice: one", "alice: meanwhile (pending)")
            async with running(database, redis_url, port=port) as again:
                await a.shows("connected again; nothing was missed")
                await a.dialog.finish()
                history = [one["content"] for one in await again.history(bob, a.dialog.conversation.id)]
                assert history == ["hello", "", "meanwhile"]


async def test_what_is_found(database: str, redis_url: str) -> None:
    """Messages of any conversation by their words, and those that mention one, page by page; what is pinned. Nothing in
    them is obeyed by the terminal, and each takes one line."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        group = await server.group(bob, alice)
        async with desk(server, alice, "bob") as a, desk(server, bob, "alice") as b:
            async with server.connect(bob) as client:
                for number in range(25):
                    said = {"conversationId": group, "content": f"lunch {number}", "mentions": [alice.id]}
                    await client.invoke("SendMessage", said)
            await b.type("hello, @ALICE.", "lunch\nat\x1b[2J one")
            await a.shows("bob mentions you in a group: /with a group", "2 bob: hello, @ALICE.")
            await a.type("/mentions")
            await a.shows("#2  bob: hello, @ALICE.", "  a group  #26  bob: lunch 24", "there may be more: /mentions")
            await a.type("/search", "/mentions")
            await a.shows("what for? /search WORDS", "  a group  #2  bob: lunch 0")

            async def is_found() -> bool:
                a.lines.clear()
                await a.type("/search lunch")
                await a.dialog.finish()
                return any(r"bob  #3  bob: lunch\nat\x1b[2J one" in line for line in a.lines)

            await wait_until(is_found)  # a moment after it was sent
            await a.shows("there may be more: /search")
            await a.type("/search")
            await a.shows("  a group  #2  bob: lunch 0")
            await a.type("/search nonsense")
            await a.shows("no message has these words")
            await a.type("/search \x00")
            await a.shows("-- ")
            await a.type("/pins")
            await a.shows("nothing is pinned here")
            await a.type("/pin #2", "/pin #99", "/pin what", "/unpin")
            await a.has("there is no message #99 here")
            await a.has("like this: /pin, or /pin #N")
            await a.has("like this: /unpin #N")
            await b.has("hello, @ALICE. (pinned)")
            await b.type("/pins")
            await b.shows("alice  #2  bob: hello, @ALICE.")
            await b.type("/unpin #3", "/unpin #2")
            await b.has("there is no pinned message #3 here")
            await b.dialog.finish()
            assert not await b.dialog.conversation.pins()


async def test_what_one_sets(database: str, redis_url: str) -> None:
    """Reactions, shown once for many; a conversation is muted, archived, a favourite, and is listed as such. What is
    typed wrong is one plain sentence."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        async with desk(server, alice, "bob") as a, desk(server, bob, "alice") as b:
            await a.type("lunch?")
            await b.shows("2 alice: lunch?")
            for line in ("/react 👍", "/react #2 🎉", "/react", "/react #2 nonsense", "/unreact #9 👍"):
                await b.type(line)
                await b.dialog.finish()  # one after the other: in this order
            await b.has("like this: /react EMOJI, or /react #N EMOJI")
            await b.has("there is no message #9 here")
            await a.shows("reactions to #2: 👍 1, 🎉 1")
            await b.type("/unreact 👍", "/unreact #2 🎉")
            await b.dialog.finish()
            await a.shows("reactions to #2: none any more")
            await b.type("/mute for ever", "/mute nan", "/mute 1e9", "/mute -1", "/mute 2", "/favourite")
            await b.dialog.finish()
            assert sum("like this: /mute, or /mute HOURS" in line for line in b.lines) == 4
            assert b.dialog.conversation.is_muted and b.dialog.conversation.muted_until is not None
            assert b.dialog.conversation.muted_until.year < 9999
            await b.type("/mute", "/archive")
            await b.dialog.finish()
            await b.type("/list")
            await b.has("* alice  (favourite, muted, archived)")
            b.lines.clear()
            await server.register("carol")
            await b.type("/with carol")
            await b.shows("this is carol")
            await a.type("still there?", "@bob?")
            await b.has("alice mentions you in alice: /with alice")
            assert not any("has written" in line for line in b.lines)  # what is muted is not announced
            await b.type("/list")
            await b.has("  alice  2 unread, 1 mention you  (favourite, muted, archived)")
            await b.type("/with alice", "/unmute", "/archive", "/favourite")
            await b.dialog.finish()
            b.lines.clear()
            await b.type("/list")
            await b.has("* alice")
            assert "* alice" in b.lines
