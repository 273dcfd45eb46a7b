"""The one error that this library raises, and what its codes mean for a caller that would try again.

Owns the table of codes that are worth repeating, and how an error is read from a sentence, a problem document or the
fault of a network. Touches nothing.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

# Nothing is wrong with the request itself: the same again may work.
RETRYABLE = frozenset({"unavailable", "overloaded", "rate_limited", "internal", "draining", "timeout", "network"})

_CODED = re.compile(r"([a-z][a-z_]+): (.*)", re.DOTALL)
_DEFECT = "An unexpected error occurred invoking"


class ParleyError(Exception):
    """What did not work. `code` is stable, `message` is for people.

    The codes are those of the server (docs/hub.md), and of this library: `network` (the server is out of reach, or the
    connection was lost before the answer), `closed` (the chat was closed), `lagging` (an iterator was left unread),
    `store` (the store cannot be used), `outcome_unknown` (a message was sent so long ago that the server may not know
    it again, and is not in the history). `retry_after` is in seconds, `fields` says which fields are at fault, `until`
    when what forbids it is over: the last millisecond of the year 9999 is never.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retry_after: float | None = None,
        fields: Mapping[str, str] | None = None,
        until: str | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.fields = dict(fields or {})
        self.until = until

    @property
    def is_retryable(self) -> bool:
        return self.code in RETRYABLE

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_anew, (type(self), self.code, self.message, self.retry_after, self.fields, self.until)


class Lost(ParleyError):
    """The connection ended before the answer came: what was asked for may have been done."""

    def __init__(self, message: str = "the connection was lost before the answer came") -> None:
        super().__init__("network", message)


class NotUnderstood(ParleyError):
    """An answer is not what a server of Parley says. It may be of something in front of it."""

    def __init__(self, sentence: str, code: str = "internal", retry_after: float | None = None) -> None:
        super().__init__(code, sentence, retry_after=retry_after)


def _made_anew(
    kind: type[ParleyError],
    code: str,
    message: str,
    retry_after: float | None,
    fields: dict[str, str],
    until: str | None,
) -> ParleyError:
    error = kind.__new__(kind)
    ParleyError.__init__(error, code, message, retry_after=retry_after, fields=fields, until=until)
    return error


class _Detail(msgspec.Struct, rename="camel"):
    """What a program can know besides."""

    retry_after_ms: float | None = None
    until: str | None = None
    fields: dict[str, str] | None = None


class _Problem(_Detail, rename="camel"):
    code: str = ""
    detail: str = ""
    title: str = ""
    errors: dict[str, str] | None = None


def from_sentence(sentence: str) -> ParleyError:
    """Return the error of a hub's answer: `code: sentence` with a second line for programs where they can know more, or
    the sentence that a defect has."""
    line, _, further = sentence.partition("\n")
    try:
        detail = msgspec.json.decode(further or "{}", type=_Detail)
    except (msgspec.DecodeError, msgspec.ValidationError):
        line, detail = sentence, _Detail()
    match = _CODED.fullmatch(line)
    if match is None:
        return ParleyError("internal" if line.startswith(_DEFECT) else "invalid_request", line)
    wait = _seconds(detail.retry_after_ms)
    return ParleyError(match[1], match[2], retry_after=wait, fields=detail.fields, until=detail.until)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def from_response(status: int, headers: Mapping[str, str], body: bytes) -> ParleyError:
    """Return the error of an HTTP response: a problem document, or what its status says."""
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, msgspec.ValidationError):
        problem = _Problem()
    retry_after = _seconds(problem.retry_after_ms)
    if retry_after is None:
        try:
            retry_after = float(headers.get("Retry-After", ""))
        except ValueError:
            pass
    sentence = problem.detail or problem.title or f"the server answered with status {status}"
    if status == 404 and not problem.code:  # a balancer's, which has no server just then; or no Parley is there at all
        return NotUnderstood(sentence, "unavailable", retry_after)
    fields = problem.fields or problem.errors
    code = problem.code or _code_of(status)
    return ParleyError(code, sentence, retry_after=retry_after, fields=fields, until=problem.until)


def _code_of(status: int) -> str:
    """Return the code for a status whose body is not Parley's: a balancer's, or of another server altogether."""
    known = {401: "unauthenticated", 403: "forbidden", 408: "timeout", 413: "too_large"}
    if status == 429:
        return "rate_limited"
    return known.get(status, "unavailable" if status >= 500 else "invalid_request")
