"""A real Chromium for tests of the page: one process for a worker, a page for each person in a test.

Owns the process that has the browser, and for each test one (Node with Playwright) that has its pages in it, and the
commands that it takes. Each ends with its block, also when the test fails.
"""

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import trio

HERE = Path(__file__).parent
SHOTS = HERE / "shots"
STOP_TIMEOUT = 60.0  # seconds


class Browser:
    def __init__(self, process: trio.Process, takes_shots: bool) -> None:
        self._process = process
        self.takes_shots = takes_shots
        self._ids = count(1)
        self._answers: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._writing = trio.Lock()

    async def read(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        async for chunk in self._process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            for answer in map(json.loads, lines):
                self._answers.pop(answer["id"]).send_nowait(answer)
        for waiting in self._answers.values():
            waiting.close()

    async def call(self, command: str, **given: Any) -> Any:
        """Run a command of browser.mjs. Raises AssertionError with what it could not do."""
        number = next(self._ids)
        self._answers[number], receive = trio.open_memory_channel[dict[str, Any]](1)
        assert self._process.stdin is not None
        async with self._writing:
            await self._process.stdin.send_all(json.dumps({"id": number, "command": command, **given}).encode() + b"\n")
        answer = await receive.receive()
        assert "error" not in answer, f"{command} {given}: {answer['error']}"
        return answer["value"]

    async def open(self, name: str, url: str, **options: Any) -> "Page":
        await self.call("open", name=name, url=url, **options)
        return Page(self, name)

    async def tab(self, of: "Page", name: str, url: str) -> "Page":
        """Another tab of the same person in the same browser."""
        await self.call("tab", name=name, of=of.name, url=url)
        return Page(self, name)


class Page:
    """The page of one person."""

    def __init__(self, browser: Browser, name: str) -> None:
        self._browser = browser
        self.name = name

    async def do(self, command: str, **given: Any) -> Any:
        return await self._browser.call(command, name=self.name, **given)

    async def click(self, selector: str) -> None:
        await self.do("click", selector=selector)

    async def hover(self, selector: str) -> None:
        await self.do("hover", selector=selector)

    async def fill(self, selector: str, text: str) -> None:
        await self.do("fill", selector=selector, text=text)

    async def press(self, key: str, selector: str = "") -> None:
        await self.do("press", key=key, selector=selector)

    async def see(self, selector: str) -> None:
        """Wait until it is there to be seen."""
        await self.do("wait", selector=selector)

    async def gone(self, selector: str) -> None:
        """Wait until it is not to be seen any more; what follows from the end of a dialog is done then, too."""
        await self.do("wait", selector=selector, state="detached" if selector == "dialog" else "hidden")

    async def until(self, expression: str) -> None:
        await self.do("until", expression=expression)

    async def evaluate(self, expression: str) -> Any:
        return await self.do("evaluate", expression=expression)

    async def texts(self, selector: str) -> list[str]:
        found: list[str] = await self.do("texts", selector=selector)
        return found

    async def shot(self, title: str) -> None:
        """Keep a picture of it for people to look at, if they have asked for pictures."""
        if self._browser.takes_shots:
            await self.do("shot", path=str(SHOTS / f"{title}.png"))

    async def check(self, long: bool = False) -> None:
        """It is accessible as far as axe can say, and nothing went wrong in it. In a `long` one the contrast of
        texts that look alike is judged once."""
        for what in ("axe", "faults"):
            found = await self.do(what, long=long)
            assert not found, f"{self.name}, {what}: {found}"


@contextmanager
def start_chromium(node: str, chromium: str) -> Iterator[str]:
    """The address of a Chromium for many `open_browser`, one after the other."""
    with subprocess.Popen(
        [node, str(HERE / "chromium.mjs"), chromium], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address, "Chromium does not start; what it says is above"
            yield address
        finally:
            process.stdin.close()  # it closes the browser then
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.terminate()  # Playwright kills its browser when it is asked to end


@asynccontextmanager
async def open_browser(node: str, address: str, takes_shots: bool = False) -> AsyncIterator[Browser]:
    SHOTS.mkdir(exist_ok=True)  # git ignores it; what could not be done is shown there, too
    process = await trio.lowlevel.open_process(
        [node, str(HERE / "browser.mjs"), address], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    browser = Browser(process, takes_shots)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(browser.read)
            yield browser
            assert process.stdin is not None
            await process.stdin.aclose()  # it closes its pages then
            with trio.move_on_after(STOP_TIMEOUT):
                await process.wait()
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.terminate()
            with trio.move_on_after(STOP_TIMEOUT):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
