"""server.web.routes: the page and its files."""

import json
import re
from collections.abc import AsyncIterator
from html import unescape

import httpx
import pytest
import trio

from tests.site import Site, open_site

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
async def page(database: str, redis_url: str, nursery: trio.Nursery) -> AsyncIterator[Site]:
    async with open_site(database, redis_url, nursery, web="on") as site:
        yield site


async def test_the_page_and_its_files(page: Site) -> None:
    """The page is asked for anew, its files never change under their names; both are small for those who have them;
    nothing else can be reached; and what the server offers stands in the page."""
    index = await page.http.get("/", headers=HTML)
    assert index.status_code == 200 and index.headers["Content-Type"] == "text/html; charset=utf-8"
    assert index.headers["Cache-Control"] == "no-cache" and index.headers["X-Content-Type-Options"] == "nosniff"
    assert "script-src 'self';" in index.headers["Content-Security-Policy"]
    assert index.headers["Referrer-Policy"] == "no-referrer"
    assert not re.search(r"<script(?![^>]* src=)|<style| on\w+=| style=", index.text)
    again = await page.http.get("/", headers={**HTML, "If-None-Match": index.headers["ETag"]})
    assert again.status_code == 304 and not again.content
    said = re.search(r'<meta name="parley" content="([^"]*)">', index.text)
    assert said is not None and json.loads(unescape(said[1]))["registration"] == "open"

    [script] = re.findall(r'<script type="module" src="([^"]+)"', index.text)
    addresses = re.findall(r'(?:src|href)="(/web/[^"]+)"', index.text)
    assert len(addresses) > 20
    for address in addresses:
        file = await page.http.get(address)
        assert file.status_code == 200 and file.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert file.headers["Content-Encoding"] == "gzip" and "Accept-Encoding" in file.headers["Vary"]
        head = await page.http.head(address)
        assert head.status_code == 200 and not head.content
        assert head.headers["Content-Length"] == file.headers["Content-Length"]
    plain = await page.http.get(script, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers and plain.headers["ETag"] != head.headers["ETag"]

    other_build = await page.http.get(re.sub(r"/web/\w+/", "/web/0123456789abcdef/", script))
    assert other_build.status_code == 200 and other_build.headers["Cache-Control"] == "no-cache"
    base = script.rpartition("/")[0]
    for path in ("/../app.js", "/%2e%2e/files.py", "/client/../../files.py", "/", "/client", "//etc/passwd", "/APP.JS"):
        assert (await raw(page, base + path)).status_code in (404, 308), path


async def raw(site: Site, path: str) -> httpx.Response:
    """Ask for a path as it is: a client would tidy it up."""
    request = site.http.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    return await site.http.send(request)


async def test_where_it_is_off(site: Site) -> None:
    """Nothing of it is there."""
    home = await site.http.get("/", headers=HTML)
    assert "script" not in home.text
    assert (await site.http.get("/web/x/app.js", headers=HTML)).status_code == 404
