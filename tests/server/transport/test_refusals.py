"""server.transport.refusal and server.rest.problems: the instructions of a refusal to a client."""

import json

import pytest
from quart import Quart

from handlers.errors import ChatError
from server.rest.problems import problem
from server.transport.refusal import refusal


@pytest.mark.parametrize(("wait", "shown"), [(0.1, "1"), (1.0, "1"), (1.2, "2"), (59.01, "60")])
async def test_retry_after_is_rounded_up(wait: float, shown: str) -> None:
    """Retry-After is rounded up, so that a client that waits for it is not refused for a fraction of a second; the body
    has the time to the millisecond."""
    answer = refusal(ChatError("rate_limited", "Slow down.", retry_after=wait), 429)
    assert answer.fields["Retry-After"] == shown and json.loads(answer.body)["retryAfterMs"] == wait * 1000
    async with Quart("test").test_request_context("/"):
        response = problem("rate_limited", "Slow down.", retry_after=wait)
        assert response.headers["Retry-After"] == shown
        assert json.loads(await response.get_data())["retryAfterMs"] == wait * 1000


async def test_what_is_away_comes_back() -> None:
    """A service that is out of reach suggests when to come again, wherever it is missed."""
    error = ChatError("unavailable", "Away.")
    answer = refusal(error, 503)
    async with Quart("test").test_request_context("/"):
        response = problem("unavailable", "Away.")
        assert response.headers["Retry-After"] == answer.fields["Retry-After"] == "1"
        for body in (answer.body, await response.get_data(), error.for_hub().split("\n")[1]):
            assert json.loads(body)["retryAfterMs"] == 1000
