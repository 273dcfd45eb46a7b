"""Refuse a connection or an upgrade with an HTTP error, before any of the application has seen it.

Owns what such an answer has: its status, its code and text, and the fields that say what a client should do.
"""

import math

from handlers.errors import CODES, ChatError, detail
from server.protocol.http1 import head as http_head
from server.protocol.http1.head import BadRequest, Head

_FAULTS = {408: "timeout", 429: "rate_limited", 431: "too_large"}  # codes; of all others invalid_request


class Refusal(Exception):
    """An upgrade that is answered with an HTTP error."""

    def __init__(
        self,
        status: int,
        code: str,
        sentence: str,
        extra: dict[str, str] | None = None,
        *,
        retry_after: float | None = None,
        lingers: bool = True,
    ) -> None:
        """`retry_after` is in seconds, as the code has it if not given. `lingers`: give the client time to read the
        answer before closing."""
        super().__init__(sentence)
        retry_after = CODES[code].retry_after if retry_after is None else retry_after
        if retry_after is not None:
            extra = {**(extra or {}), "Retry-After": str(math.ceil(retry_after))}
        self.lingers = lingers
        self.status = status
        self.code = code
        self.fields, self.body = http_head.refusal(
            status, code, CODES[code].title, sentence, extra, detail(retry_after)
        )
        self.request_id = ""

    def belongs_to(self, request_id: str) -> None:
        """Answer with the id of the request, which is known further out than where it was refused."""
        self.request_id = request_id

    @property
    def answer(self) -> bytes:
        self.fields["X-Request-Id"] = self.request_id
        return http_head.response(self.status, self.fields, self.body)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The fields as ASGI headers, with lower-case names."""
        return [(name.lower().encode(), value.encode()) for name, value in self.fields.items()]


def require_upgrade(head: Head) -> None:
    """Raise Refusal if `head` is not a valid opening handshake."""
    fault = http_head.upgrade_error(head)
    if fault is not None:
        raise Refusal(fault[0], "invalid_request", fault[1])


def bad_request(fault: BadRequest) -> Refusal:
    retry_after = 5 if fault.status == 429 else None
    return Refusal(fault.status, _FAULTS.get(fault.status, "invalid_request"), str(fault), retry_after=retry_after)


def refusal(error: ChatError, status: int) -> Refusal:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return Refusal(status, error.code, error.sentence, headers, retry_after=error.retry_after)
