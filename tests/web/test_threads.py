"""Threads in the page: two people on two instances reply under a message, and each sees what the other does."""

import json
from pathlib import Path

from tests.running import User
from tests.waiting import wait_until
from tests.web.browser import Browser, Page
from tests.web.steps import Others, Site, enter, say, shown, two_instances

PANEL = ".thread"
INPUT = f"{PANEL} .composer textarea"
ROOT = "Who comes along?"
LINE = f".main {shown(ROOT)} .thread-line"
MARKUP = "<img src=x onerror='globalThis.attacked=1'>"
MANY = 130  # replies: more than a page
TO_TOP = "document.querySelector('.thread .timeline').scrollTo(0, 0)"
CONTENTS = "[...document.querySelectorAll('.thread .content')].map(({ textContent }) => textContent)"
FOUND = "dialog .found-message"
FOCUS = "document.activeElement.className"


async def reply(page: Page, text: str) -> None:
    await page.fill(INPUT, text)
    await page.press("Enter", INPUT)
    await page.see(f"{PANEL} {shown(text)} .mark:not(.pending)")


async def in_main(page: Page) -> list[str]:
    return await page.texts(".main .message .content")


async def two_people(site: Site, browser: Browser) -> tuple[Others, User, User, str, Page, Page]:
    others = Others(site.instances[0])
    alice, bob = await others.add("alice", "Alice"), await others.add("bob", "Bob")
    chat = await others.group(alice, "Walkers", bob.id)
    pages = []
    for user in (alice, bob):
        page = await enter(browser, site, user)
        await page.click(".conversations a")
        pages.append(page)
    return others, alice, bob, chat, pages[0], pages[1]


async def test_replies(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """Replies stand in the panel and not in the conversation, but for those that are sent there, too; under the
    message is how many there are. What comes is shown at once and is read while it is seen; one follows and does not.
    Escape closes it, and the focus is back. Nothing in it becomes markup."""
    async with two_instances(database, redis_url, tmp_path / "files") as site:
        others, alice, _, chat, one, other = await two_people(site, browser)
        await say(one, ROOT)
        await other.hover(f".main {shown(ROOT)}")
        await other.click(".main [aria-label='Reply in thread']")
        await other.see(f"{PANEL} {shown(ROOT)}")
        await reply(other, MARKUP)
        await one.click(f"{LINE}:has-text('1 reply')")
        await one.see(f"{PANEL} {shown(MARKUP)}")
        await one.see(f"{PANEL} .follow[aria-pressed=true]")
        await reply(one, "and the second")
        await other.see(f"{PANEL} {shown('and the second')}")
        await other.see(f"{LINE}:has-text('2 replies')")
        await other.see(f"{PANEL} .standing:has-text('2 replies')")
        assert await in_main(one) == await in_main(other) == [ROOT]
        await other.click(f"{PANEL} .also")
        await reply(other, "for all of you")
        await one.see(f".main {shown('for all of you')}:has-text('Replied in a thread')")
        assert not await other.evaluate("document.querySelector('.thread .also input').checked")
        [state] = (await others.do(alice, "GET", "/api/threads"))["items"]
        await read_to_the_end(others, alice)
        assert state["root"]["content"] == ROOT
        await one.shot("thread")
        await one.check()

        await one.click(f"{PANEL} .follow")
        await one.see(f"{PANEL} .follow[aria-pressed=false]:text-is('Follow')")
        assert not (await others.do(alice, "GET", "/api/threads"))["items"]
        await one.click(f"{PANEL} .follow")
        await one.see(f"{PANEL} .follow[aria-pressed=true]")
        await one.press("Escape", INPUT)
        await one.gone(PANEL)
        await one.until(f"{FOCUS} === 'thread-line'")
        assert await one.evaluate("globalThis.attacked ?? null") is None

        await one.click(f"{LINE}:has-text('3 replies')")
        await one.see(f"{PANEL} {shown(MARKUP)}")
        for width, dark in ((1280, True), (1000, False), (390, False), (390, True)):
            await one.do("size", width=width, height=800)
            await one.do("media", dark=dark)
            await one.see(f"{PANEL} {shown(MARKUP)}")
            await one.shot(f"thread-{width}{'-dark' if dark else ''}")
            await one.check()
            assert await one.evaluate("document.documentElement.scrollWidth") == width
        await one.gone(".main .composer")  # the panel covers it
        await other.click(f"{PANEL} [aria-label='Close the thread']")
        await say(other, "not read yet")
        await one.see(f"{PANEL} {shown('for all of you')}")
        await one.click(f"{PANEL} [aria-label='Close the thread']")
        await one.see(f".main {shown('not read yet')}")
        items = (await others.do(alice, "GET", f"/api/messages?conversationId={chat}"))["items"]
        [root] = [each for each in items if each["content"] == ROOT]
        await other.click(LINE)
        await others.do(alice, "DELETE", f"/api/messages/{root['id']}")
        await other.see(f"{PANEL} .thread-end:has-text('no more replies')")
        await other.gone(INPUT)
        await other.check()


async def read_to_the_end(others: Others, user: User) -> None:
    async def is_read() -> bool:
        [state] = (await others.do(user, "GET", "/api/threads"))["items"]
        return bool(state["unreadCount"] == 0 and state["readSeq"] >= state["lastReplySeq"])

    await wait_until(is_read)


async def test_a_long_thread(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """All replies can be read, back to the message that began the thread, which is there when it is reached; where
    they cannot be loaded that is said, and it is tried again."""
    async with two_instances(database, redis_url, tmp_path / "files") as site:
        others, _, bob, chat, one, _ = await two_people(site, browser)
        root = await others.say(bob, chat, ROOT)
        async with site.instances[0].connect(bob) as hub:
            for number in range(MANY):
                reply = {"conversationId": chat, "content": f"reply {number}", "threadId": root}
                await hub.invoke("SendMessage", reply)
        await one.do("reload")
        await one.see(f"{LINE}:has-text('{MANY} replies')")
        await one.do("refuse", pattern="**/replies?*", **{"is": True})
        await one.click(LINE)
        again = f"{PANEL} .timeline-top:has-text('could not be loaded') button:has-text('Try again')"
        await one.until(f"({TO_TOP}, document.querySelector('.thread [data-state=failed] button'))")
        await one.click(again)
        await one.see(again)
        await one.do("refuse", pattern="**/replies?*", **{"is": False})
        await one.click(again)
        await one.until(f"({TO_TOP}, {CONTENTS}.includes({json.dumps(ROOT)}))")
        await one.see(f"{PANEL} {shown('reply 0')}")
        await one.check()


async def test_the_list_of_threads(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """Beside the conversations stands how many threads have something unread. The list has those that one follows,
    marks what is new as it comes, says where it cannot be read, and leads to each; what was seen there is not counted
    any more, and a thread that one does not follow is not counted."""
    async with two_instances(database, redis_url, tmp_path / "files") as site:
        others, alice, bob, chat, one, other = await two_people(site, browser)
        root = await others.say(alice, chat, ROOT)
        away = await others.group(alice, "Cyclists", bob.id)
        await one.click(f".conversations [data-id='{away}']")
        await one.click(".to-threads")
        await one.see("dialog [role=status]:text-is('You follow no threads yet.')")
        await one.press("Escape")
        await other.click(f".main {shown(ROOT)}")
        await other.press("t")
        await reply(other, MARKUP)
        await one.see("role=button[name='Threads 1 unread'] >> .badge:text-is('1')")
        await one.check()
        await one.do("refuse", pattern="**/api/threads?*", **{"is": True})
        await one.press("Alt+T")
        await one.see("dialog [role=status]:has-text('They could not be read')")
        await one.do("refuse", pattern="**/api/threads?*", **{"is": False})
        await one.click("dialog button:text-is('Try again')")
        await one.see(f"{FOUND}.unread:has-text({json.dumps(ROOT)}):has-text('1 new')")
        await reply(other, "and one more")
        await one.see(f"{FOUND}:has-text('2 new')")
        await one.check()
        for width, dark in ((1280, False), (390, False), (390, True), (1280, True)):
            await one.do("size", width=width, height=800)
            await one.do("media", dark=dark)
            await one.shot(f"threads-{width}{'-dark' if dark else ''}")
        await one.click(FOUND)
        await one.see(f"{PANEL} {shown('and one more')}")
        await one.see(f".main {shown(ROOT)}")
        await one.gone(".to-threads .badge")
        await read_to_the_end(others, alice)
        assert await one.evaluate("globalThis.attacked ?? null") is None
        await one.shot("threads-after")
        await one.check()

        await one.click(f"{PANEL} .follow")
        await one.see(f"{PANEL} .follow[aria-pressed=false]")
        await one.press("Escape", INPUT)
        await reply(other, "nothing for Alice")
        await one.see(f"{LINE}:has-text('3 replies')")
        assert (await others.do(alice, "GET", "/api/users/me/unread"))["unreadThreads"] == 0
        await others.do(alice, "PUT", f"/api/threads/{root}/following")
        await reply(other, "but this")
        await one.see("role=button[name='Threads 1 unread']")


async def test_where_a_thread_goes_on(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """A line stands above the first reply that one has not read. The address is that of the thread: it leads there
    again, going back leads out of it, and where it is of no thread here that is said."""
    async with two_instances(database, redis_url, tmp_path / "files") as site:
        others, alice, bob, chat, one, _ = await two_people(site, browser)
        root = await others.say(bob, chat, ROOT)
        await others.say(bob, chat, "read before", threadId=root)
        await others.do(alice, "PUT", f"/api/threads/{root}/following")
        await others.say(bob, chat, "new to Alice", threadId=root)
        await one.click(f"{LINE}:has-text('2 replies')")
        await one.see(f"{PANEL} .message:has(.unread-line):has-text('new to Alice')")
        await one.check()
        await read_to_the_end(others, alice)
        address = f"#/c/{chat}/t/{root}"
        assert await one.evaluate("location.hash") == address
        await one.do("reload")
        await one.see(f"{PANEL} {shown('new to Alice')}")
        await one.gone(f"{PANEL} .unread-line")
        await one.click(f"{PANEL} [aria-label='Close the thread']")
        await one.gone(PANEL)
        assert await one.evaluate("location.hash") == f"#/c/{chat}"
        await one.click(LINE)
        await one.see(PANEL)
        await one.evaluate("void history.back()")
        await one.gone(PANEL)
        other_place = await others.group(alice, "Cyclists", bob.id)
        for where, said in ((chat, "not there"), (other_place, "not in this conversation")):
            wrong = root if where == other_place else other_place
            await one.evaluate(f"void (location.hash = '#/c/{where}/t/{wrong}')")
            await one.see(f".toast:has-text('{said}')")
            await one.until(f"location.hash === '#/c/{where}'")
        await one.gone(PANEL)
        await one.check()


async def test_a_reply_that_was_found(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """Who searches and chooses a reply gets to it in its thread, on a phone as well."""
    async with two_instances(database, redis_url, tmp_path / "files") as site:
        others, alice, bob, chat, one, _ = await two_people(site, browser)
        root = await others.say(bob, chat, ROOT)
        await others.say(bob, chat, "the blue rucksack", threadId=root)
        await others.until_found(alice, "the blue rucksack", "rucksack")
        await one.see(f"{LINE}:has-text('1 reply')")
        await one.press("Alt+S")
        await one.fill("dialog input[type=search]", "rucksack")
        await one.click(f"{FOUND}:has-text('rucksack')")
        await one.until("document.activeElement.closest('.thread .message')?.textContent.includes('rucksack')")
        await one.check()
        await one.press("Escape")
        await one.press("Escape")
        await one.gone(PANEL)
        await one.do("size", width=390, height=800)
        await one.click("[aria-label='All conversations']")
        await one.see(".to-threads")
        await one.shot("threads-sidebar-390")
        await one.check()
