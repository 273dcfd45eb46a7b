"""The description of a route: its answers, parameters, body and errors, for the OpenAPI document (`openapi`).

Owns the decorator that attaches the description to the view, and the parameters that many routes share. A described
body is also read and validated here, so that the description cannot differ from what is accepted.
"""

from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Any, NamedTuple

from handlers.model import MAX_REASON
from handlers.text_rules import DESCRIPTION
from server.rest.requests import DEFAULT_LIMIT, KEY, MAX_KEY, MAX_LIMIT, F, body

OPERATION = "parley_operation"  # the attribute of a view
LEFT_OUT = "parley_left_out"
JSON = "application/json"
MAX_SEQ = 2**62
UUID_SCHEMA = {"type": "string", "format": "uuid"}

Schema = dict[str, Any]


class Parameter(NamedTuple):
    name: str
    where: str  # "query" or "header"; those in the path are known by their names
    schema: Schema
    description: str
    is_required: bool = False


class Answer(NamedTuple):
    """A success. `headers` name rows of `HEADERS`."""

    status: int
    body: type | None
    description: str
    headers: tuple[str, ...] = ()
    media: str = JSON


class Operation(NamedTuple):
    answers: tuple[Answer, ...]
    parameters: tuple[Parameter, ...]
    takes: type | None
    form: Schema | None
    refuses: tuple[str, ...]
    takes_token_in_query: bool


HEADERS: dict[str, tuple[Schema, str]] = {
    "ETag": ({"type": "string", "pattern": '^"[!-~]*"$'}, "For If-Match and If-None-Match."),
    "Location": ({"type": "string", "format": "uri-reference"}, "Where it is."),
}


def operation(
    *answers: Answer,
    parameters: tuple[Parameter, ...] = (),
    takes: type | None = None,
    form: Schema | None = None,
    refuses: tuple[str, ...] = (),
    takes_token_in_query: bool = False,
) -> Callable[[F], F]:
    """Describe a view. The first line of its docstring is the summary, the rest the description.

    `takes` is the type of its JSON body, which the view gets as `data`. `refuses` are the error codes
    (`handlers.errors`) that it may answer, besides those that follow from its parameters and body.
    """
    said = Operation(answers, parameters, takes, form, refuses, takes_token_in_query)

    def describe(view: F) -> F:
        if takes is None:
            setattr(view, OPERATION, said)
            return view

        @wraps(view)
        async def read(*args: Any, **options: Any) -> Any:
            return await view(*args, data=await body(takes), **options)

        setattr(read, OPERATION, said)
        return read  # type: ignore[return-value]  # without `data`, which comes from here

    return describe


def left_out(reason: str) -> Callable[[F], F]:
    """Mark a route that is no part of the described API."""

    def mark(view: F) -> F:
        setattr(view, LEFT_OUT, reason)
        return view

    return mark


def done(description: str = "Done.") -> Answer:
    return Answer(HTTPStatus.NO_CONTENT, None, description)


def query(name: str, schema: Schema, description: str, *, is_required: bool = False) -> Parameter:
    return Parameter(name, "query", schema, description, is_required)


def cursor_parameter(pattern: str) -> Parameter:
    schema = {"type": "string", "pattern": pattern}
    return query("cursor", schema, "The `next` of the previous page. Empty: the first page.")


LIMIT = query(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    "How many items a page has at most.",
)
ID_CURSOR = cursor_parameter("^(?:[A-Za-z0-9_-]{21}[AQgw])?$")
TEXT_CURSOR = cursor_parameter("^(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2,3})?$")
SEQ = {"type": "integer", "minimum": 0, "maximum": MAX_SEQ}
IF_MATCH = Parameter(
    "If-Match", "header", {"type": "string"}, "Apply the change only if the current ETag is one of these; else 412."
)
IF_NONE_MATCH = Parameter(
    "If-None-Match",
    "header",
    {"type": "string"},
    "Answer with content only if the ETag is none of these; else 304.",
)
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "header",
    {"type": "string", "pattern": f"^{KEY}$", "minLength": 1, "maxLength": MAX_KEY},
    "Makes the request safe to repeat: with the same key it is done once. For another request: 422.",
)
# Where repeating the request is safe by itself.
REASON = query(
    "reason",
    {"type": "string", "minLength": 1, "maxLength": MAX_REASON, "pattern": f"^{DESCRIPTION}$"},
    "Why, for the audit log.",
)
UNUSED_KEY = IDEMPOTENCY_KEY._replace(description="Taken, and of no use: the request is safe to repeat without it.")
PAGE = (LIMIT, ID_CURSOR)
