"""The reference at /docs in a real Chromium, on a phone and on a wide screen."""

from tests.site import Site
from tests.web.browser import Browser

PHONE, WIDE = 390, 1280  # CSS pixels
# What reaches beyond the screen, or has to be moved sideways to be read; what is smaller than one reads.
LOOK = """
(() => {
  const all = [...document.querySelectorAll("body *")].filter((one) => one.getBoundingClientRect().height);
  const text = (found) => found.slice(0, 5).map((one) => `${one.tagName}: ${one.textContent.trim().slice(0, 60)}`);
  return {
    wider: text(all.filter((one) => one.getBoundingClientRect().right > innerWidth + 1)),
    hidden: text([...document.querySelectorAll("main, pre")].filter((one) => one.scrollWidth > one.clientWidth + 1)),
    small: text(all.filter((one) => parseFloat(getComputedStyle(one).fontSize) < 12)),
    page: document.documentElement.scrollWidth - innerWidth,
  };
})()
"""


async def test_it_is_readable(site: Site, browser: Browser) -> None:
    """On a phone and on a wide screen nothing is cut off, examples wrap, no text is tiny, axe finds nothing wrong."""
    for width, dark in ((PHONE, False), (WIDE, True)):
        page = await browser.open(f"docs-{width}", f"{site.url}/docs", width=width, phone=width == PHONE, dark=dark)
        await page.until("document.readyState === 'complete'")  # with its styles
        await page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        assert await page.evaluate(LOOK) == {"wider": [], "hidden": [], "small": [], "page": 0}
        await page.check(long=True)
        await page.shot(f"docs-{width}")
