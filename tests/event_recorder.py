"""The events that a client of the tests received, in order, and waiting for more of them."""

from typing import Any

import trio

WAIT = 300.0  # seconds: long past anything but a hang


def event_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The message of an answer to a send, an edit or a deletion, as its event has it."""
    message = dict(answer)
    assert message.pop("after") == message["changedSeq"] - 1
    return message


class EventRecorder:
    """Records the events that a client receives, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, list[Any]]] = []
        self._more = trio.Event()

    def __call__(self, target: str, arguments: list[Any]) -> None:
        self.events.append((target, arguments))
        self._more.set()

    def of(self, target: str) -> list[Any]:
        return [arguments[0] for name, arguments in self.events if name == target]

    @property
    def messages(self) -> list[Any]:
        return [message for message in self.of("ReceiveMessage") if message["type"] != "System"]

    async def until(self, count: int, target: str = "ReceiveMessage") -> list[Any]:
        with trio.fail_after(WAIT):
            while len(self.of(target)) < count:
                self._more = trio.Event()
                await self._more.wait()
        return self.of(target)
