"""What tests of the page share: instances on one address, people who join, and what they do and see.

Owns the instances of a test. Pictures of what people saw are left in tests/web/shots by `make test-web`.
"""

import json
import struct
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.running import Running, User, free_port, running, served
from tests.waiting import wait_until
from tests.web.browser import Browser, Page

ATTACKS = (
    '<img src=x onerror="globalThis.attacked = 1">',
    "<script>globalThis.attacked = 2</script>",
    'javascript:globalThis.attacked=3 https://a.example/"onmouseover="globalThis.attacked=4',
    "`<svg onload=globalThis.attacked=5>` ```</code><iframe srcdoc='<script>parent.attacked=6</script>'>```",
    "https://user:secret@example.com/ data:text/html,<script>globalThis.attacked=7</script>",
)
ARABIC = "مرحبا، كيف حالك؟ https://example.com/a?b=1"


class Site:
    """Instances on one port, among which the kernel spreads connections."""

    def __init__(self, stack: AsyncExitStack, database: str, redis_url: str, folder: Path, **settings: object) -> None:
        self._stack = stack
        self._arguments = (database, redis_url)
        self._settings = {
            "port": free_port(), "reuse_port": "on", "web": "on", "objects": f"file://{folder}", **settings
        }  # fmt: skip
        self.instances: list[Running] = []

    @property
    def url(self) -> str:
        return self.instances[-1].url

    async def start(self) -> None:
        # The instances are killed: what they were at is in their log, and no fault.
        opened = running(*self._arguments, may_fail=True, **self._settings)  # type: ignore[arg-type]
        self.instances.append(await self._stack.enter_async_context(opened))

    async def kill_oldest(self) -> None:
        oldest = self.instances.pop(0)
        oldest.kill()
        await oldest.wait()


class Others:
    """Those who do not sit at a browser: they do everything by REST."""

    def __init__(self, server: Running) -> None:
        self._server = server

    async def add(self, username: str, display_name: str, status: str = "") -> User:
        body = {"username": username, "displayName": display_name}
        async with self._server.http() as http:
            made = await served(lambda: http.post("/api/users", json=body))
        user = User(made["id"], username, made["accessToken"])
        if status:
            await self.do(user, "PUT", "/api/users/status", {"status": "Away", "statusText": status})
        return user

    async def add_many(self, usernames: Iterable[str]) -> list[str]:
        """Add users who do nothing themselves, and return their ids."""
        async with self._server.http() as http:
            made = [await served(partial(http.post, "/api/users", json={"username": name})) for name in usernames]
        return [each["id"] for each in made]

    async def do(self, user: User, method: str, path: str, body: Any = None, **options: Any) -> Any:
        async with self._server.http(user) as http:
            return await served(lambda: http.request(method, path, json=body, **options))

    async def say(self, user: User, chat: str, text: str, **fields: Any) -> str:
        return str(
            (await self.do(user, "POST", "/api/messages", {"conversationId": chat, "content": text, **fields}))["id"]
        )

    async def until_found(self, user: User, text: str, words: str) -> None:
        """Wait until this message is found by these words: that is a moment after it was sent."""

        async def is_found() -> bool:
            page = await self.do(user, "GET", "/api/search/messages", params={"q": words})
            return text in [hit["message"]["content"] for hit in page["items"]]

        await wait_until(is_found)

    async def group(self, owner: User, name: str, *members: str) -> str:
        body = {"type": "Group", "name": name, "memberIds": members}
        return str((await self.do(owner, "POST", "/api/conversations", body))["id"])

    async def roles(self, user: User, chat: str) -> dict[str, str]:
        found = await self.do(user, "GET", f"/api/conversations/{chat}")
        return {member["userId"]: member["role"] for member in found["members"]}


@asynccontextmanager
async def two_instances(database: str, redis_url: str, folder: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, folder)
        await site.start()
        await site.start()
        yield site


async def join(browser: Browser, site: Site, name: str, **options: object) -> Page:
    page = await browser.open(name, site.url, **options)
    await page.fill("#username", name)
    await page.click("button[type=submit]")
    await page.see("text=No conversations yet.")
    return page


async def enter(browser: Browser, site: Site, user: User, begin: str = "", **options: object) -> Page:
    """The page of somebody who is signed in, in a browser that has nothing of theirs. `begin` runs before its own."""
    page = await browser.open(user.name, "", **options)
    session = json.dumps({"accessToken": user.token, "refreshToken": None, "expiresAt": 2**42})
    await page.do("begin", script=f"localStorage['parley.session'] ??= {json.dumps(session)};{begin}")
    await page.do("goto", url=site.url)
    return page


async def who(page: Page) -> User:
    """The person who sits there."""
    token = await page.evaluate("JSON.parse(localStorage['parley.session']).accessToken")
    me = await page.evaluate("JSON.parse(localStorage['parley.me']).id")
    return User(me, page.name, token)


async def choose(page: Page, selector: str, value: str) -> None:
    await page.see(selector)
    await page.evaluate(
        f"(() => {{ const one = document.querySelector('{selector}'); one.value = '{value}';"
        "one.dispatchEvent(new Event('change', { bubbles: true })); })()"
    )


async def say(page: Page, text: str) -> None:
    await page.fill(".composer textarea", text)
    await page.press("Enter", ".composer textarea")


def shown(text: str, more: str = "") -> str:
    return f".message:has(:text-is({json.dumps(text)})){more}"


async def contents(page: Page) -> list[str]:
    return await page.texts(".message .content")


async def talk(one: Page, other: Page) -> None:
    """The first begins a conversation with the second, by the name that was searched for."""
    await one.click("text=Start one")
    await one.fill("[role=combobox]", other.name)
    await one.click(f"[role=option]:has-text({json.dumps(other.name)})")
    await one.click("dialog button[type=submit]")
    await one.see(".composer textarea")


def picture(path: Path) -> Path:
    """A PNG of 320 by 200: a sky that becomes darker."""
    rows = b"".join(b"\0" + bytes((40 + y // 2, 90 + y // 2, 255 - y)) * 320 for y in range(200))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 320, 200, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path
