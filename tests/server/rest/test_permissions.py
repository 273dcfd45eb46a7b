"""Permissions: every role on every route and hub method, with ids of things that exist.

Routes and methods are taken from the process's own tables, so that a new one without a rule fails here.
"""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import cycle, product
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import httpx
import jwt
import pytest
import trio

from handlers.api_keys import SCOPES
from loadtest.client import ClientError, HubClient, HubError
from server.hub.dispatch import STREAM
from server.identity.access_tokens import mint_token
from server.rest import key_access
from server.rest.request_log import template
from tests import transports
from tests.running import JWT_KEY
from tests.server.rest.routes.test_provisioning import make_key
from tests.site import Site, open_site

OK = "ok"
# In a group, or not; and of the whole service, who are not in it.
PEOPLE = ("stranger", "removed", "member", "blocked", "admin", "owner", "moderator", "administrator")
OUTSIDE = ("stranger", "removed", "moderator", "administrator")
# Kinds of invalid tokens: each is answered 401 on every route.
INVALID_TOKENS = (
    "no token",
    "expired",
    "another audience",
    "another issuer",
    "unknown user",
    "deleted user",
    "ended session",
)


class Rule(NamedTuple):
    """The expected answer for each of PEOPLE: OK, or an error code.

    `ask` makes the request: (path, body) for REST, the arguments for the hub, with ids from the world.
    """

    answers: Mapping[str, str]
    ask: Callable[[Mapping[str, str]], Any]
    changes: Callable[["World", str], Awaitable[None]] | None = None  # restores the world after a permitted request


def who(member: str = OK, admin: str = OK, owner: str = OK, outside: str = "not_found") -> dict[str, str]:
    """For users who are not members, the thing does not exist. A member whom another one has blocked is as any."""
    inside = {"member": member, "blocked": member, "admin": admin, "owner": owner}
    return {**dict.fromkeys(OUTSIDE, outside), **inside}


def moderates(member: str = OK, admin: str = OK, owner: str = OK) -> dict[str, str]:
    """What moderators of the service may in any conversation, and in a group its own people by their roles there."""
    return {**who(member, admin, owner), "moderator": OK, "administrator": OK}


def unless_blocked(answer: str = OK) -> dict[str, str]:
    """What everybody may, but for the one whom `peer` has blocked."""
    return {**dict.fromkeys(PEOPLE, answer), "blocked": "recipient_unavailable"}


def service(moderator: str = OK, administrator: str = OK) -> dict[str, str]:
    """What only moderators or administrators of the service may, whatever others are in a group."""
    return {**dict.fromkeys(PEOPLE, "forbidden"), "moderator": moderator, "administrator": administrator}


async def accept(world: "World", name: str) -> None:
    """Everything still exists; only the head of the conversation, or its name, differs."""
    world.head = await world.look()


async def say_again(world: "World", name: str) -> None:
    """Create two messages again, one of which may be gone. Moderators of the service are not in the group."""
    await world.say(*(one for one in (name, "peer") if one not in OUTSIDE))
    world.head = await world.look()


async def replace_victim(world: "World", name: str) -> None:
    """Another user is there to act on."""
    await world.register("victim")
    world.head = await world.look()


async def build_again(world: "World", name: str) -> None:
    """Create the group again, as its members and roles may have changed."""
    await world.build()


EVERYONE = dict.fromkeys(PEOPLE, OK)
NO_ONE = dict.fromkeys(PEOPLE, "not_found")


def at(path: str, body: Any = None, **options: Any) -> Callable[[Mapping[str, str]], Any]:
    """Make a request: {names} in the path and in texts of the body are replaced by ids from the world."""

    def fill(value: Any, world: Mapping[str, str]) -> Any:
        if isinstance(value, dict):
            return {key: fill(each, world) for key, each in value.items()}
        if isinstance(value, list):
            return [fill(each, world) for each in value]
        return value.format(**world) if isinstance(value, str) else value

    return lambda world: (path.format(**world), fill(body, world), {k: fill(v, world) for k, v in options.items()})


# Routes that need no token, with the reason. All others are tested with INVALID_TOKENS, too.
REVEALING = (
    "POST /api/join",
    "GET /api/audit",
    "GET /api/reports",
    "DELETE /api/messages/{messageId}",
)  # to who joins, or has the role
OPEN = {
    "POST /api/users": "registration, by the setting",
    "GET /auth/login/{provider}": "the way in",
    "GET /auth/callback/{provider}": "the way in, by its own cookie",
    "POST /auth/exchange": "the way in, by a code",
    "POST /auth/refresh": "by the refresh token",
    "GET /health": "says no addresses",
    "GET /health/live": "says no addresses",
    "GET /health/ready": "says no addresses",
    "GET /openapi.json": "the API's description",
    "GET /asyncapi.json": "the hub's description",
    "GET /": "where to go from here",
    "GET /docs": "the same for people",
    "GET /docs/style.css": "the same for people",
    "PUT /objects/{key}": "a signed link",
    "GET /objects/{key}": "a signed link",
}
GROUP, MESSAGE = "/api/conversations/{conversation}", "/api/messages/{theirs}"
MEMBERS = f"{GROUP}/members"
VICTIM = "/api/users/{victim}"
TEXT = {"content": "x"}
NOT_APPLICATIONS = {**dict.fromkeys(PEOPLE, "forbidden"), "administrator": OK}
HOOK = "/api/webhooks/{theirs}"  # of which there is none
RULES: dict[str, list[Rule]] = {
    "GET /api/webhooks": [Rule(service("forbidden"), at("/api/webhooks"))],
    "POST /api/webhooks": [Rule(service("forbidden"), at("/api/webhooks", {"url": "https://app.example/"}))],
    "GET /api/webhooks/{webhookId}": [Rule(service("forbidden", "not_found"), at(HOOK))],
    "PUT /api/webhooks/{webhookId}": [Rule(service("forbidden", "not_found"), at(HOOK, {"state": "Paused"}))],
    "DELETE /api/webhooks/{webhookId}": [Rule(service("forbidden", "not_found"), at(HOOK))],
    "POST /api/webhooks/{webhookId}/secret": [Rule(service("forbidden", "not_found"), at(f"{HOOK}/secret"))],
    "GET /api/webhooks/{webhookId}/dead-letters": [Rule(service("forbidden", "not_found"), at(f"{HOOK}/dead-letters"))],
    "POST /api/webhooks/{webhookId}/replay": [Rule(service("forbidden", "not_found"), at(f"{HOOK}/replay", {}))],
    "PUT /api/users/by-external-id/{externalId}": [
        Rule(NOT_APPLICATIONS, at("/api/users/by-external-id/{external}", {"displayName": "x"}))
    ],
    "GET /api/users/by-external-id/{externalId}": [Rule(NOT_APPLICATIONS, at("/api/users/by-external-id/{external}"))],
    "POST /api/users/batch": [
        Rule(NOT_APPLICATIONS, at("/api/users/batch", {"users": [{"externalId": "{external}"}]}))
    ],
    "POST /api/users/{userId}/tokens": [
        Rule(NOT_APPLICATIONS, at("/api/users/{me}/tokens", {})),
        Rule(NOT_APPLICATIONS, at("/api/users/{peer}/tokens", {})),
    ],
    "DELETE /api/users/{userId}/tokens": [Rule(NOT_APPLICATIONS, at("/api/users/{me}/tokens"))],
    "GET /api/users": [Rule(EVERYONE, at("/api/users"))],
    "GET /api/users/me": [Rule(EVERYONE, at("/api/users/me"))],
    "GET /api/users/me/unread": [Rule(EVERYONE, at("/api/users/me/unread"))],
    "GET /api/users/me/export": [Rule(EVERYONE, at("/api/users/me/export"))],
    "PUT /api/users/me": [Rule(EVERYONE, at("/api/users/me", {"displayName": "x"}))],
    "GET /api/users/me/blocks": [Rule(EVERYONE, at("/api/users/me/blocks"))],
    "PUT /api/users/me/blocks/{userId}": [
        Rule(EVERYONE, at("/api/users/me/blocks/{outsider}")),
        Rule(dict.fromkeys(PEOPLE, "conflict"), at("/api/users/me/blocks/{me}")),
    ],
    "DELETE /api/users/me/blocks/{userId}": [Rule(EVERYONE, at("/api/users/me/blocks/{outsider}"))],
    "GET /api/users/me/privacy": [Rule(EVERYONE, at("/api/users/me/privacy"))],
    "PUT /api/users/me/privacy": [Rule(EVERYONE, at("/api/users/me/privacy", {"typing": True}))],
    "PUT /api/users/status": [Rule(EVERYONE, at("/api/users/status", {"status": "Online"}))],
    "GET /api/users/{userId}": [Rule(EVERYONE, at("/api/users/{peer}"))],
    "DELETE /api/users/{userId}": [Rule(service("forbidden"), at(VICTIM), replace_victim)],
    "GET /api/users/{userId}/standing": [
        Rule(service(), at(f"{VICTIM}/standing")),
        Rule(EVERYONE, at("/api/users/{me}/standing")),
    ],
    "PUT /api/users/{userId}/role": [
        Rule(service("forbidden"), at(f"{VICTIM}/role", {"role": "User"})),
        Rule(service("forbidden"), at("/api/users/{me}/role", {"role": "Administrator"})),
    ],
    "PUT /api/users/{userId}/ban": [
        Rule(service(), at(f"{VICTIM}/ban", {"reason": "x"})),
        Rule(dict.fromkeys(PEOPLE, "forbidden"), at("/api/users/{administrator}/ban", {})),
        Rule(service("forbidden"), at("/api/users/{other_moderator}/ban", {})),
    ],
    "DELETE /api/users/{userId}/ban": [Rule(service(), at(f"{VICTIM}/ban?reason=x"))],
    "DELETE /api/users/{userId}/sessions": [Rule(service(), at(f"{VICTIM}/sessions"))],
    "PUT /api/users/{userId}/name": [Rule(service(), at(f"{VICTIM}/name", {"displayName": "x"}))],
    "POST /api/reports": [
        Rule(who(), at("/api/reports", {"category": "Spam", "messageId": "{theirs}"})),
        Rule(EVERYONE, at("/api/reports", {"category": "Spam", "userId": "{outsider}"})),
        Rule(dict.fromkeys(PEOPLE, "conflict"), at("/api/reports", {"category": "Spam", "userId": "{me}"})),
    ],
    "GET /api/users/me/reports": [Rule(EVERYONE, at("/api/users/me/reports"))],
    "GET /api/reports": [Rule(service(), at("/api/reports?state=open"))],
    "PUT /api/reports/{reportId}/resolution": [Rule(service(), at("/api/reports/{report}/resolution", {}))],
    "GET /api/audit": [Rule(service("forbidden"), at("/api/audit"))],
    "GET /api/conversations": [Rule(EVERYONE, at("/api/conversations"))],
    "POST /api/conversations": [
        Rule(EVERYONE, at("/api/conversations", {"type": "Group", "name": "mine"})),
        Rule(EVERYONE, at("/api/conversations", {"type": "Direct", "memberIds": ["{peer}"]})),  # it is there
        Rule(unless_blocked(), at("/api/conversations", {"type": "Group", "memberIds": ["{outsider}", "{peer}"]})),
    ],
    "GET /api/conversations/{conversationId}": [Rule(who(), at(GROUP))],
    "PUT /api/conversations/{conversationId}": [
        Rule(who("forbidden"), at(GROUP, {"name": "x"}), accept),
        Rule(who("forbidden"), at(GROUP, {"description": "x", "avatarUrl": "https://example.org"}), accept),
        Rule(who("forbidden"), at(GROUP, {"posting": "Admins", "slowModeSeconds": 9}), build_again),
        Rule(who("forbidden", "forbidden"), at(GROUP, {"isPublic": True}), build_again),
        Rule(who("forbidden"), at(GROUP, {"isPublic": False}), accept),  # as it is already
    ],
    "DELETE /api/conversations/{conversationId}": [Rule(who("forbidden", "forbidden"), at(GROUP), build_again)],
    "GET /api/conversations/{conversationId}/members": [Rule(who(), at(MEMBERS))],
    "PUT /api/conversations/{conversationId}/settings": [Rule(who(), at(f"{GROUP}/settings", {"archived": True}))],
    "POST /api/conversations/{conversationId}/members": [
        Rule(who("forbidden"), at(MEMBERS, {"userId": "{outsider}"}), build_again),
        Rule(who("forbidden", "forbidden"), at(MEMBERS, {"userId": "{outsider}", "role": "Owner"}), build_again),
        Rule(who("forbidden", "forbidden"), at(MEMBERS, {"userId": "{outsider}", "role": "Admin"}), build_again),
    ],
    "DELETE /api/conversations/{conversationId}/members/{userId}": [
        Rule(who("forbidden"), at(MEMBERS + "/{peer}"), build_again),
        Rule(who("forbidden", "forbidden"), at(MEMBERS + "/{peer_admin}"), build_again),
        Rule(who("forbidden", "forbidden", "last_owner"), at(MEMBERS + "/{owner}"), build_again),
        Rule(who(owner="last_owner"), at(MEMBERS + "/{me}"), build_again),
    ],
    "PUT /api/conversations/{conversationId}/members/{userId}/role": [
        Rule(who("forbidden", "forbidden"), at(MEMBERS + "/{peer}/role", {"role": "Owner"}), build_again),
        Rule(
            who("forbidden", "forbidden", "last_owner"), at(MEMBERS + "/{owner}/role", {"role": "Member"}), build_again
        ),
    ],
    "POST /api/conversations/{conversationId}/links": [Rule(who("forbidden"), at(f"{GROUP}/links", {}), accept)],
    "GET /api/conversations/{conversationId}/links": [Rule(who("forbidden"), at(f"{GROUP}/links"))],
    "DELETE /api/conversations/{conversationId}/links/{linkId}": [
        Rule(who("forbidden"), at(f"{GROUP}/links/{{link}}"), build_again)
    ],
    "PUT /api/conversations/{conversationId}/members/{userId}/mute": [
        Rule(moderates("forbidden"), at(MEMBERS + "/{peer}/mute", {"reason": "x"}), build_again),
        Rule(moderates("forbidden", "forbidden"), at(MEMBERS + "/{peer_admin}/mute", {}), build_again),
    ],
    "DELETE /api/conversations/{conversationId}/members/{userId}/mute": [
        Rule(moderates("forbidden"), at(MEMBERS + "/{peer}/mute"), accept)
    ],
    "PUT /api/conversations/{conversationId}/name": [
        Rule(service(), at(f"{GROUP}/name", {"name": "a group", "reason": "x"}), accept)
    ],
    "GET /api/conversations/{conversationId}/bans": [Rule(moderates("forbidden"), at(f"{GROUP}/bans"))],
    "PUT /api/conversations/{conversationId}/bans/{userId}": [
        Rule(moderates("forbidden"), at(f"{GROUP}/bans/{{peer}}", {}), build_again),
        Rule(moderates("forbidden", "forbidden"), at(f"{GROUP}/bans/{{peer_admin}}", {}), build_again),
    ],
    "DELETE /api/conversations/{conversationId}/bans/{userId}": [
        Rule(moderates("forbidden"), at(f"{GROUP}/bans/{{outsider}}"), accept)
    ],
    "GET /api/groups": [Rule(EVERYONE, at("/api/groups"))],
    "POST /api/conversations/{conversationId}/join": [Rule(who(), at(f"{GROUP}/join"), accept)],  # it is not public
    "POST /api/join": [
        Rule(NO_ONE, at("/api/join", {"token": "of no link"})),
        Rule(dict.fromkeys(PEOPLE, OK), at("/api/join", {"token": "{token_of_link}"}), build_again),
    ],
    "GET /api/messages/{messageId}/replies": [
        Rule(who(), at(MESSAGE + "/replies")),
        Rule(who(), at("/api/messages/{mine}/replies")),
    ],
    "GET /api/threads": [Rule(EVERYONE, at("/api/threads"))],
    "GET /api/threads/{threadId}": [Rule(who(), at("/api/threads/{theirs}")), Rule(who(), at("/api/threads/{mine}"))],
    "PUT /api/threads/{threadId}/read": [Rule(who(), at("/api/threads/{theirs}/read", {"seq": 1}))],
    "PUT /api/threads/{threadId}/following": [Rule(who(), at("/api/threads/{theirs}/following"))],
    "DELETE /api/threads/{threadId}/following": [Rule(who(), at("/api/threads/{theirs}/following"))],
    "GET /api/mentions": [Rule(EVERYONE, at("/api/mentions"))],
    "GET /api/messages": [Rule(who(), at("/api/messages?conversationId={conversation}"))],
    "GET /api/search/messages": [
        Rule(EVERYONE, at("/api/search/messages?q=some")),
        Rule(who(), at("/api/search/messages?q=some&conversationId={conversation}")),
    ],
    "POST /api/messages": [
        Rule(unless_blocked(), at("/api/messages", {"conversationId": "{direct}", **TEXT})),
        Rule(who(), at("/api/messages", {"conversationId": "{conversation}", **TEXT}), accept),
        Rule(NO_ONE, at("/api/messages", {"conversationId": "{conversation}", **TEXT, "replyToId": "{elsewhere}"})),
        Rule(NO_ONE, at("/api/messages", {"conversationId": "{conversation}", **TEXT, "threadId": "{elsewhere}"})),
        Rule(
            who("not_found", "not_found"),  # the file is the owner's
            at("/api/messages", {"conversationId": "{conversation}", **TEXT, "type": "File", "fileId": "{file}"}),
            accept,
        ),
    ],
    "GET /api/messages/{messageId}": [Rule(who(), at(MESSAGE)), Rule(who(), at("/api/messages/{mine}"))],
    "PUT /api/messages/{messageId}": [
        Rule(unless_blocked(), at("/api/messages/{said_to_peer}", TEXT)),
        Rule(who(*["forbidden"] * 3), at(MESSAGE, TEXT), accept),
        Rule(who(), at("/api/messages/{mine}", TEXT), accept),  # removed, one's own message is as far as any other
    ],
    "DELETE /api/messages/{messageId}": [
        Rule(moderates("forbidden"), at(MESSAGE), say_again),
        Rule(moderates(), at("/api/messages/{mine}"), say_again),
    ],
    "PUT /api/messages/{messageId}/status": [
        Rule(who(), at(MESSAGE + "/status", {"status": "Read"})),
        Rule(who(), at("/api/messages/{mine}/status", {"status": "Read"})),
    ],
    "GET /api/messages/{messageId}/receipts": [
        Rule(who(), at(MESSAGE + "/receipts")),
        Rule(who(), at("/api/messages/{mine}/receipts")),
    ],
    "GET /api/messages/{messageId}/reactions": [
        Rule(who(), at(MESSAGE + "/reactions")),
        Rule(who(), at("/api/messages/{mine}/reactions")),
    ],
    "PUT /api/messages/{messageId}/reactions/{emoji}": [
        Rule(unless_blocked(), at("/api/messages/{said_to_peer}/reactions/:x:")),
        Rule(who(), at(MESSAGE + "/reactions/:x:"), accept),
        Rule(who(), at("/api/messages/{mine}/reactions/:x:"), accept),
    ],
    "PUT /api/messages/{messageId}/pin": [
        Rule(unless_blocked(), at("/api/messages/{said_to_peer}/pin")),
        Rule(who("forbidden"), at(MESSAGE + "/pin"), accept),
        Rule(who("forbidden"), at("/api/messages/{mine}/pin"), accept),
    ],
    "DELETE /api/messages/{messageId}/pin": [Rule(who("forbidden"), at(MESSAGE + "/pin"), accept)],
    "GET /api/conversations/{conversationId}/pins": [Rule(who(), at(f"{GROUP}/pins"))],
    "DELETE /api/messages/{messageId}/reactions/{emoji}": [
        Rule(who(), at(MESSAGE + "/reactions/:x:"), accept),
        Rule(who(), at("/api/messages/{mine}/reactions/:x:"), accept),
    ],
    "POST /api/files/upload": [Rule(EVERYONE, at("/api/files/upload", files={"file": "some text"}))],
    "POST /api/files/presign": [
        Rule(EVERYONE, at("/api/files/presign", {"name": "a.txt", "contentType": "text/plain", "size": 1}))
    ],
    "POST /api/files/{fileId}/complete": [
        Rule(who("not_found", "not_found"), at("/api/files/{file}/complete")),
    ],
    "GET /api/files/presigned-url": [Rule(who(), at("/api/files/presigned-url?fileKey={key}"))],
    "GET /api/files/{fileKey}": [Rule(who(), at("/api/files/{key}"))],
    "DELETE /api/files": [
        Rule(who("forbidden", "forbidden"), at("/api/files?fileUrl=/api/files/{key}"), build_again),
    ],
    "POST /auth/logout": [Rule(dict.fromkeys(PEOPLE, "conflict"), at("/auth/logout"))],  # tokens of no session
    "GET /auth/sessions": [Rule(EVERYONE, at("/auth/sessions"))],
    "DELETE /auth/sessions/{sessionId}": [Rule(NO_ONE, at("/auth/sessions/{session}"))],
    "POST /hubs/chat/negotiate": [Rule(EVERYONE, at("/hubs/chat/negotiate?negotiateVersion=1"))],
}


def call(*arguments: Any) -> Callable[[Mapping[str, str]], Any]:
    made = at("", list(arguments))
    return lambda world: made(world)[1]


METHODS: dict[str, list[Rule]] = {
    "Ping": [Rule(EVERYONE, call())],
    "SendMessage": [
        Rule(unless_blocked(), call({"conversationId": "{direct}", **TEXT})),
        Rule(who(), call({"conversationId": "{conversation}", **TEXT}), accept),
        Rule(NO_ONE, call({"conversationId": "{conversation}", **TEXT, "replyToId": "{elsewhere}"})),
        Rule(NO_ONE, call({"conversationId": "{conversation}", **TEXT, "threadId": "{elsewhere}"})),
    ],
    "EditMessage": [
        Rule(unless_blocked(), call("{said_to_peer}", "x")),
        Rule(who(*["forbidden"] * 3), call("{theirs}", "x"), accept),
        Rule(who(), call("{mine}", "x"), accept),
    ],
    "DeleteMessage": [
        Rule(moderates("forbidden"), call("{theirs}"), say_again),
        Rule(moderates(), call("{mine}"), say_again),
    ],
    "Report": [
        Rule(who(), call({"category": "Spam", "messageId": "{theirs}"})),
        Rule(EVERYONE, call({"category": "Spam", "userId": "{outsider}"})),
    ],
    "BlockUser": [Rule(EVERYONE, call("{outsider}")), Rule(dict.fromkeys(PEOPLE, "conflict"), call("{me}"))],
    "UnblockUser": [Rule(EVERYONE, call("{outsider}"))],
    "React": [
        Rule(unless_blocked(), call("{said_to_peer}", ":y:")),
        Rule(who(), call("{theirs}", ":y:"), accept),
        Rule(who(), call("{mine}", ":y:"), accept),
    ],
    "Pin": [Rule(unless_blocked(), call("{said_to_peer}")), Rule(who("forbidden"), call("{theirs}"), accept)],
    "Unpin": [Rule(who("forbidden"), call("{theirs}"), accept)],
    "Unreact": [Rule(who(), call("{theirs}", ":y:"), accept), Rule(who(), call("{mine}", ":y:"), accept)],
    "JoinConversation": [Rule(who(), call("{conversation}")), Rule(who(), call("{conversation}", 0))],
    "LeaveConversation": [Rule(EVERYONE, call("{conversation}"))],  # leaving without having joined succeeds, too
    "Sync": [Rule(EVERYONE, lambda world: [{world["conversation"]: 0}])],  # its answer is checked below
    "SearchMessages": [
        Rule(EVERYONE, call({"query": "some"})),
        Rule(who(), call({"query": "some", "conversationId": "{conversation}"})),
    ],
    "StreamHistory": [Rule(who(), call("{conversation}"))],
    "StartTyping": [Rule(who(), call("{conversation}"))],
    "StopTyping": [Rule(EVERYONE, call("{conversation}"))],  # has no effect
    "MarkThreadRead": [Rule(who(), call("{theirs}", 1)), Rule(who(), call("{mine}", 1))],
    "FollowThread": [Rule(who(), call("{theirs}")), Rule(who(), call("{mine}"))],
    "UnfollowThread": [Rule(who(), call("{theirs}")), Rule(who(), call("{mine}"))],
    "MarkMessageAsRead": [Rule(who(), call("{theirs}")), Rule(who(), call("{mine}"))],
    "MarkMessageAsDelivered": [Rule(who(), call("{theirs}")), Rule(who(), call("{mine}"))],
    "MarkRead": [Rule(who(), call("{conversation}", 1))],
    "MarkDelivered": [Rule(who(), call("{conversation}", 1))],
    "UpdateConversationSettings": [Rule(who(), call("{conversation}", {"favourite": True}))],
    "UpdateStatus": [Rule(EVERYONE, call("Online"))],
    "UpdatePrivacy": [Rule(EVERYONE, call({}))],
    "GetPresence": [Rule(EVERYONE, call(["{peer}"]))],
    "GetUnread": [Rule(EVERYONE, call())],
    "RefreshToken": [
        Rule(EVERYONE, call("{token}")),
        Rule(dict.fromkeys(PEOPLE, "forbidden"), call("{token_of_peer}")),
    ],
}


class World:
    """Users in their roles in a group, and a message of each. Made over REST, as clients do it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.ids: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.things: dict[str, str] = {}
        self.said: dict[str, str] = {}

    async def settle(self) -> None:
        for name in (*PEOPLE, "outsider", "peer", "peer_admin", "victim", "other_moderator", "banned"):
            await self.register(name)
        root = mint_token(self.site.process.settings, UUID(self.ids["administrator"]), admin=True)
        for name in ("moderator", "other_moderator", "administrator"):
            body = {"role": "administrator" if name == "administrator" else "moderator"}
            await self.site.call("PUT", f"/api/users/{self.ids[name]}/role", body, token=root)
        await self.site.call("PUT", f"/api/users/{self.ids['banned']}/ban", {}, token=root)
        self.admin = mint_token(self.site.process.settings, UUID(self.ids["outsider"]), admin=True)
        self.things["external"] = "42"
        await self.site.call("PUT", "/api/users/by-external-id/42", {}, token=self.admin, status=201)
        self.direct: dict[str, tuple[str, str]] = {}  # with peer, and a message there, by name
        for name in PEOPLE:
            to_peer = {"type": "Direct", "memberIds": [self.ids["peer"]]}
            made = await self.site.call("POST", "/api/conversations", to_peer, token=self.tokens[name], status=201)
            self.direct[name] = made["id"], await self._say(made["id"], name)
        path = f"/api/users/me/blocks/{self.ids['blocked']}"
        await self.site.call("PUT", path, token=self.tokens["peer"], status=204)
        about = {"category": "Spam", "userId": self.ids["victim"]}
        made = await self.site.call("POST", "/api/reports", about, token=self.tokens["peer"], status=201)
        self.things["report"] = made["id"]
        self.things["elsewhere"] = await self._say(await self._group("outsider", "outsider"), "outsider")
        await self.build()

    async def register(self, name: str) -> None:
        made = await self.site.call("POST", "/api/users", {"username": name}, status=201)
        self.ids[name] = made["id"]
        # Of no sign-in session: the table is about membership.
        self.tokens[name] = mint_token(self.site.process.settings, UUID(made["id"]))
        self.things["session"] = made["sessionId"]

    async def build(self) -> None:
        """Build the world again after a permitted request has changed it."""
        members = [self.ids[name] for name in ("removed", "member", "blocked", "admin", "peer", "peer_admin")]
        group = self.things["conversation"] = await self._group("the group", "owner", *members)
        for name in ("admin", "peer_admin"):
            path = f"/api/conversations/{group}/members/{self.ids[name]}/role"
            await self.site.call("PUT", path, {"role": "Admin"}, token=self.tokens["owner"])
        await self.say("removed", "member", "blocked", "admin", "owner", "peer")
        stored = await self.site.http.post(
            "/api/files/upload", files={"file": ("a.txt", b"some text")}, headers=_bearer(self.tokens["owner"])
        )
        self.things |= {"file": stored.json()["id"], "key": stored.json()["key"]}
        await self._say(group, "owner", type="File", fileId=self.things["file"])
        link = await self.site.call(
            "POST", f"/api/conversations/{group}/links", {}, token=self.tokens["owner"], status=201
        )
        self.things |= {"link": link["id"], "token_of_link": link["token"]}
        path = f"/api/conversations/{group}/members/{self.ids['removed']}"
        await self.site.call("DELETE", path, token=self.tokens["owner"], status=204)
        self.head = await self.look()

    async def say(self, *names: str) -> None:
        for name in names:
            self.said[name] = await self._say(self.things["conversation"], name)
        self.said |= dict.fromkeys(("stranger", "moderator", "administrator"), self.said["peer"])

    def of(self, name: str) -> dict[str, str]:
        """The values of the names in a rule, for this user."""
        direct, said = self.direct[name]
        mine = {
            "direct": direct,
            "said_to_peer": said,
            "me": self.ids[name],
            "token": self.tokens[name],
            "token_of_peer": self.tokens["peer"],
        }
        return {**self.ids, **self.things, **mine, "mine": self.said[name], "theirs": self.said["peer"]}

    async def look(self) -> Any:
        path = f"/api/conversations/{self.things['conversation']}"
        found = await self.site.call("GET", path, token=self.tokens["peer"])
        return {name: found[name] for name in ("lastSeq", "name", "memberCount")}

    async def _group(self, name: str, owner: str, *members: str) -> str:
        body = {"type": "Group", "name": name, "memberIds": members}
        made = await self.site.call("POST", "/api/conversations", body, token=self.tokens[owner], status=201)
        return str(made["id"])

    async def _say(self, group: str, name: str, **more: str) -> str:
        body = {"conversationId": group, "content": f"by {name}", **more}
        sent = await self.site.call("POST", "/api/messages", body, token=self.tokens[name], status=201)
        return str(sent["id"])


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


@pytest.fixture
async def world(database: str, redis_url: str, nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[World]:
    async with open_site(database, redis_url, nursery, objects=f"file://{tmp_path}/files") as site:
        found = World(site)
        await found.settle()
        yield found


def routes_of(site: Site) -> set[str]:
    """All routes of the process, as the API's description writes them."""
    found = set()
    for rule in site.process.rest.app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda name: "{" + _camel(name[1]) + "}", rule.rule)
        found |= {f"{method} {path}" for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    return found


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


async def ask(
    site: Site, route: str, token: str, request: Any, more: Mapping[str, str] | None = None
) -> httpx.Response:
    path, body, options = request
    if "files" in options:
        options = {"files": {name: ("a.txt", text.encode()) for name, text in options["files"].items()}}
    headers = {**_bearer(token), **(more or {})}
    return await site.http.request(route.partition(" ")[0], path, json=body, headers=headers, **options)


def outcome(answer: httpx.Response) -> str:
    return OK if answer.status_code < 400 else str(answer.json()["code"])


async def test_every_route_has_a_rule(world: World) -> None:
    """Each route and hub method has a rule for each role."""
    assert routes_of(world.site) == set(RULES) | set(OPEN)
    methods = {method.name for method in world.site.process.hub.dispatcher.methods}
    assert methods == set(METHODS)


async def test_routes(world: World) -> None:
    """Each role gets the answer in the table, on things that exist; refused requests change nothing."""
    wrong = []
    for route, rules in RULES.items():
        for number, rule in enumerate(rules):
            for name in PEOPLE:
                answer = await ask(world.site, route, world.tokens[name], rule.ask(world.of(name)))
                if outcome(answer) != rule.answers[name]:
                    wrong.append((route, number, name, outcome(answer), rule.answers[name], answer.text[:200]))
                if name in OUTSIDE and rule.answers[name] == OK and route not in REVEALING:
                    assert world.things["conversation"] not in answer.text, (route, name)
                if rule.changes and outcome(answer) == OK:
                    await rule.changes(world, name)
                elif rule.changes:
                    assert await world.look() == world.head, (route, name)
    assert wrong == []


async def test_routes_while_banned(world: World) -> None:
    """A banned user, though a member, gets nothing of any route that needs a token, but may sign out."""
    wrong = []
    for route, rules in RULES.items():
        for rule in rules:
            values = {**world.of("member"), "me": world.ids["banned"]}
            answer = await ask(world.site, route, world.tokens["banned"], rule.ask(values))
            expected = "conflict" if route == "POST /auth/logout" else "banned"  # its token is of no session
            if outcome(answer) != expected:
                wrong.append((route, outcome(answer), answer.text[:200]))
    assert wrong == []
    assert await world.look() == world.head


async def test_the_hub_while_banned(world: World) -> None:
    """No call of a banned user is answered, over any transport and with any way to attach."""
    for transport, query in product(transports.TRANSPORTS, ({}, {"sync": "manual"})):
        answer = None
        url = f"{world.site.url}/hubs/chat"
        try:
            async with transports.connect(transport, url, world.tokens["banned"], query=query) as client:
                with trio.fail_after(60):
                    answer = await client.invoke("GetPresence", [str(uuid4())])
        except* (ClientError, HubError):
            pass
        assert answer is None, (transport, query)


async def invalid_tokens(site: Site) -> dict[str, str]:
    """Invalid tokens, each for another reason."""
    settings = site.process.settings
    ended, deleted, live = [
        await site.call("POST", "/api/users", {"username": name}, status=201) for name in ("ended", "deleted", "live")
    ]
    await site.call("POST", "/auth/logout", token=ended["accessToken"], status=204)
    forever = mint_token(settings, UUID(deleted["id"]), admin=True)
    await site.call("DELETE", f"/api/users/{deleted['id']}", token=deleted["accessToken"], status=204)
    good = {"iss": settings.jwt_issuer, "aud": settings.jwt_audience, "sub": live["id"], "exp": time.time() + 600}
    made = {
        "expired": {**good, "exp": time.time() - 60},
        "another audience": {**good, "aud": "https://another.example"},
        "another issuer": {**good, "iss": "https://another.example"},
    }
    return {
        "no token": "",
        **{name: jwt.encode(claims, JWT_KEY, "HS256") for name, claims in made.items()},
        "unknown user": mint_token(settings, uuid4(), admin=True),
        "deleted user": forever,
        "ended session": ended["accessToken"],
    }


async def test_routes_without_a_good_token(world: World) -> None:
    """Each route that is not open answers 401 to invalid tokens; `parting` routes accept ended sessions.

    Each route is called without a token and with one of the other invalid tokens in turn, each of them on several
    routes: one function checks tokens (`tests/server/identity` tests it), but each route has to call it.
    """
    tokens = await invalid_tokens(world.site)
    assert set(tokens) == set(INVALID_TOKENS)
    wrong = []
    kinds = cycle([name for name in tokens if name != "no token"])
    for route, rules in RULES.items():
        for name in tokens if route == "POST /auth/logout" else ("no token", next(kinds)):
            token = tokens[name]
            answer = await ask(world.site, route, token, rules[0].ask(world.of("owner")))
            parts = route == "POST /auth/logout" and name in ("unknown user", "deleted user", "ended session")
            if (answer.status_code == 401) is parts:
                wrong.append((route, name, answer.status_code, answer.text[:200]))
    assert wrong == []
    assert await world.look() == world.head


async def test_the_hub_without_a_good_token(site: Site) -> None:
    """With an invalid token no call is possible, over any transport and with any way to attach."""
    ways = product(transports.TRANSPORTS, ({}, {"sync": "manual"}))
    for (transport, query), (name, token) in product(ways, (await invalid_tokens(site)).items()):
        if not token and transport in ("sse", "polling"):
            continue  # their clients begin by negotiating: the table has it, without a token
        answer = None
        try:
            async with transports.connect(transport, f"{site.url}/hubs/chat", token, query=query) as client:
                with trio.fail_after(60):
                    answer = await client.invoke("GetPresence", [str(uuid4())])
        except* (ClientError, HubError):
            pass
        assert answer is None, (transport, query, name)


async def test_every_route_is_decided_on_for_keys(site: Site) -> None:
    """Each route that needs a token says which scope a key needs for it, or why no key may call it; and each scope is
    needed somewhere. For a new route, write a line into one of the tables of server/rest/key_access.py."""
    app = site.process.rest.app
    routes = {
        f"{method} {template(rule.rule)}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not getattr(app.view_functions[rule.endpoint], "open_route", False)
    }
    assert routes == key_access.ROUTES.keys() | key_access.REFUSED.keys()
    assert not key_access.ROUTES.keys() & key_access.REFUSED.keys() and all(key_access.REFUSED.values())
    assert {needed.scope for needed in key_access.ROUTES.values()} | {key_access.ACT} == SCOPES.keys()


async def test_routes_with_keys(world: World) -> None:
    """A key is refused everywhere without the scope that a route needs, whatever else it may, and where none is said;
    with it, a request is what the user's own is, or what an application may do."""
    site = world.site
    named = {"X-Parley-User": world.ids["owner"]}
    keys = {scope: await make_key(site, scope, "users:act") for scope in SCOPES}
    without = {scope: await make_key(site, *(SCOPES.keys() - {scope})) for scope in SCOPES}
    none, bound = await make_key(site), await make_key(site, *SCOPES, user=world.ids["owner"])
    needed = {route: key_access.needed(*route.split(" ")) for route in map(snake, RULES)}
    wrong: list[tuple[Any, ...]] = []
    for route, rules in RULES.items():
        if route in ("DELETE /api/users/{userId}", "POST /hubs/chat/negotiate"):
            continue  # the answers are others than users get: test_provisioning
        need = needed[snake(route)]
        for key in (none, *without.values()) if need is None else (none, without[need.scope]):
            answer = await ask(site, route, key, rules[0].ask(world.of("owner")), named)
            is_right = outcome(answer) == ("forbidden" if need is None else "scope_required")
            if not is_right or answer.status_code != 403:
                wrong.append((route, "without", answer.text[:200]))
        for key, headers in ((bound, {}), (bound, named), (keys[need.scope] if need else bound, named)):
            for number, rule in enumerate(rules):
                expected = rule.answers["owner"] if rule.answers is not NOT_APPLICATIONS else OK
                expected = "forbidden" if need is None else expected
                answer = await ask(site, route, key, rule.ask(world.of("owner")), headers)
                if outcome(answer) != expected:
                    wrong.append((route, number, outcome(answer), expected, answer.text[:200]))
                if rule.changes and outcome(answer) == OK:
                    await rule.changes(world, "owner")
        if need is not None:
            answer = await ask(site, route, keys[need.scope], rules[0].ask(world.of("owner")), {})
            if (outcome(answer) == "invalid_request") is need.is_alone:
                wrong.append((route, "for no user", answer.text[:200]))
    assert wrong == []


async def test_routes_with_keys_that_have_ended(world: World) -> None:
    """Each route answers 401 to a key that was revoked, has expired, or is no key."""
    site = world.site
    revoked, expired = await make_key(site, *SCOPES), await make_key(site, *SCOPES)
    async with site.process.pool.connection() as conn:
        query = "UPDATE api_keys SET {} = now() WHERE id = %s"
        for key, column in ((revoked, "revoked_at"), (expired, "expires_at")):
            await conn.execute(query.format(column).encode(), [key.split("_")[2]])
    wrong = []
    for route, rules in RULES.items():
        for key in (revoked, expired, expired[:-1], expired.replace(expired[-4:], "AAAA")):
            named = {"X-Parley-User": world.ids["owner"]}
            answer = await ask(site, route, key, rules[0].ask(world.of("owner")), named)
            if answer.status_code != 401:
                wrong.append((route, key, answer.status_code, answer.text[:200]))
    assert wrong == []
    assert await world.look() == world.head


def snake(route: str) -> str:
    """A route as it is registered: the names of its arguments are ours."""
    method, _, path = route.partition(" ")
    return f"{method} " + re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", path)


@asynccontextmanager
async def connected(world: World, name: str, query: dict[str, str] | None = None) -> AsyncIterator[HubClient]:
    url = f"{world.site.url}/hubs/chat"
    async with transports.connect("socket", url, world.tokens[name], query=query or {}) as client:
        yield client


async def invoke(client: HubClient, target: str, arguments: list[Any], *, is_stream: bool) -> tuple[str, Any]:
    try:
        if is_stream:
            return OK, [item async for item in client.stream(target, *arguments)]
        return OK, await client.invoke(target, *arguments)
    except HubError as error:
        return str(error).partition(":")[0], None


async def test_methods(world: World) -> None:
    """The same for each hub method and role; users outside do not learn the head of a conversation."""
    wrong = []
    kinds = {method.name: method.kind for method in world.site.process.hub.dispatcher.methods}
    for name in PEOPLE:
        async with connected(world, name) as client:
            for target, rules in METHODS.items():
                for number, rule in enumerate(rules):
                    is_stream = kinds[target] == STREAM
                    found, answer = await invoke(client, target, rule.ask(world.of(name)), is_stream=is_stream)
                    if found != rule.answers[name]:
                        wrong.append((target, number, name, found, rule.answers[name]))
                    if target == "Sync" and name in OUTSIDE:
                        [listed, direct] = answer["conversations"]
                        assert direct["conversationId"] == world.direct[name][0] and answer["next"] is None
                        assert list(answer["heads"]) == [world.direct[name][0]]
                        assert answer["resync"] == [world.things["conversation"]]
                        assert listed == {
                            "conversationId": world.things["conversation"],
                            "lastSeq": 0,
                            "messageId": None,
                            "unreadCount": 0,
                            "mentionCount": 0,
                            "outcome": "gone",
                            "settingsVersion": 0,
                        }
                    if rule.changes and found == OK:
                        await rule.changes(world, name)
                    elif rule.changes:
                        assert await world.look() == world.head, (target, name)
    assert wrong == []
