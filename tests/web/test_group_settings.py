"""What groups can do, in the page in a real Chromium: what admins set, links, public groups, and who may write when."""

import json
from contextlib import AsyncExitStack
from pathlib import Path

from tests.running import User
from tests.web.browser import Browser, Page
from tests.web.steps import Others, Site, choose, join, say, shown, who

MARKUP = '<img src=x onerror="globalThis.attacked=11">'
PICTURE = "https://pictures.example/roses.png"
EDIT = ".details button:text-is('Edit')"
LINKS = ".details button:text-is('Join links')"
TEXT = "document.querySelector('.composer textarea').value"
WAITS = ".composer-wait:has-text('Slow mode: you can send again in')"
SAVE = "dialog button:text-is('Save')"


async def test_what_admins_set(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """An owner edits all of a group in the page, and an admin all but whether it is public; only what one has changed
    is sent, what is wrong is said in a sentence, and markup stays text. A link is shown once, is copied, listed with
    its uses, and good for no one when it was revoked."""
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, tmp_path / "files")
        await site.start()
        others = Others(site.instances[0])
        bob = await others.add("bob", MARKUP)
        page = await join(browser, site, "alice", permissions=["clipboard-read", "clipboard-write"])
        alice = await who(page)
        team = await others.group(alice, "Garden", bob.id)
        await page.click(".conversations a")
        await page.click("[aria-label='About this conversation']")
        await edits(others, page, alice, bob, team)
        await links(others, page, bob, team)


async def edits(others: Others, page: Page, alice: User, bob: User, team: str) -> None:
    path = f"/api/conversations/{team}"
    await page.click(EDIT)
    await page.see("dialog[open] #group-title")
    await page.check()
    await page.shot("group-edit")
    await others.do(alice, "PUT", path, {"description": "of another admin"})  # meanwhile
    await page.fill("#group-title", MARKUP)
    await page.fill("#group-picture", "http://pictures.example")
    await page.click(SAVE)
    await page.see("dialog .problem:has-text('https')")
    await page.fill("#group-picture", PICTURE)
    await choose(page, "#group-posting", "Admins")
    await choose(page, "#group-slow", "300")
    await page.click("dialog label:has-text('Public')")
    await page.click(SAVE)
    await page.gone("dialog")
    await page.until("document.activeElement?.dataset.focus === 'edit'")
    await page.see(f".profile h3:has-text('{MARKUP[:10]}')")
    await page.see(".profile .description:text-is('of another admin')")
    await page.see(".profile p:text-is('Only admins send messages here')")
    await page.see(".profile p:text-is('Slow mode: 5 minutes between two messages')")
    await page.see(".profile p:has-text('Public')")
    await page.see(f".profile a[href='{PICTURE}'][rel~=noreferrer]")
    found = await others.do(bob, "GET", path)
    names = ("name", "description", "avatarUrl", "posting", "slowModeSeconds", "isPublic")
    assert [found[name] for name in names] == [MARKUP, "of another admin", PICTURE, "Admins", 300, True]
    await page.check()

    await others.do(alice, "PUT", f"{path}/members/{bob.id}/role", {"role": "Owner"})
    await others.do(bob, "PUT", f"{path}/members/{alice.id}/role", {"role": "Admin"})
    await page.see(".member:has-text('You') .role:text-is('Admin')")
    await page.click(EDIT)
    await page.see("dialog label:has-text('only owners change that') input:disabled")
    await page.fill("#group-title", "")
    await page.click(SAVE)
    await page.see("dialog .problem:has-text('write a name')")
    await page.fill("#group-title", "Roses")
    await page.fill("#group-description", "")
    await page.fill("#group-picture", "")
    await choose(page, "#group-posting", "Everyone")
    await choose(page, "#group-slow", "0")
    await page.click(SAVE)
    await page.see(".profile h3:has-text('Roses')")
    await page.gone(".profile .description")
    found = await others.do(bob, "GET", path)
    assert [found.get(name) for name in names] == ["Roses", None, None, "Everyone", 0, True]
    await page.gone("dialog")


async def links(others: Others, page: Page, bob: User, team: str) -> None:
    await page.click(LINKS)
    await page.see("dialog p:text-is('There is no link.')")
    await page.check()
    await choose(page, "#link-lasts", "3600")
    await choose(page, "#link-uses", "10")
    await page.click("dialog button:text-is('Make a link')")
    await page.see("#link-address")
    await page.see("dialog .member:has-text('Made by alice')")
    await page.see("dialog .member:has-text('Used 0 of 10 times')")
    await page.check()
    await page.shot("group-links")
    address = await page.evaluate("document.querySelector('#link-address').value")
    await page.click("dialog button:text-is('Copy')")
    await page.see("dialog [role=status]:text-is('Copied.')")
    assert await page.evaluate("navigator.clipboard.readText()") == address
    start, token = address.split("#join=")
    assert start == await page.evaluate("`${location.origin}/`")
    carol = await others.add("carol", "Carol")
    assert (await others.do(carol, "POST", "/api/join", {"token": token}))["id"] == team
    await others.do(bob, "POST", f"/api/conversations/{team}/links", {})
    await page.press("Escape")
    await page.gone("dialog")
    await page.until("document.activeElement?.dataset.focus === 'links'")

    await page.click(LINKS)
    await page.see("dialog .member:has-text('Used 1 of 10 times')")
    await page.see(f"dialog .member:has-text('{MARKUP[:10]}')")
    assert await page.evaluate("document.body.innerHTML.includes('#join=')") is False  # it was shown once
    for count in (1, 0):
        await page.click("dialog .member button:text-is('Revoke')")
        await page.see("dialog .danger")
        await page.click("dialog .danger")
        await page.until(f"document.querySelectorAll('dialog .member').length === {count}")
    await page.see("dialog p:text-is('There is no link.')")
    assert (await others.do(bob, "GET", f"/api/conversations/{team}/links"))["items"] == []
    await page.until("document.activeElement?.textContent === 'Make a link'")
    await page.press("Escape")
    assert await page.evaluate("globalThis.attacked ?? null") is None
    await page.check()


async def test_who_may_write_when(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """In an announcement group the page says why a member cannot write, keeps the draft, and lets them edit what is
    theirs. In slow mode it counts down; what is written meanwhile stays, and what the server refuses comes back."""
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, tmp_path / "files")
        await site.start()
        others = Others(site.instances[0])
        bob = await others.add("bob", "Bob")
        page = await join(browser, site, "alice", dark=True)
        alice = await who(page)
        team = await others.group(bob, "Garden", alice.id)
        path = f"/api/conversations/{team}"
        await page.click(".conversations a")
        await say(page, "mine")
        await page.see(shown("mine", " .mark:not(.pending)"))
        await announces(others, page, bob, path)
        await waits(others, page, alice, bob, team)
        await page.check()


async def announces(others: Others, page: Page, bob: User, path: str) -> None:
    await page.fill(".composer textarea", "a draft")
    await others.do(bob, "PUT", path, {"posting": "Admins"})
    await page.see(".composer-wait:text-is('Only admins and owners send messages in this group.')")
    await page.gone(".composer textarea")
    await page.until("document.activeElement?.closest('.message')")  # the keyboard is not lost
    await page.shot("announcements")
    await page.check()
    await page.hover(shown("mine"))
    await page.click(".toolbar [aria-label=Edit]")
    await page.fill(".composer textarea", "mine, as it is")
    await page.press("Enter", ".composer textarea")
    await page.see(".message .content:has-text('mine, as it is')")
    await page.gone(".composer textarea")
    await others.do(bob, "PUT", path, {"posting": "Everyone"})
    await page.see(".composer textarea")
    await page.gone(".composer-wait")
    assert await page.evaluate(TEXT) == "a draft"


async def waits(others: Others, page: Page, alice: User, bob: User, team: str) -> None:
    path = f"/api/conversations/{team}"
    await page.fill(".composer textarea", "")
    await others.do(bob, "PUT", path, {"slowModeSeconds": 21_600})
    await page.see(".system-text:has-text('changed the details') >> nth=2")
    await say(page, "the first")
    await page.see(WAITS)
    await page.see(shown("the first", " .mark:not(.pending)"))
    await page.do("reload")  # it knows of the wait by what is there
    await page.see(shown("the first"))
    await say(page, "too early")
    await page.see(WAITS)
    await page.until(f"{TEXT} === 'too early'")
    await page.gone(shown("too early"))
    await page.press("Enter", ".composer textarea")  # that changes nothing
    await page.see(".toast:has-text('Slow mode')")
    assert await page.evaluate(TEXT) == "too early"
    first = await page.evaluate("document.querySelector('.composer-wait').textContent")
    await page.until(f"document.querySelector('.composer-wait').textContent !== {json.dumps(first)}")
    await page.shot("slow-mode")
    await page.check()
    await page.do("reload")
    await page.until(f"{TEXT} === 'too early'")  # also over a reload
    await others.do(bob, "PUT", path, {"slowModeSeconds": 1})
    await page.see(".system-text:has-text('changed the details') >> nth=3")
    await page.gone(".composer-wait")  # the group as it is now comes behind what is said of it
    await page.press("Enter", ".composer textarea")
    await page.see(shown("too early", " .mark:not(.pending)"))
    assert await page.evaluate(TEXT) == ""
    await page.click("[aria-label='About this conversation']")
    await others.do(bob, "PUT", f"{path}/members/{alice.id}/role", {"role": "Admin"})
    await page.see(".system-text:has-text('made you an admin')")
    await others.do(bob, "PUT", path, {"slowModeSeconds": 21_600, "posting": "Admins"})
    await page.see(".system-text:has-text('changed the details') >> nth=4")
    await page.see(".profile p:has-text('Slow mode: 6 hours')")
    await page.see(".member:has-text('You') .role:text-is('Admin')")
    for text in ("an admin does not wait", "nor is an admin kept out"):
        await say(page, text)
        await page.see(shown(text, " .mark:not(.pending)"))
    await page.gone(".composer-wait")


async def test_a_large_group(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """Where a group has so many members that the page does not know the role of its user, what the server refuses says
    it: what they wrote comes back, and the page says why."""
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, tmp_path / "files")
        await site.start()
        others = Others(site.instances[0])
        bob = await others.add("bob", "Bob")
        many = await others.add_many(f"user{number}" for number in range(105))
        page = await join(browser, site, "alice")  # the last one
        alice = await who(page)
        team = await others.group(bob, "Everybody", *many)
        await others.do(bob, "PUT", f"/api/conversations/{team}", {"posting": "Admins"})
        await others.do(bob, "POST", f"/api/conversations/{team}/members", {"userId": alice.id})
        await page.click(".conversations a")
        await say(page, "to all of you")
        await page.see(".composer-wait:text-is('Only admins and owners send messages in this group.')")
        await page.gone(".composer textarea")
        await page.gone(shown("to all of you"))
        await page.until(f"{TEXT} === 'to all of you'")
        await page.check()


async def test_joining(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """A link leads through the sign-in to a question, and from there to the group; its token is in no address that a
    server sees, and does not stay in the history. Public groups are found by words, and joined. What is not good any
    more is said in a sentence. Titles and descriptions are text."""
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, tmp_path / "files")
        await site.start()
        others = Others(site.instances[0])
        bob = await others.add("bob", "Bob")
        team = await others.group(bob, f"Roses {MARKUP}")
        links = f"/api/conversations/{team}/links"
        made = await others.do(bob, "POST", links, {"maxUses": 1})
        page = await browser.open("alice", f"{site.url}/#join={made['token']}", width=390, phone=True, dark=True)
        await page.fill("#username", "alice")
        await page.click("button[type=submit]")
        await page.see("dialog:has-text('Join a group')")
        await page.check()
        await page.shot("join-question")
        await page.do("reload")  # it asks again
        await page.click("dialog button:text-is('Cancel')")
        await page.gone("dialog")
        await page.until("location.hash === '#/'")
        alice = await who(page)
        assert alice.id not in await others.roles(bob, team)

        await page.evaluate(f"void (location.hash = '#join={made['token']}')")
        await page.click("dialog button:text-is('Join')")
        await page.see("h1:has-text('Roses')")
        await page.see(".system-text:has-text('joined')")
        assert (await others.roles(bob, team))[alice.id] == "Member"
        assert await page.evaluate("location.hash") == f"#/c/{team}"
        await page.evaluate("void history.back()")
        await page.until("location.hash === '#/'")  # the link is not there any more
        sent = await page.evaluate(
            "performance.getEntries().map(({ name }) => name).filter((name) => !name.includes('#'))"
        )
        assert not [name for name in sent if made["token"] in name]

        await others.do(bob, "DELETE", f"/api/conversations/{team}/members/{alice.id}")
        await page.see("text=No conversations yet.")
        await page.evaluate(f"void (location.hash = '#join={made['token']}')")
        await page.click("dialog button:text-is('Join')")
        await page.see("dialog .problem:has-text('ask for a new one')")  # it was good for one use
        await page.click("dialog button:text-is('Cancel')")
        await page.gone("dialog")
        await finds(others, page, bob, team)


async def finds(others: Others, page: Page, bob: User, team: str) -> None:
    hidden = await others.group(bob, "Roses in secret")
    for number in range(25):
        each = await others.group(bob, f"Tulips {number}")
        await others.do(bob, "PUT", f"/api/conversations/{each}", {"isPublic": True})
    await others.do(
        bob, "PUT", f"/api/conversations/{team}", {"isPublic": True, "description": f"{MARKUP} of all kinds"}
    )
    await page.click("[aria-label='Find groups']")
    await page.fill("dialog input", "nowhere")
    await page.see("dialog [role=status]:text-is('No public group has these words.')")
    await page.fill("dialog input", "tul")
    await page.until("document.querySelectorAll('.groups li').length === 20")
    await page.click("dialog button:text-is('Show more')")
    await page.until("document.querySelectorAll('.groups li').length === 25")
    await page.gone("dialog button:text-is('Show more')")
    await page.fill("dialog input", "roses")
    await page.see(".groups .excerpt:has-text('of all kinds')")
    assert len(await page.texts(".groups li")) == 1, hidden
    await page.shot("find-groups")
    await page.check()
    assert await page.evaluate("document.documentElement.scrollWidth") == 390
    await others.do(bob, "PUT", f"/api/conversations/{team}", {"isPublic": False})
    await page.press("ArrowDown", "dialog input")
    await page.press("Enter")
    await page.see("dialog .problem:text-is('This group is not public any more.')")
    await others.do(bob, "PUT", f"/api/conversations/{team}", {"isPublic": True})
    await page.press("Enter")
    await page.gone("dialog")
    await page.see("h1:has-text('Roses')")
    await page.click("[aria-label='All conversations']")
    await page.press("Alt+g")
    await page.fill("dialog input", "roses")
    await page.click(".groups button:text-is('Open')")
    await page.see("h1:has-text('Roses')")
    await page.check()
    assert await page.evaluate("globalThis.attacked ?? null") is None
