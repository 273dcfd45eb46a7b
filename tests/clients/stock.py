"""People who chat with the official JavaScript client by the recipe of docs/hub.md: the program that is printed there,
a process for each of them.

Owns what a person sees by it: what it prints, and what they read from REST where it says that they have to. A person is
in one conversation, for the program does not print of which one a message is.
"""

import random
from pathlib import Path

import httpx
import psycopg
import trio

from tests.clients.live import Instances
from tests.interop.test_readme import Program, first_program
from tests.running import User, checked

PATIENCE = 5.0  # seconds until a request is made to another instance
READ = "read GET "


class Person:
    def __init__(self, user: User, conversation: str, servers: Instances, number: int) -> None:
        self.user = user
        self.conversation = conversation
        self._servers = servers
        self._url = f"http://127.0.0.1:{servers.ports[number % len(servers.ports)]}"
        self._program: Program | None = None
        self._is_over = trio.Event()
        self.is_talking = True
        self.sent: list[str] = []
        self.edits = 0
        self.resets = 0
        self.problems: list[str] = []
        self._printed: dict[int, str] = {}  # since they have read the conversation anew
        self._order: list[int] = []  # of these, as they came
        self._read: dict[int, str] = {}

    async def run(self, node: str, directory: Path) -> None:
        """Read what the program prints, until the person is over."""
        arguments = self._url, self.user.token, self.conversation
        async with first_program(node, directory, *arguments) as self._program, trio.open_nursery() as nursery:
            nursery.start_soon(self._look, self._program, nursery)
            await self._is_over.wait()
            nursery.cancel_scope.cancel()

    async def _look(self, program: Program, nursery: trio.Nursery) -> None:
        number = 0
        while True:
            line = await program.line(number)
            number += 1
            if line.startswith(READ):
                self.resets += 1
                self._printed, self._order, self._read = {}, [], {}
                nursery.start_soon(self._read_anew, self.resets)
                continue
            seq, _, content = line.partition(" ")
            if self._printed.get(int(seq)) == content:
                self.problems.append(f"shown twice: {line}")
            elif int(seq) not in self._printed:
                self._order.append(int(seq))
            self._printed[int(seq)] = content

    async def _read_anew(self, reset: int) -> None:
        """As the program says: what it prints from then on is newer."""
        while True:
            try:
                with trio.fail_after(PATIENCE):
                    server = self._servers.any()
                    found = await server.history(self.user, self.conversation, system=True)
                break
            except (httpx.HTTPError, AssertionError, trio.TooSlowError):
                await trio.sleep(0.1)  # that instance is away just now
        if reset == self.resets:
            self._read = {message["seq"]: message["content"] for message in found}

    async def talk(self, pause: float, dice: random.Random) -> None:
        while self.is_talking:
            assert self._program is not None
            self.sent.append(f"{self.user.name} {len(self.sent)}")
            await self._program.type(self.sent[-1])
            if len(self.sent) % 10 == 0:
                await self._edit_one()
            await trio.sleep(dice.uniform(0, 2 * pause))  # their own pace

    async def _edit_one(self) -> None:
        """Edit one's newest message, by REST: the program has no edits. It may be lost, or be none."""
        try:
            with trio.fail_after(PATIENCE):
                async with self._servers.any().http(self.user) as http:
                    query: dict[str, str | int] = {"conversationId": self.conversation, "limit": 50}
                    page = checked(await http.get("/api/messages", params=query))
                    own = [one for one in page["items"] if one["content"].startswith(f"{self.user.name} ")]
                    if own:
                        body = {"content": f"{own[0]['content']}, edited"}
                        self.edits += (await http.put(f"/api/messages/{own[0]['id']}", json=body)).is_success
        except (httpx.HTTPError, AssertionError, trio.TooSlowError):
            pass  # that instance is away just now

    @property
    def sees_something(self) -> bool:
        return bool(self._printed or self._read)

    @property
    def numbers(self) -> tuple[int, int, int]:
        """Messages sent, edits, resets."""
        return len(self.sent), self.edits, self.resets

    async def end(self) -> None:
        """Leave. The program ends when everything that was typed was answered, so nothing is pending then."""
        assert self._program is not None
        assert await self._program.end() == 0
        self._is_over.set()

    def compare(self, database: str, lost: list[str]) -> list[str]:
        """What is not as it should be."""
        with psycopg.connect(database) as conn:
            query = "SELECT seq, changed_seq, body FROM messages WHERE conversation_id = %s ORDER BY seq"
            rows = conn.execute(query, [self.conversation]).fetchall()
        true = {seq: content for seq, _, content in rows}
        shown = dict(sorted({**self._read, **self._printed}.items()))
        wrong = list(self.problems)
        if shown != true:
            differ = [seq for seq in {*shown, *true} if shown.get(seq) != true.get(seq)]
            wrong.append(str([(seq, shown.get(seq), true.get(seq)) for seq in sorted(differ)]))
        # What was changed later comes later.
        unchanged = {seq for seq, changed_seq, _ in rows if seq == changed_seq}
        order = [seq for seq in self._order if seq in unchanged]
        if order != sorted(order):
            wrong.append(f"in this order: {order}")
        contents = [content.split(",")[0] for content in true.values()]
        for content in self.sent:
            times = contents.count(content)
            # The program does not send again what the server has acknowledged and lost.
            if times > 1 or (not times and content not in lost):
                wrong.append(f"{content} is there {times} times")
        return [f"{self.user.name}: {problem}" for problem in wrong]
