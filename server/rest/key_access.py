"""What API keys may do: the scope that each route needs, and the user for whom a request is made.

Owns the table `ROUTES`. A route that is not in it is refused to keys; a test wants each route in one of the two tables
here, so that a new one is decided on.

A key is no user. A request names the user for whom it is made (`X-Parley-User`, `X-Parley-External-User`), which needs
users:act, or it is made as the user to whom the key belongs, if it belongs to one. Routes that are `alone` need no
user.
"""

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from quart import g, request

from handlers.api_keys import Grant, require_scope
from handlers.errors import ChatError
from handlers.model import Caller
from handlers.provisioning import Provisioning
from handlers.users import Users
from server.rest.requests import caller

NO_USER = UUID(int=0)  # the caller's, of a request that is made for no user
BY_ID, BY_EXTERNAL_ID = "X-Parley-User", "X-Parley-External-User"
ACT = "users:act"


class Needed(NamedTuple):
    scope: str
    is_alone: bool = False  # it may be made for no user


_READ_USERS, _WRITE_USERS = Needed("users:read"), Needed("users:write")
_READ, _SEND = Needed("messages:read"), Needed("messages:send")
_READ_CHATS, _WRITE_CHATS = Needed("conversations:read"), Needed("conversations:write")

# By method and path, as they are registered.
ROUTES: Mapping[str, Needed] = {
    "PUT /api/users/by-external-id/{external_id}": Needed("users:write", is_alone=True),
    "GET /api/users/by-external-id/{external_id}": Needed("users:read", is_alone=True),
    "POST /api/users/batch": Needed("users:write", is_alone=True),
    "POST /api/users/{user_id}/tokens": Needed("tokens:mint", is_alone=True),
    "DELETE /api/users/{user_id}/tokens": Needed("tokens:mint", is_alone=True),
    "GET /api/users": Needed("users:read", is_alone=True),
    "GET /api/users/{user_id}": Needed("users:read", is_alone=True),
    "DELETE /api/users/{user_id}": Needed("users:write", is_alone=True),
    "GET /api/users/{user_id}/standing": _READ_USERS,
    "POST /api/reports": _SEND,
    "GET /api/reports": _READ_USERS,
    "PUT /api/reports/{report_id}/resolution": _WRITE_USERS,
    "GET /api/users/me/reports": _READ_USERS,
    "PUT /api/users/{user_id}/ban": _WRITE_USERS,
    "DELETE /api/users/{user_id}/ban": _WRITE_USERS,
    "DELETE /api/users/{user_id}/sessions": _WRITE_USERS,
    "PUT /api/users/{user_id}/name": _WRITE_USERS,
    "GET /api/users/me": _READ_USERS,
    "PUT /api/users/me": _WRITE_USERS,
    "GET /api/users/me/privacy": _READ_USERS,
    "PUT /api/users/me/privacy": _WRITE_USERS,
    "GET /api/users/me/blocks": _READ_USERS,
    "PUT /api/users/me/blocks/{user_id}": _WRITE_USERS,
    "DELETE /api/users/me/blocks/{user_id}": _WRITE_USERS,
    "PUT /api/users/status": _WRITE_USERS,
    "GET /api/users/me/unread": _READ,
    "GET /api/messages": _READ,
    "POST /api/messages": _SEND,
    "GET /api/messages/{message_id}": _READ,
    "PUT /api/messages/{message_id}": _SEND,
    "DELETE /api/messages/{message_id}": _SEND,
    "PUT /api/messages/{message_id}/status": _SEND,
    "GET /api/messages/{message_id}/receipts": _READ,
    "GET /api/messages/{message_id}/reactions": _READ,
    "PUT /api/messages/{message_id}/reactions/{emoji}": _SEND,
    "DELETE /api/messages/{message_id}/reactions/{emoji}": _SEND,
    "PUT /api/messages/{message_id}/pin": _SEND,
    "DELETE /api/messages/{message_id}/pin": _SEND,
    "GET /api/messages/{message_id}/replies": _READ,
    "GET /api/threads": _READ,
    "GET /api/threads/{thread_id}": _READ,
    "PUT /api/threads/{thread_id}/read": _SEND,
    "PUT /api/threads/{thread_id}/following": _SEND,
    "DELETE /api/threads/{thread_id}/following": _SEND,
    "GET /api/mentions": _READ,
    "GET /api/search/messages": _READ,
    "POST /api/files/upload": _SEND,
    "POST /api/files/presign": _SEND,
    "POST /api/files/{file_id}/complete": _SEND,
    "DELETE /api/files": _SEND,
    "GET /api/files/presigned-url": _READ,
    "GET /api/files/{file_key}": _READ,
    "GET /api/conversations": _READ_CHATS,
    "POST /api/conversations": _WRITE_CHATS,
    "GET /api/conversations/{conversation_id}": _READ_CHATS,
    "PUT /api/conversations/{conversation_id}": _WRITE_CHATS,
    "DELETE /api/conversations/{conversation_id}": _WRITE_CHATS,
    "PUT /api/conversations/{conversation_id}/settings": _WRITE_CHATS,
    "GET /api/conversations/{conversation_id}/pins": _READ,
    "GET /api/conversations/{conversation_id}/members": _READ_CHATS,
    "POST /api/conversations/{conversation_id}/members": _WRITE_CHATS,
    "DELETE /api/conversations/{conversation_id}/members/{user_id}": _WRITE_CHATS,
    "PUT /api/conversations/{conversation_id}/members/{user_id}/role": _WRITE_CHATS,
    "PUT /api/conversations/{conversation_id}/members/{user_id}/mute": _WRITE_CHATS,
    "DELETE /api/conversations/{conversation_id}/members/{user_id}/mute": _WRITE_CHATS,
    "GET /api/conversations/{conversation_id}/bans": _READ_CHATS,
    "PUT /api/conversations/{conversation_id}/bans/{user_id}": _WRITE_CHATS,
    "DELETE /api/conversations/{conversation_id}/bans/{user_id}": _WRITE_CHATS,
    "PUT /api/conversations/{conversation_id}/name": _WRITE_CHATS,
    "GET /api/conversations/{conversation_id}/links": _READ_CHATS,
    "POST /api/conversations/{conversation_id}/links": _WRITE_CHATS,
    "DELETE /api/conversations/{conversation_id}/links/{link_id}": _WRITE_CHATS,
    "POST /api/conversations/{conversation_id}/join": _WRITE_CHATS,
    "GET /api/groups": _READ_CHATS,
    "POST /api/join": _WRITE_CHATS,
}
WEBHOOKS = "webhooks are set up by administrators themselves"
# What no key may do, with the reason.
REFUSED: Mapping[str, str] = {
    "GET /api/users/me/export": "all data of a user at once is for the user",
    "GET /api/webhooks": WEBHOOKS,
    "POST /api/webhooks": WEBHOOKS,
    "GET /api/webhooks/{webhook_id}": WEBHOOKS,
    "PUT /api/webhooks/{webhook_id}": WEBHOOKS,
    "DELETE /api/webhooks/{webhook_id}": WEBHOOKS,
    "POST /api/webhooks/{webhook_id}/secret": WEBHOOKS,
    "GET /api/webhooks/{webhook_id}/dead-letters": WEBHOOKS,
    "POST /api/webhooks/{webhook_id}/replay": WEBHOOKS,
    "PUT /api/users/{user_id}/role": "roles are given by administrators themselves",
    "GET /api/audit": "the audit log is for administrators themselves",
    "POST /auth/logout": "a key has no session",
    "GET /auth/sessions": "sessions are the user's own to see",
    "DELETE /auth/sessions/{session_id}": "an application ends those of a user with DELETE /api/users/{user_id}/tokens",
}


def needed(method: str, path: str) -> Needed | None:
    """Return what a key needs for this route; None if it is refused to keys."""
    return ROUTES.get(f"{'GET' if method == 'HEAD' else method} {path}")


def require(grant: Grant, method: str, path: str) -> Needed:
    """Raises ChatError("forbidden"), ChatError("scope_required")."""
    found = needed(method, path)
    if found is None:
        raise ChatError("forbidden", "API keys are not accepted here; send the access token of a user.")
    require_scope(grant, found.scope)
    return found


async def find_user(grant: Grant, wanted: Needed, provisioning: Provisioning) -> UUID:
    """Return the user for whom the request is made; NO_USER if it is for none. Raises ChatError."""
    by_id, by_external_id = request.headers.get(BY_ID), request.headers.get(BY_EXTERNAL_ID)
    if by_id is not None or by_external_id is not None:
        require_scope(grant, ACT)
    if by_id is not None and by_external_id is not None:
        sentence = f"one of {BY_ID} and {BY_EXTERNAL_ID}"
        raise ChatError("invalid_request", f"Send {sentence}.", errors={BY_ID: sentence})
    if by_external_id is not None:
        return await provisioning.find(external_id=by_external_id)
    if by_id is not None:
        try:
            user_id = UUID(by_id)
        except ValueError:
            raise ChatError("invalid_request", f"{BY_ID} is not a UUID.", errors={BY_ID: "not a UUID"}) from None
        return await provisioning.find(user_id=user_id)
    if grant.user_id is not None:
        return await provisioning.find(user_id=grant.user_id)
    if not wanted.is_alone:
        sentence = f"{BY_ID} or {BY_EXTERNAL_ID}"
        raise ChatError(
            "invalid_request",
            f"An API key is no user: name the one for whom this is done ({sentence}).",
            errors={BY_ID: "required with an API key that belongs to no user"},
        )
    return NO_USER


def is_application() -> bool:
    """Whether the request has an API key, which has the scope that its route needs."""
    return g.get("grant") is not None


async def require_application(users: Users) -> Caller | None:
    """Let applications pass, and administrators, who may do what applications may. Return the administrator: the
    transaction that writes looks up their role once more. Raises ChatError("forbidden")."""
    if is_application():
        return None
    if not await users.is_administrator(caller()):
        raise ChatError("forbidden", "This is for applications: send an API key.")
    return caller()


def acting_as() -> str:
    """Return who did it, for the log and for the user's list of sessions: the key's name, or an administrator."""
    grant: Grant | None = g.get("grant")
    return "an administrator" if grant is None else grant.name
