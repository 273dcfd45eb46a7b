"""From a list to the message: in the page, wherever it stands in the history."""

import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.web.browser import Browser, Page
from tests.web.steps import Site, enter, shown

Invoke = Callable[..., Awaitable[Any]]
COUNT = 1200  # messages: more than are loaded to get to one of them
FAR = 20
PINS = ".details [aria-label='Pinned messages']"
FOCUSED = "document.activeElement.closest('.message')?.querySelector('.content')?.textContent"
IN_PAST = "!document.querySelector('.timeline-bottom').hidden"
TO_END = f"(document.querySelector('.timeline').scrollTo(0, 1e9), !({IN_PAST}))"
# What is shown from the beginning to the end, in its order.
ALL = """
(async () => {
  const timeline = document.querySelector(".timeline");
  const found = new Set();
  for (timeline.scrollTop = 0; ; timeline.scrollTop += 1000) {
    for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame); // it is laid out by then
    for (const one of document.querySelectorAll(".message .content")) found.add(one.textContent);
    if (timeline.scrollTop + timeline.clientHeight > timeline.scrollHeight - 10) return [...found];
  }
})()
"""


async def test_a_pin_leads_to_its_message(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """However far back it is, it is shown where it stands, with what is around it and without all that is between; what
    changes there is seen. From there one gets to the newest at once, or by reading on, and nothing is left out then.
    The open list follows what is pinned, edited, unpinned and deleted, and says what is so where it cannot be read."""
    async with AsyncExitStack() as stack:
        site = Site(stack, database, redis_url, tmp_path / "files")
        await site.start()
        server = site.instances[0]
        alice, bob = await server.register("alice"), await server.register("bob")
        chat = await server.direct(alice, bob)
        async with server.connect(bob) as hub:
            said = {"conversationId": chat}
            sent = [await hub.invoke("SendMessage", said | {"content": f"message {n}"}) for n in range(COUNT)]
            await hub.invoke("Pin", sent[FAR]["id"])
            async with server.connect(alice) as reader:
                await reader.invoke("MarkRead", chat, sent[-1]["seq"])
            page = await enter(browser, site, alice)
            await page.click(".conversations a")
            await page.see(shown(f"message {COUNT - 1}"))
            await page.click("[aria-label='About this conversation']")
            await page.click(f"{PINS} button:text-is('Show')")
            await page.click(f"{PINS} .found-message:has-text('message {FAR}')")
            await page.until(f"{FOCUSED} === 'message {FAR}'")
            assert await page.evaluate(IN_PAST)
            await page.see(shown(f"message {FAR + 1}"))
            await page.shot("pins")
            await page.check()
            await hub.invoke("EditMessage", sent[FAR + 1]["id"], "far back, and changed")
            await page.see(".message:has-text('far back, and changed')")
            newest = await hub.invoke("SendMessage", said | {"content": "the newest"})
            await page.see(".latest:has-text('1 new message')")
            assert not await page.evaluate("document.querySelector('.messages').textContent.includes('the newest')")
            await page.click(".latest")
            await page.see(shown("the newest"))
            assert not await page.evaluate(IN_PAST)

            await page.click(f"{PINS} .found-message")
            await page.until(f"{FOCUSED} === 'message {FAR}'")
            await page.until(TO_END)
            await page.see(shown("the newest"))
            expected = [f"message {n}" for n in range(COUNT)] + ["the newest"]
            expected[FAR + 1] = "far back, and changed (edited)"
            assert await page.evaluate(ALL) == expected

            await pins_follow(page, hub.invoke, sent[FAR]["id"], newest["id"])


async def pins_follow(page: Page, invoke: Invoke, old: str, new: str) -> None:
    await invoke("Pin", new)
    await page.see(f"{PINS} li >> nth=1")
    assert [text.split("\n")[-1] for text in await page.texts(f"{PINS} .found-message")] == [
        "the newest",
        f"message {FAR}",
    ]
    chosen = f"{PINS} [data-focus='pin-{old}']"
    await page.evaluate(f"document.querySelector({json.dumps(chosen)}).focus()")
    await invoke("EditMessage", new, "<img src=x onerror=globalThis.attacked=1>")
    await page.see(f"{PINS} .excerpt:has-text('<img')")
    assert await page.evaluate("document.activeElement.dataset.focus") == f"pin-{old}"
    await invoke("DeleteMessage", new)
    await page.gone(f"{PINS} .excerpt:has-text('<img')")
    await page.click(f"{PINS} [aria-label=Unpin]")
    await page.see(f"{PINS} [role=status]:text-is('Nothing is pinned.')")
    assert await page.evaluate("globalThis.attacked ?? null") is None
    await page.click(f"{PINS} button:text-is('Hide')")
    await page.do("refuse", pattern="**/pins?*", **{"is": True})
    await page.click(f"{PINS} button:text-is('Show')")
    await page.see(f"{PINS} [role=status]:has-text('could not be read')")
    await page.do("refuse", pattern="**/pins?*", **{"is": False})
    await invoke("Pin", old)
    await page.click(f"{PINS} button:text-is('Try again')")
    await page.see(f"{PINS} .excerpt:text-is('message {FAR}')")
    await page.check()
