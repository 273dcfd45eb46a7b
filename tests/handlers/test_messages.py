"""handlers.messages: what is decided before anything is written."""

from typing import Any
from uuid import uuid4

import pytest
import trio

from handlers.errors import ChatError
from handlers.messages import MAX_CLIENT_ID, Messages
from handlers.model import Caller, CreateMessage
from handlers.rate_limits import Limiter, Rate

UNUSED: Any = None


class Lanes:
    def __init__(self) -> None:
        self.offered: list[str] = []

    def offer(self, append: Any) -> None:
        self.offered.append(append.content)


class Commits:
    async def run(self, write: Any) -> Any:
        await trio.lowlevel.checkpoint()


COMMITS: Any = Commits()


def test_a_message_keeps_its_appointment() -> None:
    """One that was refused and comes again with its clientMessageId is taken at its time: others of its sender, with an
    id of their own or without, do not take its place."""
    now = [0.0]
    lanes = Lanes()
    sends = Limiter[Any](Rate(200, 10.0), "messages", clock=lambda: now[0])
    messages = Messages(UNUSED, lanes, UNUSED, sends, max_message_bytes=1000)
    caller, group = Caller(user_id=uuid4(), expires_at=1e12), uuid4()

    def send(name: str | None, content: str = "x") -> float:
        request = CreateMessage(conversation_id=group, content=content, client_message_id=name)
        try:
            messages.send_nowait(caller, request, lambda outcome: None)
        except ChatError as error:
            assert error.retry_after is not None
            return error.retry_after
        return 0.0

    waits = {name: wait for name in map(str, range(260)) if (wait := send(name))}
    assert len(waits) == 60
    for name, wait in waits.items():
        now[0] = wait
        assert send(None, "in between") > 0 and send(f"another {name}", "in between") > 0
        assert send(name) == 0
    assert len(lanes.offered) == 260 and "in between" not in lanes.offered


async def test_edits_and_deletions_keep_theirs() -> None:
    """They are known again by their message."""
    now = [0.0]
    sends = Limiter[Any](Rate(1, 10.0), "messages", clock=lambda: now[0])
    messages = Messages(UNUSED, Lanes(), COMMITS, sends, max_message_bytes=1000)
    caller, one, two = Caller(user_id=uuid4(), expires_at=1e12), uuid4(), uuid4()
    await messages.edit(caller, uuid4(), "x")
    waits = []
    for refused in (messages.edit(caller, one, "x"), messages.delete(caller, two)):
        with pytest.raises(ChatError) as caught:
            await refused
        waits.append(caught.value.retry_after)
    assert waits == pytest.approx([10.0, 20.0])
    for now[0], again in ((10.0, messages.edit(caller, one, "x")), (20.0, messages.delete(caller, two))):
        with pytest.raises(ChatError):
            await messages.edit(caller, uuid4(), "in between")
        await again


def test_absurd_names_are_not_remembered() -> None:
    """What is no clientMessageId is none of a limiter's keys, however long."""
    sends = Limiter[Any](Rate(1, 10.0), "messages", clock=lambda: 0.0)
    messages = Messages(UNUSED, Lanes(), UNUSED, sends, max_message_bytes=1000)
    caller = Caller(user_id=uuid4(), expires_at=1e12)
    for name in ("first", "a" * (MAX_CLIENT_ID + 1)):
        request = CreateMessage(conversation_id=uuid4(), content="x", client_message_id=name)
        if name == "first":
            messages.send_nowait(caller, request, lambda outcome: None)
            continue
        with pytest.raises(ChatError, match="At most 1 messages"):
            messages.send_nowait(caller, request, lambda outcome: None)
    assert not sends._appointments
