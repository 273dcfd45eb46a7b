"""Every error a client can meet, as data: one slug, its HTTP status, and what the client should do.

Owns the table and the exception that carries one of its rows. Touches nothing. REST shows a
row as RFC 9457 problem+json, the hub as ``"code: sentence"`` with the detail behind a line break; the slugs are the
same and stable, and so are the names of what is in the detail.
"""

import math
from typing import Any, NamedTuple

import msgspec

from store.errors import NoRoom, ObjectsFull, ObjectsUnavailable, Overloaded, RedisUnavailable, Unavailable
from store.model import Timestamp


class ErrorCode(NamedTuple):
    status: int
    title: str
    advice: str
    retry_after: float | None = None  # seconds that are suggested; clients add their own jitter


CODES: dict[str, ErrorCode] = {
    # The request is at fault: do not repeat it unchanged.
    "invalid_request": ErrorCode(400, "The request is malformed", "Correct it; `fields` names what is wrong."),
    "invalid_content": ErrorCode(400, "The message content is not acceptable", "Correct the content."),
    "invalid_cursor": ErrorCode(400, "The cursor is not one of ours", "Start from the first page."),
    "unauthenticated": ErrorCode(401, "No valid access token", "Sign in or refresh the token."),
    "forbidden": ErrorCode(403, "Not allowed", "Ask somebody with the role it needs."),
    "scope_required": ErrorCode(403, "The API key lacks a scope", "Use a key with the scope that the sentence names."),
    "banned": ErrorCode(403, "The account is banned", "Sign in again after `until`."),
    "invalid_claims": ErrorCode(
        403, "The token's claims do not describe a valid user", "Correct them at the issuer; `fields` names the claims."
    ),
    "mention_all_forbidden": ErrorCode(
        403, "Mentioning all members is not allowed", "Name some members, or ask an admin of the group."
    ),
    "posting_forbidden": ErrorCode(403, "Only admins send messages here", "Read along, or ask an admin of the group."),
    "recipient_unavailable": ErrorCode(
        403, "The other user does not accept this from you", "Try again another day, or leave it."
    ),
    "muted": ErrorCode(403, "The member is muted", "Read along until `until`."),
    "kept_out": ErrorCode(403, "The user is kept out of this group", "Ask an admin of the group."),
    "registration_closed": ErrorCode(
        403, "Registration is not open", "Sign in with a provider, or ask for an account."
    ),
    "not_found": ErrorCode(404, "No such thing, or not yours to see", "Forget the id."),
    "method_not_allowed": ErrorCode(405, "The method is not allowed here", "See `Allow`."),
    "timeout": ErrorCode(408, "The request was not received in time", "Send it again, at once."),
    "conflict": ErrorCode(409, "It conflicts with the current state", "Read the current state, then decide."),
    "thread_nested": ErrorCode(409, "A reply cannot have replies", "Reply to its root: the `threadId` it has."),
    "username_taken": ErrorCode(409, "The username is taken", "Choose another."),
    "last_owner": ErrorCode(409, "The last owner cannot leave", "Make somebody else an owner first."),
    "idempotency_mismatch": ErrorCode(422, "The Idempotency-Key was used for another request", "Make a new key."),
    "sign_in_failed": ErrorCode(400, "The sign-in did not work", "Begin again at /auth/login."),
    "gone": ErrorCode(410, "It was deleted", "Forget the id."),
    "precondition_failed": ErrorCode(412, "It was changed meanwhile", "Read it again, then retry with its ETag."),
    "too_large": ErrorCode(413, "Too large", "Send less; the sentence names the limit."),
    "unsupported_media_type": ErrorCode(415, "The content type is not supported", "Send application/json."),
    "rate_limited": ErrorCode(429, "Too many requests", "Wait as long as Retry-After says."),
    "slow_mode": ErrorCode(429, "The group is in slow mode", "Wait as long as Retry-After says."),
    # The server is at fault: the same request may work later.
    "internal": ErrorCode(500, "Something went wrong here", "Report the reference it names."),
    "unavailable": ErrorCode(503, "A service is out of reach", "Send the same request again after a moment.", 1),
    "overloaded": ErrorCode(503, "The server is too busy", "Send the same request again after a moment.", 1),
    "draining": ErrorCode(503, "The server is shutting down", "Connect again.", 1),
    # A person has to make room, and each attempt sends the whole file.
    "storage_full": ErrorCode(507, "There is no room for files", "Try again later, as Retry-After says.", 60),
}


class ChatError(Exception):
    """An error that is sent to the client as it stands: a code from CODES and one clear sentence."""

    def __init__(
        self,
        code: str,
        sentence: str,
        *,
        errors: dict[str, str] | None = None,
        retry_after: float | None = None,
        until: Timestamp | None = None,
    ) -> None:
        """`errors` names fields that are at fault; `retry_after` is in seconds, as the table has it if not given;
        `until` is when what forbids it is over."""
        if code not in CODES:
            raise ValueError(f"{code!r} is not in the table of error codes")
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence
        self.errors = errors or {}
        self.retry_after = CODES[code].retry_after if retry_after is None else retry_after
        self.until = until

    @property
    def detail(self) -> dict[str, Any]:
        """What a program needs besides the code, as it stands in REST's problems and the hub's errors."""
        return detail(self.retry_after, self.errors, self.until)

    def for_hub(self) -> str:
        """Return `code: sentence`, in one line; behind a line break the detail as JSON, where there is some.

        An official client passes on this one text: who shows it to people, or looks for the code in it, needs its first
        line, which is never anything else.
        """
        line = " ".join(str(self).splitlines())  # it may quote what the client has said
        more = self.detail
        return f"{line}\n{msgspec.json.encode(more).decode()}" if more else line


def detail(
    retry_after: float | None, errors: dict[str, str] | None = None, until: Timestamp | None = None
) -> dict[str, Any]:
    """Return the members of that name in a problem, or in an error of the hub. `retry_after` is in seconds."""
    found: dict[str, Any] = {}
    if retry_after is not None:
        found["retryAfterMs"] = math.ceil(retry_after * 1000)
    if until is not None:
        found["until"] = until
    if errors:
        found["fields"] = errors
    return found


def from_store(error: Unavailable | Overloaded) -> ChatError:
    """Return the error that a client sees for a fault in the store."""
    if isinstance(error, Overloaded):
        return ChatError("overloaded", "Too much is waiting to be written; nothing was done, try again.")
    if isinstance(error, ObjectsFull):
        sentence = "The file store has no room; nothing was kept, try again later."
        return ChatError("storage_full", sentence)
    if isinstance(error, NoRoom):
        return ChatError("unavailable", "The database has no room; nothing was done, try the same request again.")
    what = "The database"
    if isinstance(error, ObjectsUnavailable):
        what = "The file store"
    elif isinstance(error, RedisUnavailable):
        what = "What the servers share"
    return ChatError("unavailable", f"{what} is out of reach; try the same request again.")
