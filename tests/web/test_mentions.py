"""Mentions in the page: the list of the messages that mention one, and names that are offered in a large group."""

from contextlib import AsyncExitStack
from pathlib import Path

from tests.running import User
from tests.web.browser import Browser
from tests.web.steps import Site, enter

FOUND = "dialog .found-message"
LIST = ".mention-list [role=option]"
MANY = 60  # members: more than are asked for one by one
INPUT = ".composer textarea"


async def test_where_one_is_mentioned(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """The button says how many wait, the list has them, the newest first, what is not read marked; each leads to its
    message. While it is open it follows what comes, is edited and deleted. Nothing in it becomes markup."""
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, tmp_path / "files")
        await site.start()
        server = site.instances[0]
        alice, bob = await server.register("alice"), await server.register("bob")
        group, direct = await server.group(bob, alice), await server.direct(bob, alice)
        page = await enter(browser, site, alice)
        await page.see(".conversations a >> nth=1")
        await page.click("[aria-label=Mentions]")
        await page.see("dialog [role=status]:text-is('No message mentions you yet.')")
        await page.check()
        await page.press("Escape")
        async with server.connect(bob) as hub:

            async def mention(conversation: str, content: str, **more: object) -> str:
                message = {"conversationId": conversation, "content": content, **more}
                return str((await hub.invoke("SendMessage", message))["id"])

            first = await mention(direct, "hello @alice", mentions=[alice.id])
            await mention(group, "<b>@all</b>: lunch", mentionAll=True)
            await mention(group, "not for anybody")
            await page.see("[aria-label='Mentions, 2 unread']")
            await page.see(".conversations .badge.mentions:text-is('@1') >> nth=1")
            await page.press("Alt+A")
            await page.see(f"{FOUND}.unread mark:text-is('@alice')")
            assert [text.split("\n")[-2] for text in await page.texts(FOUND)] == ["<b>@all</b>: lunch", "hello @alice"]
            await page.shot("mentions")
            await page.check()
            second = await mention(group, "and @alice once more", mentions=[alice.id])
            await page.see(f"{FOUND}:has-text('once more')")
            await hub.invoke("EditMessage", second, "and no one once more", [], False)
            await page.gone(f"{FOUND}:has-text('once more')")
            await hub.invoke("EditMessage", first, "good morning, @alice")
            await page.click(f"{FOUND}:has-text('good morning') mark:text-is('@alice')")
            await page.until(
                "document.activeElement.closest('.message.mentioned')?.textContent.includes('good morning')"
            )
            await page.see("[aria-label='Mentions, 1 unread']")
            await page.click("[aria-label^=Mentions]")
            await page.see(f"{FOUND}.unread:has-text('lunch')")
            await page.see(f"{FOUND}:not(.unread):has-text('good morning')")
            await hub.invoke("DeleteMessage", first)
            await page.gone(f"{FOUND}:has-text('good morning')")
            assert not await page.evaluate("document.querySelectorAll('dialog b').length")
        await page.press("Escape")
        for width, dark in ((1280, True), (390, True), (390, False)):
            await page.do("size", width=width, height=800)
            await page.do("media", dark=dark)
            if width == 390 and await page.evaluate("location.hash.length > 2"):
                await page.click("[aria-label='All conversations']")
            await page.click("[aria-label^=Mentions]")
            await page.see(FOUND)
            await page.shot(f"mentions-{width}{'-dark' if dark else ''}")
            await page.check()
            assert await page.evaluate("document.documentElement.scrollWidth") == width
            await page.press("Escape")


async def test_a_large_group(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """Who is in it is offered behind an @, also the last of many, and is mentioned; who is not in it is not offered.
    One chooses by pointer as by keyboard."""
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, tmp_path / "files")
        await site.start()
        server = site.instances[0]
        alice = await server.register("alice")
        members: list[User] = [await server.register(f"member{number:02}") for number in range(MANY)]
        await server.register("memberless")
        group = await server.group(alice, *members)
        page = await enter(browser, site, alice)
        await page.click(".conversations a")
        await page.fill(INPUT, f"hello @member{MANY - 1}")
        await page.see(f"{LIST}:has-text('@member{MANY - 1}')")
        await page.check()
        await page.click(LIST)
        await page.until(f"document.querySelector('{INPUT}').value === 'hello @member{MANY - 1} '")
        await page.press("Enter", INPUT)
        await page.see(f".message:has-text('hello @member{MANY - 1}') .mark:not(.pending)")
        [sent] = await server.history(alice, group)
        assert sent["mentions"] == [members[-1].id]
        await page.fill(INPUT, "hello @member")
        await page.see(f"{LIST} >> nth=7")
        await page.shot("mention-list")
        assert not [text for text in await page.texts(LIST) if "memberless" in text]
        await page.press("ArrowDown", INPUT)
        await page.press("Tab", INPUT)
        await page.until(f"document.querySelector('{INPUT}').value.startsWith('hello @member0')")
