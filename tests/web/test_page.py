"""The page at `/` in a real Chromium: two people on two instances of one address, through all that may happen.

Pictures of what they saw are left in tests/web/shots by `make test-web`.
"""

import json
from pathlib import Path

from tests.web.browser import Browser, Page
from tests.web.steps import ARABIC, ATTACKS, Site, contents, join, picture, say, shown, talk, two_instances

CONTENTS = "[...document.querySelectorAll('.message .content')].map(({ textContent }) => textContent)"


async def test_two_people(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """They find each other, see what is unread, delivered and read, answer, edit, delete and send a picture; nothing
    that one writes becomes markup; both instances are killed one after the other while they write, and one is offline
    for a while: at the end both see all of it, in one order, each once, and as sent. The page is accessible as far as
    axe can say: light, dark and on a phone."""
    async with two_instances(database, redis_url, tmp_path / "files") as site:
        alice = await browser.open("alice", site.url)
        await alice.see("#username")
        await alice.shot("sign-in")
        await alice.check()
        await alice.fill("#username", "alice")
        await alice.click("button[type=submit]")
        await alice.see("text=No conversations yet.")
        bob = await join(browser, site, "bob")
        await talk(alice, bob)

        await say(alice, "hello, bob")
        await alice.see(shown("hello, bob", " .mark.delivered"))
        await bob.see(".conversations .unread .badge:text-is('1')")
        await bob.until("document.title.startsWith('(1)')")
        await alice.press("Alt+m")
        await alice.press("+")
        await alice.see(".menu")
        await bob.do("front")
        await bob.click(".conversations a")
        await bob.see(shown("hello, bob"))
        await alice.see(shown("hello, bob", " .mark.read"))
        await alice.press("Escape")  # the buttons of the message, which has changed, are others
        await alice.until("document.activeElement.matches('.toolbar [aria-label=React]')")
        await alice.press("e")
        await alice.see(".composer.editing")
        await alice.press("Escape")
        await bob.gone(".conversations .badge")

        await reply_edit_delete(alice, bob)
        await hide_receipts(alice, bob)
        await react(alice, bob)
        await send_picture(alice, bob, picture(tmp_path / "sky.png"))
        await nothing_becomes_markup(alice, bob)
        await alice.shot("light")
        await alice.check()
        await bob.check()

        said = await survive_kills(site, alice, bob)
        said += await offline_and_back(alice, bob)
        for page in (alice, bob):
            await page.until("document.querySelectorAll('.message .mark:is(.pending, .failed)').length === 0")
            end = "document.querySelector('.timeline').scrollTo(0, 1e9)"
            await page.until(f"({end}, {json.dumps(said)}.every((text) => {CONTENTS}.includes(text)))")
        both = [[text for text in await contents(page) if text in said] for page in (alice, bob)]
        assert both[0] == both[1] and sorted(both[0]) == sorted(said)

        await alice.do("media", dark=True)
        await alice.shot("dark")
        await alice.check()
        await bob.do("size", width=390, height=780)
        await bob.shot("phone")
        await bob.check()
        await bob.click("[aria-label='All conversations']")
        await bob.see(".conversations a")
        await bob.shot("phone-list")
        await bob.check()
        assert await bob.evaluate("document.documentElement.scrollWidth") == 390


async def hide_receipts(alice: Page, bob: Page) -> None:
    await alice.click(".self")
    await alice.click("text=Settings")
    await alice.click("[data-field=readReceipts]")
    await alice.see("[data-field=readReceipts][aria-checked=false]")
    await alice.check()
    await say(bob, "read in secret")
    await alice.press("Escape")
    await alice.see(shown("read in secret"))
    await bob.see(shown("read in secret", " .mark.delivered"))
    await alice.click(".self")
    await alice.click("text=Settings")
    await alice.see("[data-field=readReceipts][aria-checked=false]")
    await alice.click("[data-field=readReceipts]")
    await alice.see("[data-field=readReceipts][aria-checked=true]")
    await alice.press("Escape")
    await say(bob, "and in the open")
    await bob.see(shown("and in the open", " .mark.read"))


async def reply_edit_delete(alice: Page, bob: Page) -> None:
    await bob.hover(shown("hello, bob"))
    await bob.click(".toolbar [aria-label=Reply]")
    await say(bob, "hello, alice")
    await alice.see(shown("hello, alice", ":has(.quote-text:text-is('hello, bob'))"))

    await say(alice, "I am lat")
    await alice.see(shown("I am lat", " .mark:not(.pending)"))
    await alice.press("ArrowUp", ".composer textarea")
    await say(alice, "I am late")
    await bob.see(".message:has-text('I am late'):has(.edited)")

    await say(bob, "wrong window")
    await alice.see(shown("wrong window"))
    await bob.hover(shown("wrong window"))
    await bob.click(".toolbar [aria-label=Delete]")
    await bob.click("dialog button.danger")
    await alice.see(".message .deleted")
    assert "wrong window" not in await contents(alice)


async def react(alice: Page, bob: Page) -> None:
    """Put there from the toolbar, seen by the other, who presses it too, and takes it back; who they are is listed."""
    await bob.hover(shown("hello, alice"))
    await bob.click(".toolbar [aria-label=React]")
    await bob.click(".menu button:has-text('👍')")
    await bob.see(shown("hello, alice", " .reaction[aria-pressed=true]:has-text('👍 1')"))
    await alice.click(shown("hello, alice", " .reaction[aria-pressed=false]:has-text('👍 1')"))
    await bob.see(shown("hello, alice", " .reaction:has-text('👍 2')"))
    await bob.hover(shown("hello, alice"))
    await bob.click(".toolbar [aria-label='Who has reacted']")
    await bob.see("dialog section:has(h3:text-is('👍')) .member:has-text('alice')")
    assert len(await bob.texts("dialog .member")) == 2
    await bob.shot("reactors")
    await bob.check()
    await bob.press("Escape")
    await alice.click(shown("hello, alice", " .reaction[aria-pressed=true]:has-text('👍 2')"))
    await bob.see(shown("hello, alice", " .reaction:has-text('👍 1')"))


async def send_picture(alice: Page, bob: Page, path: Path) -> None:
    await bob.do("pictures", come=False)
    await alice.do("files", selector=".composer input[type=file]", paths=[str(path)])
    await alice.see(".tray-item:has-text('sky.png')")
    await say(alice, "the sky, just now")
    await alice.see(shown("the sky, just now", " .picture img"))
    await alice.until("document.querySelector('.picture img')?.naturalWidth === 320")
    await alice.press("ArrowUp", ".composer textarea")
    await say(alice, "the sky, just then")
    edited = ".message:has(.edited):has-text('the sky, just then')"
    await alice.see(f"{edited} .picture img")
    await bob.see(f"{edited} .picture.broken")  # until there is another connection
    await bob.do("pictures", come=True)


async def nothing_becomes_markup(alice: Page, bob: Page) -> None:
    for attack in ATTACKS:
        await say(alice, attack)
    await bob.until(f"{CONTENTS}.includes({json.dumps(ATTACKS[-1])})")
    await say(bob, ARABIC)
    await alice.see(shown("https://example.com/a?b=1", " a"))
    for page in (alice, bob):
        assert await page.evaluate("globalThis.attacked ?? null") is None
        made = "document.querySelectorAll('.messages :is(script, iframe, [onload], [onerror], [onmouseover])').length"
        assert await page.evaluate(made) == 0
        links = await page.evaluate("[...document.querySelectorAll('.messages a')].map(({ href }) => href)")
        assert all(link.startswith(("https://a.example/", "https://example.com/")) for link in links), links
        assert ATTACKS[0] in await contents(page)
    direction = "getComputedStyle(document.querySelector('.message:has(a[href*=\"b=1\"]) .content')).direction"
    assert await alice.evaluate(direction) == "rtl"


async def survive_kills(site: Site, alice: Page, bob: Page) -> list[str]:
    """One instance is killed and followed by another, then all of them are, while both write."""
    said = []
    for number, what in enumerate(("one instance is", "all instances are")):
        for _ in range(number + 1):
            await site.kill_oldest()
        for page in (alice, bob):
            for part in range(3):
                said.append(f"{page.name} writes {part + 1} of 3 while {what} dead")
                await say(page, said[-1])
        if number == 1:
            for page in (alice, bob):
                await page.see(".connection:has-text('3 messages wait to be sent')")
                await page.gone(".dot.online")
                await page.shot(f"kill-{page.name}")
        for _ in range(number + 1):
            await site.start()
        for page in (alice, bob):
            await page.until(f"{json.dumps(said)}.every((text) => document.body.innerText.includes(text))")
            await page.gone(".message .mark.pending")  # it knows that its own are sent
    await bob.until("document.querySelector('.picture img')?.naturalWidth === 320")  # there was another connection
    return said


async def offline_and_back(alice: Page, bob: Page) -> list[str]:
    await bob.do("offline", **{"is": True})
    await bob.see(".connection:has-text('You are offline')")
    said = ["bob, on a train", "alice, meanwhile"]
    await say(bob, said[0])
    await say(alice, said[1])
    await bob.see(shown(said[0], " .mark.pending"))
    await bob.see(".connection:has-text('1 message waits to be sent')")
    await bob.shot("offline")
    await bob.do("offline", **{"is": False})
    await bob.see(shown(said[1]))
    await alice.see(shown(said[0]))
    await bob.see(shown(said[0], " .mark:not(.pending)"))
    await bob.gone(".sidebar .connection")
    return said


async def test_a_dialog_that_is_loaded(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """It opens once, however often it is asked for meanwhile; and not over another that was opened meanwhile."""
    async with two_instances(database, redis_url, tmp_path / "files") as site:
        alice = await join(browser, site, "alice")
        press = "dispatchEvent(new KeyboardEvent('keydown', { key: '?', bubbles: true }))"
        await alice.evaluate(f"void [document.body.{press}, document.body.{press}]")
        await alice.see("dialog .shortcuts")
        assert await alice.evaluate("document.querySelectorAll('dialog').length") == 1
        await alice.press("Escape")
        await alice.gone("dialog")
        search = "dispatchEvent(new KeyboardEvent('keydown', { code: 'KeyS', altKey: true, bubbles: true }))"
        await alice.evaluate(f"void [document.body.{press}, document.body.{search}]")
        await alice.see("dialog input[type=search]")
        assert await alice.evaluate("document.querySelectorAll('dialog').length") == 1
