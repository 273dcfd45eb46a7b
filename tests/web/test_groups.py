"""The page at `/` in a real Chromium: groups, and what others write, change and take away while one looks."""

from contextlib import AsyncExitStack
from pathlib import Path

from tests.running import User
from tests.web.browser import Browser, Page
from tests.web.steps import ATTACKS, Others, Site, contents, join, say, shown, talk, two_instances

MARKUP = '<img src=x onerror="globalThis.attacked=8">'
CAROL = "carol"
LONG = "W" * 120
ARABIC_NAME = "عبد الرحمن"
ARABIC_STATUS = "في اجتماع"
FILE = '"><img src=x onerror=globalThis.attacked=9>\u202egnp.txt'
HARM = "document.querySelectorAll('#app :is(script, iframe, object, [onload], [onerror], [style*=url])').length"

# What is to be seen, and reaches out of its column.
OUTSIDE = """
[...document.querySelectorAll(".sidebar, .main, .details")].flatMap((column) => {
  const { right } = column.getBoundingClientRect();
  return [...column.querySelectorAll("*")]
    .filter((one) => one.checkVisibility() && one.getBoundingClientRect().right > right + 1)
    .filter((one) => !one.closest(".hidden-text") && !one.parentElement.closest("bdi, pre, [class*=box], .option-text"))
    .map((one) => one.outerHTML.slice(0, 200));
})
"""


async def test_groups(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """Members are added, promoted, demoted and removed; who leaves, or is removed while they have it open, sees why,
    and has nothing of it left. What others edit and delete changes wherever it is shown: in quotes, in what is being
    answered, in what is being edited. Who is typed behind an @ is offered, and mentioned; what mentions one is marked.
    Whatever names, titles, texts and files are, they stay text, and in place."""
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, tmp_path / "files")
        await site.start()
        others = Others(site.instances[0])
        bob = await others.add("bob", MARKUP, f"{MARKUP} {ARABIC_STATUS}")
        carol = await others.add(CAROL, ARABIC_NAME)
        dave = await others.add("dave", LONG)
        page = await join(browser, site, "alice")
        token = await page.evaluate("JSON.parse(localStorage['parley.session']).accessToken")
        me = await page.evaluate("JSON.parse(localStorage['parley.me']).id")
        alice = User(me, "alice", token)
        team = await others.group(alice, MARKUP, bob.id)
        await page.click(".conversations a")
        await members(others, page, alice, bob, carol, team)
        await changes(others, page, alice, bob, team)
        await mentions(others, page, alice, bob, team)
        await strange_text(others, page, bob, carol, dave, alice)
        await removed(others, page, alice, bob, team)
        await leaves(page)
        await starts_and_types(page, "bob", CAROL)


async def members(others: Others, page: Page, alice: User, bob: User, carol: User, team: str) -> None:
    await page.click("[aria-label='About this conversation']")
    path, details = f"/api/conversations/{team}", {"description": f"{MARKUP}\nroses", "posting": "Admins"}
    await others.do(alice, "PUT", path, {**details, "slowModeSeconds": 60})
    await page.see(".profile .description:has-text('roses')")
    await page.see(".profile p:text-is('Only admins send messages here')")
    await page.see(".profile p:text-is('Slow mode: 1 minute between two messages')")
    await page.see(".system-text:has-text('changed the details of this conversation')")
    await others.do(alice, "PUT", path, {"description": None, "posting": "Everyone", "slowModeSeconds": 0})
    await page.gone(".profile .description")
    await page.click(".section-head button")
    await page.fill("[role=combobox]", CAROL)
    await page.click(f"[role=option]:has-text('{CAROL}')")
    await page.click("dialog button[type=submit]")
    await page.see(f".members .member:has-text('{ARABIC_NAME}')")
    more = f"[aria-label='What to do with {ARABIC_NAME}']"
    for text, role in (("Make an admin", "Admin"), ("Make a member", None), ("Make an owner", "Owner")):
        await page.click(more)
        await page.click(f"[role^=menuitem]:has-text('{text}')")
        entry = f".member:has-text('{ARABIC_NAME}')"
        await page.see(f"{entry}:has(.role:text-is('{role}'))" if role else f"{entry}:not(:has(.role))")
    assert (await others.roles(alice, team))[carol.id] == "Owner"
    await page.until("document.activeElement?.dataset.focus?.startsWith('m-')")  # it is where it was
    await page.click(more)
    await page.click("[role^=menuitem]:has-text('Remove from the group')")
    await page.check()
    await page.click("dialog button.danger")
    await page.gone(f".members .member:has-text('{ARABIC_NAME}')")
    await page.see(".conversation-head .standing:has-text('2 members')")
    assert set(await others.roles(alice, team)) == {alice.id, bob.id}
    await page.click(".details [aria-label=Close]")


async def changes(others: Others, page: Page, alice: User, bob: User, team: str) -> None:
    await others.do(alice, "PUT", f"/api/conversations/{team}/members/{bob.id}/role", {"role": "Owner"})
    first = await others.say(bob, team, "as it was")
    await page.hover(shown("as it was"))
    await page.click(".toolbar [aria-label=Reply]")
    await say(page, "an answer")
    await page.see(shown("an answer", ":has(.quote-text:text-is('as it was'))"))
    await others.do(bob, "PUT", f"/api/messages/{first}", {"content": "as it is"})
    await page.see(shown("an answer", ":has(.quote-text:text-is('as it is'))"))
    await others.do(bob, "DELETE", f"/api/messages/{first}")
    await page.see(shown("an answer", ":has(.quote-text:text-is('Message deleted'))"))
    assert not [text for text in await contents(page) if text.startswith("as it")]

    second = await others.say(bob, team, "answered too late")
    await page.hover(shown("answered too late"))
    await page.click(".toolbar [aria-label=Reply]")
    await page.see(".composer-context:has-text('answered too late')")
    await others.do(bob, "DELETE", f"/api/messages/{second}")
    await page.gone(".composer-context")

    await say(page, "mine")
    await page.see(shown("mine", " .mark:not(.pending)"))
    await page.press("ArrowUp", ".composer textarea")
    await page.fill(".composer textarea", "mine, and more")
    own = (await others.do(alice, "GET", f"/api/messages?conversationId={team}"))["items"][0]["id"]
    await others.do(bob, "DELETE", f"/api/messages/{own}")
    await page.gone(".composer-context")
    assert await page.evaluate("document.querySelector('.composer textarea').value") == "mine, and more"
    await page.fill(".composer textarea", "")


async def mentions(others: Others, page: Page, alice: User, bob: User, team: str) -> None:
    await page.fill(".composer textarea", "hello @bo")
    await page.see(".mention-list [role=option][aria-selected=true]:has-text('@bob')")
    await page.check()
    await page.press("Enter", ".composer textarea")
    await page.gone(".mention-list [role=option]")
    await page.press("Enter", ".composer textarea")
    await page.see(".message:has-text('hello @bob') .mention:text-is('@bob')")
    await page.see(".message:has-text('hello @bob') .mark:not(.pending)")
    [sent] = (await others.do(bob, "GET", "/api/mentions"))["items"]
    assert (sent["content"], sent["mentions"], sent["mentionAll"]) == ("hello @bob", [bob.id], False)
    await page.press("ArrowUp", ".composer textarea")
    await page.fill(".composer textarea", "hello @all")
    await page.see(".mention-list [role=option][aria-selected=true]:has-text('Everybody')")
    await page.press("Escape", ".composer textarea")
    await page.gone(".mention-list [role=option]")
    await page.press("Enter", ".composer textarea")
    await page.see(".message:has-text('hello @all') .mention:text-is('@all')")
    await page.see(".message:has-text('hello @all') .mark:not(.pending)")
    [sent] = (await others.do(bob, "GET", "/api/mentions"))["items"]
    assert (sent["content"], sent["mentions"], sent["mentionAll"]) == ("hello @all", [], True)
    await others.say(bob, team, "and @alice", mentions=[alice.id])
    await page.see(".message.mentioned .mention:text-is('@alice')")


async def strange_text(others: Others, page: Page, bob: User, carol: User, dave: User, alice: User) -> None:
    where = await others.group(bob, LONG, alice.id, carol.id, dave.id)
    upload = {"files": {"file": (FILE, b"text", "text/plain")}}
    stored = await others.do(bob, "POST", "/api/files/upload", **upload)
    await page.click(f".conversations a:has-text('{LONG[:40]}')")
    for author in (bob, carol, dave):
        for attack in ATTACKS:
            await others.say(author, where, attack)
    await others.say(dave, where, "\u202eturned round", type="Text")
    await others.say(bob, where, "", type="File", fileId=stored["id"])
    await page.see(".message .file")
    await page.click("[aria-label='About this conversation']")
    await page.see(".members .member >> nth=3")
    await page.see(f".members small:has-text('{ARABIC_STATUS}')")
    await page.see(f".members .member bdi:text-is('{LONG}')")
    await page.shot("strange-text")
    await page.check()
    assert await page.evaluate(HARM) == 0 and await page.evaluate("globalThis.attacked ?? null") is None
    assert await page.evaluate("document.title.includes('W')")
    name = await page.evaluate("document.querySelector('.message .file-name').textContent")
    assert "<img" in name and "\u202e" not in name
    for width in (1280, 390):
        await page.do("size", width=width, height=800)
        outside = await page.evaluate(OUTSIDE)
        assert not outside, outside
        assert await page.evaluate("document.documentElement.scrollWidth") == width
    await page.do("size", width=1280, height=800)
    await page.click(".details [aria-label=Close]")


async def removed(others: Others, page: Page, alice: User, bob: User, team: str) -> None:
    await page.click(f".conversations a:has-text('{MARKUP[:6]}') >> nth=-1")
    await page.see(f"h1:has-text('{MARKUP[:6]}')")
    await page.fill(".composer textarea", "not for this group any more")
    await page.until("Object.keys(localStorage).some((key) => key.startsWith('parley.draft/'))")
    await page.click("[aria-label='About this conversation']")
    await page.click(".details button:text-is('Edit')")
    await page.see("dialog[open] #group-title")
    await others.do(bob, "DELETE", f"/api/conversations/{team}/members/{alice.id}")
    await page.see(".nothing:has-text('You were removed from')")
    await page.gone("dialog")
    await page.gone(".details")
    assert await page.evaluate("location.hash") == "#/"
    await page.until("!Object.keys(localStorage).some((key) => key.startsWith('parley.draft/'))")
    await page.until("document.querySelectorAll('.conversations a').length === 1")
    await page.check()


async def leaves(page: Page) -> None:
    await page.click(".conversations a")
    await page.click("[aria-label='About this conversation']")
    await page.click("text=Leave this group")
    await page.check()
    await page.click("dialog button.danger")
    await page.see(".nothing:has-text('You have left')")
    await page.see("text=No conversations yet.")


async def starts_and_types(page: Page, *members: str) -> None:
    """One goes on by keyboard where a dialog has led to, or where one was before it."""
    await page.click("[aria-label='New conversation']")
    for name in members:
        await page.fill("[role=combobox]", name)
        await page.click(f"[role=option]:has-text('{name}')")
    await page.press("Enter", "#group-name")
    await page.gone("dialog")
    await page.see(".conversation-head .standing:has-text('3 members')")
    await types(page, "a")
    for dialog in ("Alt+s", "Alt+n"):
        await page.press(dialog)
        await page.see("dialog[open]")
        await page.press("Escape")
        await page.gone("dialog")
        await types(page, dialog[-1])


async def types(page: Page, key: str) -> None:
    await page.press(key)
    await page.until(f"document.querySelector('.composer textarea').value.endsWith('{key}')")


async def test_what_one_sets_for_oneself(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """What is pinned is pinned for both, and listed. Favourites stand first, what is archived stands at the end behind
    a button, and what is muted is not counted in the title: in each tab of the person, not for others."""
    async with two_instances(database, redis_url, tmp_path / "files") as site:
        alice, bob = await join(browser, site, "alice"), await join(browser, site, "bob")
        await talk(alice, bob)
        await say(alice, "hello, bob")
        await bob.click(".conversations a")
        await bob.see(shown("hello, bob"))
        await alice.hover(shown("hello, bob"))
        await alice.click("[aria-label='Pin']")
        await bob.see(shown("hello, bob", " .pinned"))
        again = await browser.tab(bob, "bob, again", site.url)
        await again.see(".conversations a")
        await bob.click("[aria-label='About this conversation']")
        await bob.click(".details button:text-is('Show')")
        await bob.see(".details [aria-label='Pinned messages'] :text-is('hello, bob')")
        await bob.click(".details label:has-text('Favourite')")
        await again.see(".conversations .favourite")
        await bob.click(".details button:has-text('Mute notifications')")
        await bob.click("[role^=menuitem]:has-text('Until I say otherwise')")
        await bob.see(".details button:text-is('Muted')")
        await again.see(".conversations .silent")
        await bob.click(".details label:has-text('Archived')")
        await again.see(".shelf button:has-text('Archived (1)')")
        await again.gone(".conversations a")
        await again.click(".shelf button")
        await again.see(".conversations .favourite.silent a")
        await bob.check()
        await again.check()
        await bob.click("[aria-label='Close']")
        await bob.evaluate("void (document.hasFocus = () => false)")  # else it reads, and takes the badge away
        await say(alice, "still there?")
        await again.see(".conversations .unread .badge:text-is('1')")
        assert not await again.evaluate("document.title.includes('(')")
        assert not await alice.evaluate("document.querySelectorAll('.favourite, .silent, .shelf').length")
