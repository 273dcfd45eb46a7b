"""The page at `/` in a real Chromium: a server that is away for very long, and an operator who ends the connections."""

from contextlib import AsyncExitStack
from pathlib import Path

from tests.running import User, checked
from tests.server.metrics.samples import admin
from tests.waiting import wait_until
from tests.web.browser import Browser, Page
from tests.web.steps import Site, contents, join, say, shown

LONGEST = 31  # seconds: more than the longest pause between two attempts
ATTEMPTS = 10  # the pauses are at their longest before
HOURS = 5 * 3600  # longer than an access token is good
COUNT = """
globalThis.attempts = 0;
const ask = globalThis.fetch;
globalThis.fetch = (...given) => ((globalThis.attempts += 1), ask(...given));
"""
# While something is pressed, and when it was released: how often was painted what is due?
PRESSED = """
import(document.querySelector("script[type=module]").src.replace("app.js", "dom.js")).then(async ({ throttled }) => {
  const after = (ms) => new Promise((done) => setTimeout(done, ms));
  const { now } = performance;
  performance.now = () => 0;
  dispatchEvent(new PointerEvent("pointerdown"));
  let count = 0;
  throttled(() => count++)();
  await after(400);
  const during = count;
  dispatchEvent(new PointerEvent("pointerup"));
  while (!count) await after(20);
  performance.now = now;
  return [during, count];
})
"""
# A person is pressed while the search for others ends: are they there until they are released, and not any longer?
CHOSEN = """
(async () => {
  const after = (ms) => new Promise((done) => setTimeout(done, ms));
  const { now } = performance;
  const dialog = document.querySelector("dialog");
  const [field, option] = [dialog.querySelector("[role=combobox]"), dialog.querySelector("[role=option]")];
  performance.now = () => 0;
  dispatchEvent(new PointerEvent("pointerdown"));
  field.value = "somebody else";
  field.dispatchEvent(new Event("input", { bubbles: true }));
  while (!dialog.querySelector("[role=status]").textContent) await after(20);
  await after(400);
  const during = option.isConnected;
  dispatchEvent(new PointerEvent("pointerup"));
  while (option.isConnected) await after(20);
  performance.now = now;
  return during;
})()
"""
TYPED = "document.querySelector('.composer textarea').value"


async def test_absence(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """While the server is away the page says so, however long it takes, and that a message waits; it comes back by
    itself, sends it once, and shows what others have written. When an operator ends the connections it says so; the
    person is still signed in, connects again, and finds what they were typing, as after a reload."""
    async with AsyncExitStack() as stack:
        socket = tmp_path / "admin"
        site = Site(stack, database, redis_url, tmp_path / "files", admin_listen=str(socket))
        await site.start()
        bob = await site.instances[0].register("bob")
        alice = await browser.open("alice", "")
        await alice.do("begin", script=COUNT)
        await alice.do("clock")
        await alice.do("goto", url=site.url)
        await alice.fill("#username", "alice")
        await alice.click("button[type=submit]")
        await alice.see("text=No conversations yet.")
        me = await alice.evaluate("JSON.parse(localStorage['parley.me']).id")
        chat = await site.instances[0].direct(bob, User(me, "alice", ""))
        await alice.click(".conversations a")
        await long_away(site, alice, bob, chat)
        await ended_by_an_operator(socket, alice)
        said = [message["content"] for message in await site.instances[0].history(bob, chat)]
        assert sorted(said) == ["half a sentence", "welcome back", "while the server is away"]
        assert await contents(alice) == said
        await alice.check()


async def long_away(site: Site, alice: Page, bob: User, chat: str) -> None:
    await site.kill_oldest()
    await say(alice, "while the server is away")
    away = ".sidebar .connection:has-text('The server cannot be reached. Trying again … 1 message waits to be sent.')"
    await alice.see(away)
    for seconds in [LONGEST] * ATTEMPTS + [HOURS]:
        before = await alice.evaluate("attempts")
        await alice.do("later", seconds=seconds)
        await alice.until(f"attempts > {before}")
        await alice.see(away)
    await site.start()
    async with site.instances[0].http(bob) as http:
        checked(await http.post("/api/messages", json={"conversationId": chat, "content": "welcome back"}))
    await alice.do("later", seconds=LONGEST)  # and not a click
    await alice.see(shown("welcome back"))
    await alice.see(shown("while the server is away", " .mark:not(.pending)"))
    await alice.gone(".sidebar .connection")


async def ended_by_an_operator(socket: Path, alice: Page) -> None:
    await alice.fill(".composer textarea", "half a")
    await alice.do("reload")
    await alice.until(f"{TYPED} === 'half a'")
    async with admin(socket) as http:

        async def is_connected() -> bool:
            return bool(checked(await http.get("/connections", params={"user": "alice"}))["total"] == 1)

        await wait_until(is_connected)
        await alice.gone(".sidebar .connection")
        await alice.fill(".composer textarea", "half a sentence")
        killed = checked(await http.post("/users/alice/kill"))
        assert killed["connections"] == 1
    await alice.see("text=The chat has ended: An operator has ended this connection.")
    await alice.see("text=Sign out")
    await alice.check()
    await alice.click("text=Connect again")
    await alice.until(f"{TYPED} === 'half a sentence'")
    await alice.press("Enter", ".composer textarea")
    await alice.see(shown("half a sentence", " .mark:not(.pending)"))


async def test_a_part_that_does_not_come(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """A page of which a part is missing says so and loads itself again, some times; then it leaves that to the person.
    When the part comes it is there as ever."""
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, tmp_path / "files")
        await site.start()
        alice = await browser.open("alice", "")
        await alice.do(
            "begin", script="setTimeout = ((real) => (done, ms) => real(done, Math.min(ms, 50)))(setTimeout)"
        )
        await alice.do("refuse", pattern="**/sidebar.js", **{"is": True})
        await alice.do("goto", url=f"{site.url}/#join=a-token")
        await alice.see(".splash:has-text('loaded. Try again')")
        assert await alice.evaluate("sessionStorage['parley.loads']") == "3"
        await alice.do("refuse", pattern="**/sidebar.js", **{"is": False})
        await alice.click("text=Try again")
        await alice.see("#username")
        assert await alice.evaluate("location.hash") == "#join=a-token"  # what was asked for is not lost by that
        assert await alice.evaluate("sessionStorage.length") == 0


async def test_what_is_pressed_stays(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """Nothing is painted anew between the press and the release of a button: a click would be lost by that."""
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, tmp_path / "files")
        await site.start()
        await site.instances[0].register("bob")
        alice = await join(browser, site, "alice")
        assert await alice.evaluate(PRESSED) == [0, 1]
        await alice.click("text=Start one")
        await alice.see("dialog [role=option]")
        assert await alice.evaluate(CHOSEN)
