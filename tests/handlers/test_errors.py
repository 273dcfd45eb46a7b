"""handlers.errors: the errors that clients get."""

import json

import pytest

from handlers.errors import ChatError, from_store
from store.errors import NoRoom, ObjectsUnavailable, RedisUnavailable, Unavailable


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Unavailable("x"), "The database is out of reach"),
        (RedisUnavailable("x"), "What the servers share is out of reach"),
        (ObjectsUnavailable("x"), "The file store is out of reach"),
        (NoRoom("x"), "The database has no room; nothing was done"),
    ],
)
def test_whose_fault(error: Unavailable, said: str) -> None:
    """People learn which service is away, and none of its words."""
    found = from_store(error)
    assert found.code == "unavailable" and found.sentence.startswith(said) and "x" not in found.sentence.split()


@pytest.mark.parametrize(
    ("error", "line", "detail"),
    [
        (ChatError("forbidden", "No."), "forbidden: No.", None),
        (ChatError("rate_limited", "Wait.", retry_after=1.2341), "rate_limited: Wait.", {"retryAfterMs": 1235}),
        (ChatError("unavailable", "Away."), "unavailable: Away.", {"retryAfterMs": 1000}),
        (
            ChatError("invalid_request", "No.", errors={"a": "x\ny"}),
            "invalid_request: No.",
            {"fields": {"a": "x\ny"}},
        ),
        (ChatError("not_found", "No 'a\r\nb\u2028c'."), "not_found: No 'a b c'.", None),
    ],
)
def test_the_form_of_the_hub(error: ChatError, line: str, detail: object) -> None:
    """One line, `code: sentence`, whatever is quoted in it; where there is more for programs, one more, of JSON."""
    said, *more = error.for_hub().split("\n")
    assert said == line and [json.loads(text) for text in more] == ([] if detail is None else [detail])
