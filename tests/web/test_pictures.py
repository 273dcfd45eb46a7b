"""The pictures of docs: people talk on real instances, and a real Chromium shows what one of them sees.

They are left in tests/web/shots; `make test-web` makes them.
"""

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.running import User, checked
from tests.web.browser import Browser, Page
from tests.web.steps import Site, picture, shown

NAMES = {
    "alice": "Alice Moreau",
    "bob": "Bob Lindqvist",
    "chioma": "Chioma Okafor",
    "emma": "Emma van der Berg",
    "dawud": "داود الخطيب",
}
YESTERDAY = (
    ("bob", "The release candidate is on staging. All checks are green."),
    ("bob", "I left the notes in `release-notes`, have a look before we freeze."),
    ("emma", "Reading them now 👀"),
    ("alice", "Thank you! Who takes the migration?"),
    ("chioma", "I can. It takes about four minutes on a copy of the data, so no window is needed."),
)
TODAY = (
    ("bob", "Morning. Staging ran the night without a single alert."),
    ("emma", "🎉"),
    ("alice", "Then we freeze at two o'clock."),
    ("chioma", "Thank you! I will run the migration at 14:30, and write here when it is done."),
)


class Scene:
    def __init__(self, site: Site, database: str) -> None:
        self._site = site
        self._database = database
        self.people: dict[str, User] = {}

    async def begin(self) -> None:
        for name, shown_as in NAMES.items():
            async with self._site.instances[0].http() as http:
                made = checked(await http.post("/api/users", json={"username": name, "displayName": shown_as}))
            self.people[name] = User(made["id"], name, made["accessToken"])

    async def do(self, name: str, method: str, path: str, body: Any = None, **options: Any) -> Any:
        async with self._site.instances[0].http(self.people[name]) as http:
            answer = await http.request(method, path, json=body, **options)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def say(self, name: str, chat: str, text: str, **fields: Any) -> str:
        body = {"conversationId": chat, "content": text, **fields}
        return str((await self.do(name, "POST", "/api/messages", body))["id"])

    async def direct(self, name: str, other: str) -> str:
        body = {"type": "Direct", "memberIds": [self.people[other].id]}
        return str((await self.do(name, "POST", "/api/conversations", body))["id"])

    def age(self, chat: str, by: timedelta) -> None:
        """Make all of a conversation older: the time of a message is in its id."""
        with psycopg.connect(self._database, autocommit=True) as connection:
            rows = connection.execute("SELECT id FROM messages WHERE conversation_id = %s", (chat,)).fetchall()
            for (old,) in rows:
                moved = UUID(int=old.int - (int(by.total_seconds() * 1000) << 80))
                connection.execute("UPDATE messages SET id = %s WHERE id = %s", (moved, old))
                connection.execute("UPDATE sends SET message_id = %s WHERE message_id = %s", (moved, old))


async def test_pictures(
    request: pytest.FixtureRequest, database: str, redis_url: str, tmp_path: Path, browser: Browser
) -> None:
    """A team talks about a release, over two days: light, dark with the members beside it, on a phone; then all
    instances are dead while two of them write, and nothing is lost."""
    if not request.config.getoption("--web-messages"):
        pytest.skip("`make test-web` runs it")
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, tmp_path / "files")
        await site.start()
        scene = Scene(site, database)
        await scene.begin()
        team = await talk(scene, tmp_path)
        alice = await sign_in(browser, site, scene, "alice")
        await alice.click(".conversations a:has-text('Release 4.2')")
        await alice.see(".picture img")
        await alice.until("document.querySelector('.picture img').naturalWidth > 0")
        hubs = [
            await stack.enter_async_context(site.instances[0].connect(scene.people[name])) for name in ("bob", "emma")
        ]
        await alice.see(".message .file")
        await alice.see(".conversations .dot.online")
        for hub in hubs:
            await hub.invoke("StartTyping", team)
        await alice.shot("page-light")
        await alice.check()
        await alice.do("media", dark=True)
        await alice.click("[aria-label='About this conversation']")
        await alice.see(".members .member >> nth=4")
        for hub in hubs:
            await hub.invoke("StartTyping", team)
        await alice.shot("page-dark")
        await alice.check()
        await alice.click(".details [aria-label=Close]")
        await alice.do("media", dark=False)
        await alice.do("size", width=390, height=780)
        await alice.shot("page-phone-right")
        await alice.click("[aria-label='All conversations']")
        await alice.see(".conversations a")
        await alice.hover(".sidebar-head")
        await alice.shot("page-phone-left")
        await alice.do("size", width=1280, height=800)
        await alice.click(".conversations a:has-text('Release 4.2')")

        bob = await sign_in(browser, site, scene, "bob")
        await bob.click(".conversations a:has-text('Release 4.2')")
        await bob.see(shown(TODAY[-1][1]))
        await bob.until("document.querySelector('.picture img').naturalWidth > 0")
        await site.kill_oldest()
        for page, texts in ((alice, ("And this is written while no server is there.", "It waits here.")),
                            (bob, ("Mine, too.",))):  # fmt: skip
            for text in texts:
                await page.fill(".composer textarea", text)
                await page.press("Enter", ".composer textarea")
            await page.see(".connection:has-text('The server cannot be reached')")
            await page.gone(".dot.online")
            await page.shot(f"page-kill-{page.name}")
        await site.start()
        for page in (alice, bob):
            for text in ("It waits here.", "Mine, too."):
                await page.see(shown(text))
            await page.gone(".mark.pending")


async def talk(scene: Scene, folder: Path) -> str:
    members = [scene.people[name].id for name in ("bob", "chioma", "emma", "dawud")]
    body = {"type": "Group", "name": "Release 4.2", "memberIds": members}
    team = str((await scene.do("alice", "POST", "/api/conversations", body))["id"])
    for name, text in YESTERDAY:
        await scene.say(name, team, text)
    scene.age(team, timedelta(hours=max(21, datetime.now(UTC).hour + 2)))
    dawud = await scene.direct("dawud", "alice")
    await scene.say("dawud", dawud, "شكراً جزيلاً، نلتقي غداً")
    chioma = await scene.direct("alice", "chioma")
    await scene.say("alice", chioma, "See you tomorrow, then")

    await scene.do(
        "alice", "PUT", f"/api/conversations/{team}/members/{scene.people['bob'].id}/role", {"role": "Admin"}
    )
    await scene.do("chioma", "PUT", "/api/users/status", {"status": "Away", "statusText": "At lunch"})
    ids = {}
    for name, text in TODAY[:2]:
        ids[text] = await scene.say(name, team, text)
    sky = picture(folder / "sky.png").read_bytes()
    stored = await scene.do("alice", "POST", "/api/files/upload", files={"file": ("dashboard.png", sky, "image/png")})
    await scene.say("alice", team, "Here is how it looks now", type="Image", fileId=stored["id"])
    notes = await scene.do(
        "bob", "POST", "/api/files/upload", files={"file": ("checklist.txt", b"1. Freeze\n" * 400, "text/plain")}
    )
    await scene.say("bob", team, "", type="File", fileId=notes["id"])
    freeze = await scene.say("alice", team, "Then we freeze at one o'clock.")
    await scene.do("alice", "PUT", f"/api/messages/{freeze}", {"content": TODAY[2][1]})
    await scene.say("chioma", team, TODAY[3][1], replyToId=freeze)
    await scene.say("bob", await scene.direct("bob", "alice"), "lunch?")
    return team


async def sign_in(browser: Browser, site: Site, scene: Scene, name: str, **options: object) -> Page:
    page = await browser.open(name, site.url, **options)
    await page.click("summary")
    await page.fill("#token", scene.people[name].token)
    await page.click("text=Sign in with this token")
    await page.see(".conversations a")
    return page
