"""Searching for messages in the page."""

from pathlib import Path

from tests.web.browser import Browser
from tests.web.steps import Others, join, say, shown, talk, two_instances, who

FOUND = ".found-message"
TEXTS = {"Meet at the Brücke": "brucke", "<img src=x onerror=attacked=1> bridge": "bridge", "something else": "else"}


async def test_search(database: str, redis_url: str, tmp_path: Path, browser: Browser) -> None:
    """Words are found in all conversations, marked, and lead to the message; nothing found becomes markup. What goes
    wrong is said, what is deleted meanwhile goes; one gets everywhere by keyboard. The dialog is accessible as far as
    axe can say."""
    async with two_instances(database, redis_url, tmp_path / "files") as site:
        alice, bob = await join(browser, site, "alice"), await join(browser, site, "bob")
        await talk(alice, bob)
        others, me = Others(site.instances[0]), await who(bob)
        for text, word in TEXTS.items():
            await say(alice, text)
            await others.until_found(me, text, word)
        await bob.see(".conversations a")
        await bob.click("[aria-label='Search messages']")
        await bob.fill("dialog input[type=search]", "brucke")
        await bob.see(f"{FOUND} mark:text-is('Brücke')")
        await bob.shot("search")
        await bob.check()
        await bob.click(FOUND)
        await bob.gone("dialog")
        await bob.see(".message:has-text('Meet at the')")
        await bob.until("document.activeElement.closest('.message')?.textContent.includes('Brücke')")
        await bob.press("Alt+S")
        await bob.fill("dialog input[type=search]", "bridge")
        await bob.see(f"{FOUND} mark:text-is('bridge')")
        assert await bob.evaluate("document.querySelectorAll('dialog img').length") == 0
        assert await bob.evaluate("globalThis.attacked ?? null") is None
        await bob.press("ArrowDown", "dialog input[type=search]")
        assert await bob.evaluate("document.activeElement.className") == "found-message"
        await bob.press("ArrowUp")
        assert await bob.evaluate("document.activeElement.type") == "search"
        await bob.do("refuse", pattern="**/api/search/**", **{"is": True})
        await bob.fill("dialog input[type=search]", "else")
        await bob.see("dialog [role=status]:text-is('Searching …')")
        await bob.see("dialog [role=status]:has-text('The search failed')")
        await bob.gone(FOUND)
        await bob.do("refuse", pattern="**/api/search/**", **{"is": False})
        await bob.click("dialog button:text-is('Try again')")
        await bob.see(f"{FOUND} mark:text-is('else')")
        await bob.check()
        await alice.hover(shown("something else"))
        await alice.click(".toolbar [aria-label=Delete]")
        await alice.click("dialog button.danger")
        await bob.gone(FOUND)  # what is deleted meanwhile is not offered any more
        await bob.see("dialog [role=status]:text-is('No message has these words.')")
        await bob.click("dialog label:has-text('Only in')")
        await bob.fill("dialog input[type=search]", "bridge")
        await bob.see(FOUND)
        await bob.fill("dialog input[type=search]", "nowhere")
        await bob.see("dialog [role=status]:text-is('No message has these words.')")
