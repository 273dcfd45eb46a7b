"""The page at `/` in a real Chromium: one person, who signs in in every way, in several tabs, and is signed out."""

import json
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import trio

from tests.running import User, checked
from tests.server.identity.provider import CLIENT, SECRET, FakeProvider, open_provider
from tests.web.browser import Browser, Page
from tests.web.steps import Site, contents, say, shown, who

NOWHERE = "00000000-0000-7000-8000-000000000000"
SETTLED = """
navigator.locks.query().then(() => navigator.locks.request("parley.notified", () => globalThis.notes))
"""
# In place of the browser's own, which shows nothing here; and of its idea of which tab somebody looks at.
NOTES = """
globalThis.notes = [];
globalThis.isLookedAt = false;
document.hasFocus = () => globalThis.isLookedAt;
globalThis.Notification = class {
  static permission = "granted";
  static async requestPermission() { return "granted"; }
  constructor(title, { body }) { notes.push(`${title}: ${body}`); }
  close() {}
};
dispatchEvent(new Event("blur"));
"""
GIVE = """
((given) => {
  const make = (name, content) => new File([content], name, { type: "text/plain" });
  const data = new DataTransfer();
  data.items.add(make("dropped.txt", "dropped"));
  const zone = document.querySelector(".drop-zone");
  const drag = (type) => dispatchEvent(new DragEvent(type, { dataTransfer: data, cancelable: true }));
  drag("dragenter");
  const wasShown = !zone.hidden;
  drag("drop");
  const clipboardData = new DataTransfer();
  clipboardData.items.add(make("pasted.txt", "pasted"));
  const office = new DataTransfer();
  office.items.add(make("picture-of-text.txt", "not wanted"));
  office.setData("text/rtf", "{}");
  const input = document.querySelector(".composer textarea");
  const paste = (data) => input.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, cancelable: true }));
  return [wasShown, zone.hidden, paste(clipboardData), paste(office)];
})()
"""
# Whether the browser keeps something that is to be sent.
UNSENT = """
new Promise((done, fail) => {
  const opening = indexedDB.open(`parley-${JSON.parse(localStorage["parley.me"]).id}`);
  opening.onsuccess = () => {
    const asked = opening.result.transaction("entries").objectStore("entries").getAllKeys();
    asked.onsuccess = () => (opening.result.close(), done(asked.result.some((key) => key.startsWith("q/"))));
    asked.onerror = fail;
  };
  opening.onerror = fail;
})
"""
KEPT = """
indexedDB.databases().then((all) => [
  ...all.map(({ name }) => name).filter((name) => name.startsWith("parley")),
  ...Object.keys(localStorage).filter((key) => key !== "parley.theme"),
])
"""


async def test_one_person(
    database: str, redis_url: str, tmp_path: Path, nursery: trio.Nursery, browser: Browser
) -> None:
    """A sign-in that is declined ends at the page, one that is not where it began. Two tabs show each message once and
    send each once; one of them announces it, unless one is looked at; what a closed one had to send, the other sends.
    Files that are dropped and pasted are sent. A server that restarts is said to. Whose session is ended, or who signs
    out, is at the sign-in in all tabs, and nothing to read is left; then a token signs in, if it is one."""
    async with open_provider(nursery) as provider, AsyncExitStack() as stack:
        given = {"issuer": provider.issuer, "client_id": CLIENT, "client_secret": SECRET}
        oauth = {f"oauth_fake_{name}": value for name, value in given.items()}
        site = Site(stack, database, redis_url, tmp_path / "files", **oauth)
        await site.start()
        bob = await site.instances[0].register("bob")
        alice = await browser.open("alice", site.url)
        await sign_in_by_a_provider(site, provider, alice)
        async with site.instances[0].http(bob) as http:
            me = await alice.evaluate("JSON.parse(localStorage['parley.me']).id")
            chat = checked(await http.post("/api/conversations", json={"type": "Direct", "memberIds": [me]}))["id"]
            await alice.click(".conversations a")
            second = await browser.tab(alice, "alice, again", f"{site.url}/#/c/{chat}")
            await two_tabs(http, chat, alice, second)
            await one_is_called(http, chat, alice, second)
            await one_is_closed(http, chat, alice, second)
        await files_are_given(alice)
        await alice.check()
        await restarting(site, alice)
        await session_is_ended(site, alice)
        await tokens(site, browser, bob, alice)
        await unheard(site, alice)


TYPES = """(async () => {
  const field = document.querySelector(".composer textarea");
  for (let n = 0; n < 20; n++) {
    field.value += "a";
    field.dispatchEvent(new Event("input", { bubbles: true }));
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return Object.keys(localStorage).some((key) => key.startsWith("parley.draft/"));
})()"""


async def sign_in_by_a_provider(site: Site, provider: FakeProvider, alice: Page) -> None:
    provider.claims = {"preferred_username": "alice", "name": "Alice Moreau"}
    provider.declines = True
    await alice.do("goto", url=f"{site.url}/?error=constructor")
    await alice.see("text=You were not signed in. Try again.")
    await alice.do("goto", url=f"{site.url}/#/c/{NOWHERE}")
    await alice.click("text=Continue with Fake")
    await alice.see("text=You were not signed in: it was declined")
    await alice.check()
    assert await alice.evaluate("location.search") == ""
    provider.declines = False
    await alice.click("text=Continue with Fake")
    await alice.see("text=This conversation is not there, or you are not a member of it.")
    assert await alice.evaluate("location.pathname + location.search + location.hash") == f"/#/c/{NOWHERE}"
    await alice.see(".self:has-text('Alice Moreau')")


async def write(http: httpx.AsyncClient, chat: str, text: str) -> None:
    checked(await http.post("/api/messages", json={"conversationId": chat, "content": text}))


async def once(http: httpx.AsyncClient, chat: str, text: str) -> bool:
    page = checked(await http.get("/api/messages", params={"conversationId": chat}))
    return [message["content"] for message in page["items"]].count(text) == 1


async def two_tabs(http: httpx.AsyncClient, chat: str, *tabs: Page) -> None:
    await write(http, chat, "to both")
    for tab in tabs:
        await tab.see(shown("to both"))
    await say(tabs[0], "from the first")
    await say(tabs[1], "from the second")
    texts = ["to both", "from the first", "from the second"]
    for tab in tabs:
        for text in texts[1:]:
            await tab.see(f".own{shown(text, ' .mark:not(.pending)')}")
        assert sorted(await contents(tab)) == sorted(texts)
    assert await once(http, chat, "from the first") and await once(http, chat, "from the second")


async def one_is_called(http: httpx.AsyncClient, chat: str, *tabs: Page) -> None:
    for tab in tabs:
        await tab.evaluate(NOTES)
    await tabs[0].click(".self")
    await tabs[0].click("text=Settings")
    await tabs[0].click("[role=switch]:has-text('Notify me')")
    await tabs[0].see("[role=switch][aria-checked=true]:has-text('Notify me')")
    await tabs[0].check()
    await tabs[0].press("Escape")
    example = "Parley: Messages are announced like this."

    async def notes_after(text: str) -> list[str]:
        await write(http, chat, text)
        for tab in tabs:
            await tab.see(shown(text))
        return sorted([note for tab in tabs for note in await tab.evaluate(SETTLED)])

    assert await notes_after("one ping") == [example, "bob: one ping"]
    await tabs[1].evaluate("globalThis.isLookedAt = true, dispatchEvent(new Event('focus'))")
    await tabs[1].until(
        "navigator.locks.query().then(({ held }) => held.some(({ name }) => name === 'parley.looking'))"
    )
    assert await notes_after("seen at once") == [example, "bob: one ping"]
    await tabs[1].evaluate("globalThis.isLookedAt = false, dispatchEvent(new Event('blur'))")


async def one_is_closed(http: httpx.AsyncClient, chat: str, alice: Page, second: Page) -> None:
    await second.do("cut", **{"is": True})
    await second.see(".connection:has-text('offline')")
    await say(second, "from a tab that is closed")
    await second.see(shown("from a tab that is closed", " .mark.pending"))
    await second.until(UNSENT)
    await second.do("leave")
    await alice.see(shown("from a tab that is closed", " .mark:not(.pending)"))
    assert await once(http, chat, "from a tab that is closed")


async def files_are_given(alice: Page) -> None:
    assert await alice.evaluate(GIVE) == [True, True, False, True]  # shown, hidden again; taken, left to the browser
    for name in ("dropped.txt", "pasted.txt"):
        await alice.see(f".tray-item:has-text('{name}')")
    await say(alice, "two files")
    for name in ("dropped.txt", "pasted.txt"):
        await alice.see(f".message .file:has-text('{name}')")
    await alice.gone(".tray-item")
    assert not [name for name in await alice.texts(".file-name") if "picture" in name]


async def restarting(site: Site, alice: Page) -> None:
    old = site.instances.pop()
    old.terminate()
    await alice.see(".sidebar .connection:has-text('The server is restarting')")
    await say(alice, "over a restart")
    await alice.see(".sidebar .connection:has-text('1 message waits to be sent')")
    await old.wait()
    await site.start()
    await alice.see(shown("over a restart", " .mark:not(.pending)"))
    await alice.gone(".sidebar .connection")


async def end_session(site: Site, person: User) -> None:
    async with site.instances[0].http(person) as http:
        [session] = checked(await http.get("/auth/sessions"))["items"]
        assert (await http.delete(f"/auth/sessions/{session['id']}")).is_success


async def session_is_ended(site: Site, alice: Page) -> None:
    await end_session(site, await who(alice))
    await alice.see("text=You were signed out. The session was ended.")
    await alice.see("text=Continue with Fake")
    await alice.until(f"({KEPT}).then((kept) => kept.every((name) => name.startsWith('parley.noti')))")
    assert await alice.evaluate("document.title") == "Sign in – Parley"
    await alice.check()


async def unheard(site: Site, tab: Page) -> None:
    """Another tab has signed out, and its connection is ended before it hears of that."""
    await tab.fill("#username", "carol")
    await tab.click("button[type=submit]:text-is('Join')")
    await tab.see("text=No conversations yet.")
    carol = await who(tab)
    await tab.evaluate("localStorage.removeItem('parley.session')")
    await end_session(site, carol)
    await tab.see("text=You were signed out in another tab.")
    await tab.until(f"({KEPT}).then((kept) => kept.length === 0)")


async def tokens(site: Site, browser: Browser, bob: User, tab: Page) -> None:
    await tab.click("summary")
    for bad in ("пароль", "e30.e30.x"):
        await tab.fill("#token", bad)
        await tab.click("text=Sign in with this token")
        await tab.see("[role=alert]:has-text('does not take this token')")
    await tab.fill("#token", f" Bearer {bob.token}\n")
    await tab.click("text=Sign in with this token")
    await tab.see(".conversations a:has-text('Alice Moreau')")
    other = await browser.tab(tab, "bob, again", site.url)
    await other.click(".conversations a:has-text('Alice Moreau')")
    await other.see(".composer textarea")
    assert await other.evaluate(TYPES)  # it is kept while one types on
    await tab.click(".self")
    await tab.click("text=Sign out")
    await tab.see("text=You have signed out.")
    await other.see("text=You were signed out")  # it may hear of it from the server first
    for each in (tab, other):
        await each.until(f"({KEPT}).then((kept) => kept.length === 0)")
        assert json.loads(await each.evaluate("JSON.stringify(Object.keys(sessionStorage))")) == []
        await each.check()
