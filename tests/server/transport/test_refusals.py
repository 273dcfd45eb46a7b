"""server.transport.listener and server.rest.problems: what a refusal tells a client to do."""

import pytest
from quart import Quart

from handlers.errors import ChatError
from server.rest.problems import problem
from server.transport.listener import refusal


@pytest.mark.parametrize(("wait", "told"), [(0.1, "1"), (1.0, "1"), (1.2, "2"), (59.01, "60")])
async def test_retry_after_is_rounded_up(wait: float, told: str) -> None:
    """Who waits as long as it was told to is let in: never a part of a second less."""
    answer = refusal(ChatError("rate_limited", "Slow down.", retry_after=wait), 429)
    assert answer.fields["Retry-After"] == told
    async with Quart("test").test_request_context("/"):
        assert problem("rate_limited", "Slow down.", retry_after=wait).headers["Retry-After"] == told
