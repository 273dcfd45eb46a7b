"""Blocks, reports and what moderators do, in the page in a real Chromium: who may do what, and what is said of it."""

import json
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg

from tests.running import User
from tests.waiting import wait_until
from tests.web.browser import Browser, Page
from tests.web.steps import Others, Site, choose, enter, join, shown, who

MORE = ".toolbar [aria-label='Report, block and more']"
BLOCKED = ".composer-wait:has-text('You have blocked')"
MUTED = ".composer-wait:has-text('You are muted in this conversation until')"
# Their standing in the service is answered only when the test says so.
WAITING = """
const ask = globalThis.fetch;
globalThis.fetch = async (...given) => {
  if (String(given[0]).endsWith("/standing")) await new Promise((go) => (globalThis.answer = () => (go(), true)));
  return ask(...given);
};
"""
ABOUT = "[aria-label='About this conversation']"


def entry(text: str) -> str:
    return f".menu [role=menuitem]:text-is({json.dumps(text)})"


async def menu_of(page: Page, text: str) -> list[str]:
    """The entries of the menu at a message; it is closed again."""
    await page.hover(shown(text))
    await page.click(MORE)
    await page.see(".menu")
    found = await page.texts(".menu [role=menuitem]")
    await page.press("Escape")
    await page.gone(".menu")
    return found


async def test_blocks_and_reports(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """By the keyboard a message is reported and its sender blocked; nothing can be written to them then, on any device
    of one's own, until they are unblocked there; they see somebody who takes no messages, and nothing of a block."""
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, tmp_path / "files")
        await site.start()
        others = Others(site.instances[0])
        bob = await others.add("bob", "Bob")
        page = await join(browser, site, "alice")
        alice = await who(page)
        chat = (await others.do(bob, "POST", "/api/conversations", {"type": "Direct", "memberIds": [alice.id]}))["id"]
        said = await others.say(bob, chat, "buy this")
        await page.click(".conversations a")
        await page.see(shown("buy this"))
        theirs = await enter(browser, site, bob, width=390, phone=True)
        await theirs.click(".conversations a")
        await theirs.see(shown("buy this"))
        await reports(others, page, alice, bob, said)
        await blocks(others, page, theirs, bob, chat)
        device = await enter(browser, site, User(alice.id, "device", alice.token), width=390, phone=True, dark=True)
        await unblocks(device, page)
        await theirs.click("text=Try again")
        await theirs.see(shown("hello?", " .mark:not(.failed)"))
        for one in (page, device, theirs):
            await one.check()


async def reports(others: Others, page: Page, alice: User, bob: User, said: str) -> None:
    await page.press("Alt+m")
    await page.press("m")
    await page.see(entry("Report this message"))
    assert await page.texts(".menu [role=menuitem]") == ["Report this message", "Block"]
    await page.check()
    await page.press("Enter")
    await page.see("dialog[open] #report-category")
    await page.see("dialog .quoted:text-is('buy this')")
    await page.check()
    await choose(page, "#report-category", "Harassment")
    await page.fill("#report-comment", "again and again")
    await page.shot("report")
    await page.click("dialog button[type=submit]")
    await page.gone("dialog")
    await page.see(".toast:has-text('The moderators of this service will look at it')")
    [report] = (await others.do(alice, "GET", "/api/users/me/reports"))["items"]
    assert (report["messageId"], report["userId"]) == (said, bob.id)
    assert (report["category"], report["comment"]) == ("Harassment", "again and again")


async def blocks(others: Others, page: Page, theirs: Page, bob: User, chat: str) -> None:
    await page.fill(".composer textarea", "a draft")
    await page.hover(shown("buy this"))
    await page.click(MORE)
    await page.click(entry("Block"))
    await page.see("dialog:has-text('They do not learn it')")
    await page.check()
    await page.shot("block")
    await page.click("dialog button:text-is('Block')")
    await page.gone("dialog")
    await page.see(BLOCKED)
    await page.gone(".composer textarea")
    await page.see(".standing:text-is('Blocked')")
    await page.check()
    await page.shot("blocked")
    await theirs.fill(".composer textarea", "hello?")
    await theirs.click(".composer .send")
    await theirs.see(".trouble:has-text('takes nothing from you at present')")
    await theirs.shot("blocked-by-another")
    assert "block" not in (await theirs.evaluate("document.querySelector('.main').innerText")).lower()
    await page.click(ABOUT)
    await page.see(".details button:text-is('Unblock')")
    await page.check()


async def unblocks(device: Page, page: Page) -> None:
    await device.click(".conversations a")
    await device.see(BLOCKED)
    await device.shot("blocked-phone")
    await device.click("[aria-label='All conversations']")
    await device.click(".self")
    await device.click(".menu button:text-is('Settings')")
    await device.click("dialog button:text-is('What you have reported')")
    await device.see("dialog .member:has-text('A message: Harassment')")
    await device.see("dialog .member:has-text('Waits for the moderators')")
    await device.press("Escape")
    await device.click("dialog button:text-is('Blocked people')")
    await device.see("dialog .member:has-text('Bob')")
    await device.check()
    await device.shot("blocked-people")
    assert await device.evaluate("document.documentElement.scrollWidth") == 390
    await device.click("dialog .member button")
    await device.see("dialog p:text-is('You have blocked no one.')")
    await page.see(".composer textarea")  # on the other device
    await page.gone(BLOCKED)
    assert await page.evaluate("document.querySelector('.composer textarea').value") == "a draft"
    await page.see(".details button:text-is('Block')")
    await page.click(".details button:text-is('Block')")
    await page.click("dialog button:text-is('Block')")
    await page.click(".composer-wait button:text-is('Unblock')")
    await page.gone(BLOCKED)
    await page.until("document.activeElement?.matches('.composer textarea')")
    await device.press("Escape")
    await device.press("Escape")
    await device.gone("dialog")


async def test_muted_and_kept_out(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """An admin mutes a member, who reads until when, also after a reload, and keeps what they were writing; and keeps
    them out, who reads that when they come back, until the admin lets them in. Plain members are offered neither."""
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, tmp_path / "files")
        await site.start()
        others = Others(site.instances[0])
        bob, carol = await others.add("bob", "Bob"), await others.add("carol", "Carol")
        page = await join(browser, site, "alice", dark=True)
        alice = await who(page)
        team = await others.group(alice, "Garden", bob.id, carol.id)
        await others.do(alice, "PUT", f"/api/conversations/{team}", {"isPublic": True})
        await others.say(carol, team, "a flower")
        theirs = await enter(browser, site, bob, width=390, phone=True, dark=True)
        await theirs.click(".conversations a")
        assert await menu_of(theirs, "a flower") == ["Report this message", "Block"]
        await theirs.fill(".composer textarea", "a draft")
        await page.click(".conversations a")
        await page.click(ABOUT)
        await mutes(page, theirs)
        await keeps_out(page, theirs)
        await page.check()
        await theirs.check()


async def mutes(page: Page, theirs: Page) -> None:
    await page.click("[aria-label='What to do with Bob']")
    await page.see(entry("Mute in this group"))
    await page.check()
    await page.click(entry("Mute in this group"))
    await page.see("dialog[open] #restrict-term")
    await page.check()
    await page.shot("mute-member")
    await page.fill("#restrict-reason", "noise")
    await page.click("dialog button:text-is('Mute')")
    await page.gone("dialog")
    await theirs.see(MUTED)
    await theirs.gone(".composer textarea")
    await theirs.see(".system-text:has-text('muted you until')")
    await theirs.check()
    await theirs.shot("muted-phone")
    await theirs.do("reload")
    await theirs.see(MUTED)
    await page.click("[aria-label='What to do with Bob']")
    await page.click(entry("Mute in this group"))
    await page.click("dialog button:text-is('End their mute')")
    await page.gone("dialog")
    await theirs.see(".composer textarea")
    await theirs.gone(MUTED)
    assert await theirs.evaluate("document.querySelector('.composer textarea').value") == "a draft"


async def keeps_out(page: Page, theirs: Page) -> None:
    await page.click("[aria-label='What to do with Bob']")
    await page.click(entry("Remove and keep out"))
    await page.see("dialog[open] #restrict-term")
    await choose(page, "#restrict-term", "86400")
    await page.click("dialog button:text-is('Remove and keep out')")
    await page.gone("dialog")
    await page.see(".system-text:has-text('who cannot come back before')")
    await theirs.see("text=No conversations yet.")
    await theirs.click("[aria-label='Find groups']")
    await theirs.click(".groups button:text-is('Join')")
    await theirs.see("dialog .problem:has-text('You were removed from this group, and cannot come back before')")
    await theirs.check()
    await theirs.shot("kept-out-phone")
    await page.click(".details button:text-is('Kept out')")
    await page.see("dialog .member:has-text('Bob')")
    await page.check()
    await page.shot("kept-out")
    await page.click("dialog button:text-is('Let in again')")
    await page.see("dialog p:text-is('No one is kept out.')")
    await page.press("Escape")
    await theirs.click(".groups button:text-is('Join')")
    await theirs.see("h1:has-text('Garden')")


async def test_moderators(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """A moderator of the service who is a plain member deletes others' messages, and bans: the banned user is signed
    out, and reads until when. No one else is offered that."""
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, tmp_path / "files")
        await site.start()
        others = Others(site.instances[0])
        mod, bob, carol = [await others.add(name, name.title()) for name in ("mod", "bob", "carol")]
        with psycopg.connect(database) as connection:
            connection.execute("UPDATE users SET role = 'Moderator' WHERE id = %s", (mod.id,))
        team = await others.group(carol, "Garden", bob.id, mod.id)
        await others.say(bob, team, "out of place")
        await others.say(carol, team, "a flower")
        theirs = await enter(browser, site, bob)
        await theirs.click(".conversations a")
        assert await menu_of(theirs, "a flower") == ["Report this message", "Block"]
        await theirs.gone(".toolbar [aria-label=Delete]")
        page = await enter(browser, site, mod, begin=WAITING)
        await page.click(".conversations a")
        await page.see(shown("out of place"))
        await page.hover(shown("out of place"))
        await page.see(MORE)
        await page.gone(".toolbar [aria-label=Delete]")  # it does not know yet that they may
        await page.until("globalThis.answer?.() ?? false")
        await page.click(".toolbar [aria-label=Delete]")
        await page.click("dialog button:text-is('Delete')")
        await theirs.see(".deleted")
        assert await menu_of(page, "a flower") == [
            *("Report this message", "Block", "Mute in this group", "Remove and keep out", "Ban from this service")
        ]
        await page.click(ABOUT)
        await page.click("[aria-label='What to do with Bob']")
        await page.click(entry("Ban from this service"))
        await page.check()
        await page.shot("ban")
        await page.click("dialog button:text-is('Ban')")
        await page.gone("dialog")
        await theirs.see(".sign-in .lead:has-text('This account is banned until')")
        await theirs.check()
        await theirs.shot("banned")
        await page.check()


async def test_reports_are_decided(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """A moderator, by the keyboard on a wide page and by touch on a phone in the dark, reads the reports that wait,
    does nothing about one, deletes the message of another, and bans; what another has decided meanwhile stays. No
    one else is offered the list."""
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, tmp_path / "files")
        await site.start()
        others = Others(site.instances[0])
        mod, bob, carol, dave = [await others.add(name, name.title()) for name in ("mod", "bob", "carol", "dave")]
        with psycopg.connect(database) as connection:
            connection.execute("UPDATE users SET role = 'Moderator' WHERE id IN (%s, %s)", (mod.id, dave.id))
        team = await others.group(carol, "Garden", bob.id)
        rude = await others.say(bob, team, "<b>rude</b> words")
        await others.do(carol, "POST", "/api/reports", {"category": "Spam", "userId": bob.id})
        report = {"category": "Hate", "messageId": rude, "comment": "look at <i>this</i>"}
        await others.do(carol, "POST", "/api/reports", report)
        theirs = await enter(browser, site, carol)
        await theirs.click(".self")
        assert "Reports" not in await theirs.texts(".menu button")
        page = await enter(browser, site, mod)
        await opens(page)
        assert len(await page.texts("dialog .report")) == 2
        await page.check()
        await page.shot("reports")
        await does_nothing(page)
        await deletes(page)
        state = await others.do(carol, "GET", "/api/users/me/reports")
        assert [one["state"] for one in state["items"]] == ["Resolved", "Resolved"]
        history = await others.do(carol, "GET", f"/api/messages?conversationId={team}")
        [deleted] = [one for one in history["items"] if one["id"] == rude]
        assert deleted["deletedAt"] is not None
        for reporter in (carol, dave):
            await others.do(reporter, "POST", "/api/reports", {"category": "Harassment", "userId": bob.id})
        device = await enter(browser, site, User(mod.id, "device", mod.token), width=390, phone=True, dark=True)
        await bans(others, device, mod, bob, dave)


async def opens(page: Page) -> None:
    """The menu of one's own account has it once the page knows one's role."""
    await page.see(".self")

    async def is_offered() -> bool:
        await page.click(".self")
        await page.see(".menu")
        found = await page.texts(".menu button")
        if "Reports" not in found:
            await page.press("Escape")
            await page.gone(".menu")
        return "Reports" in found

    await wait_until(is_offered)
    await page.check()
    await page.click(".menu button:text-is('Reports')")
    await page.see("dialog .report")


async def does_nothing(page: Page) -> None:
    await page.see("dialog .report:first-child:has-text('The person: Spam'):has-text('Bob'):has-text('Carol')")
    await page.press("Enter", "dialog .report:first-child button")
    await page.see("dialog[open] #decide-act")
    await page.until("document.activeElement.id === 'decide-act'")
    assert await page.texts("#decide-act option") == ["Nothing", "Ban from this service"]
    await page.gone("#decide-term")
    await page.press("Enter", "dialog button:text-is('Decide'):not([aria-label])")
    await page.gone("#decide-act")
    await page.see("dialog [role=status]:has-text('Decided.')")
    await page.gone("dialog .report:has-text('The person')")
    await page.until("document.activeElement.matches('dialog .report button')")  # of the next one


async def deletes(page: Page) -> None:
    await page.see("dialog .report .quoted:text-is('<b>rude</b> words')")
    await page.see("dialog .report p:text-is('look at <i>this</i>')")
    await page.press("Enter", "dialog .report button")
    await choose(page, "#decide-act", "DeleteMessage")
    await page.fill("#decide-note", "warned")
    await page.check()
    await page.shot("decide")
    await page.click("dialog button:text-is('Decide'):not([aria-label])")
    await page.gone("#decide-act")
    await page.see("dialog p:text-is('Decided. No report waits for a decision.')")
    await page.until("document.activeElement.closest('dialog') !== null")
    await page.check()


async def bans(others: Others, device: Page, mod: User, bob: User, dave: User) -> None:
    await opens(device)
    await device.click("dialog .report:has-text('Carol') button")
    await choose(device, "#decide-act", "BanUser")
    await device.see("#decide-term")
    await device.check()
    await device.shot("decide-phone")
    assert await device.evaluate("document.documentElement.scrollWidth") == 390
    await device.click("dialog button:text-is('Decide'):not([aria-label])")
    await device.gone("#decide-act")
    assert (await others.do(mod, "GET", f"/api/users/{bob.id}/standing"))["bannedUntil"] is not None
    [last] = (await others.do(mod, "GET", "/api/reports?state=open"))["items"]
    await others.do(dave, "PUT", f"/api/reports/{last['id']}/resolution", {"note": "mine"})
    await device.click("dialog .report button")
    await device.see("#decide-act")
    await device.click("dialog button:text-is('Decide'):not([aria-label])")
    await device.see("dialog p:text-is('Another moderator had decided on it already. No report waits for a decision.')")
    await device.check()
    await device.shot("reports-phone")
