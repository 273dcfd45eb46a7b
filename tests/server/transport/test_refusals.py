"""server.transport.listener and server.rest.problems: the instructions of a refusal to a client."""

import pytest
from quart import Quart

from handlers.errors import ChatError
from server.rest.problems import problem
from server.transport.listener import refusal


@pytest.mark.parametrize(("wait", "shown"), [(0.1, "1"), (1.0, "1"), (1.2, "2"), (59.01, "60")])
async def test_retry_after_is_rounded_up(wait: float, shown: str) -> None:
    """Retry-After is rounded up, so that a client that waits for it is not refused for a fraction of a second."""
    answer = refusal(ChatError("rate_limited", "Slow down.", retry_after=wait), 429)
    assert answer.fields["Retry-After"] == shown
    async with Quart("test").test_request_context("/"):
        assert problem("rate_limited", "Slow down.", retry_after=wait).headers["Retry-After"] == shown
