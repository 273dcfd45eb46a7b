"""The OpenAPI 3.1 description of the API, assembled from the description of each route (`operations`).

Owns the document. Every route is in it, or states why it is not (`left_out`). Is Quart-Schema's provider.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from quart import Quart
from quart_schema import OpenAPIProvider, QuartSchema
from werkzeug.routing import Rule

from handlers import text_rules as texts
from handlers.emoji import EMOJI
from handlers.errors import CODES
from handlers.model import FILE_TYPES, SPOKEN_TYPES, CreateConversation, CreateMessage, CreateReport, PresignFile
from server.config.settings import Settings
from server.rest import key_access
from server.rest.operations import (
    HEADERS,
    IF_MATCH,
    IF_NONE_MATCH,
    JSON,
    LEFT_OUT,
    OPERATION,
    UNUSED_KEY,
    UUID_SCHEMA,
    Answer,
    Operation,
    Parameter,
    Schema,
)
from server.rest.request_log import template
from store.model import ConversationType, MessageType, WireEnum

REF = "#/components/schemas/{name}"
PROBLEM = "application/problem+json"
BEARER, IN_QUERY = "bearer", "accessToken"
PATH_PARAMETERS: dict[str, tuple[Schema, str]] = {
    "provider": ({"type": "string", "minLength": 1, "maxLength": 64}, "A configured identity provider."),
    "emoji": ({"type": "string", "pattern": f"^{EMOJI}$"}, "One emoji, or the name of one between colons."),
    "external_id": (
        {"type": "string", "pattern": f"^{texts.EXTERNAL_ID}$", "minLength": 1, "maxLength": 255},
        "The id by which the application knows the user.",
    ),
    "file_key": ({"type": "string", "minLength": 1, "maxLength": 256}, "The file's `key`."),
}
ALWAYS = ("rate_limited", "internal", "unavailable", "overloaded")
DESCRIPTION = """\
Errors are `application/problem+json` (RFC 9457) with a stable `code`, `fields` for each invalid field, and
`retryAfterMs` where the same again may work later. Lists are answered as `{"items", "next"}`: repeat the request with
`cursor` set to `next` until that is null. Ids are UUIDs, times RFC 3339 in UTC with milliseconds. Names of choices are
accepted in any case, or as their index. Unknown fields are ignored, and answers may get more fields. Paths are
case-insensitive. New messages, receipts and presence are delivered by the SignalR hub at `/hubs/chat`, which
`/asyncapi.json` describes. In place of a user's access token the backend of an application may send an API key, where
the description says which scope it needs, and name the user for whom it acts in `X-Parley-User` (the id) or
`X-Parley-External-User` (the application's own id).
"""
TAGS = {
    "users": "Users: registration, profiles, status.",
    "provisioning": "Users that an application brings, and tokens for them: for its backend, with an API key.",
    "conversations": "Direct conversations and groups, their members and roles.",
    "groups": "Joining groups: by links, or public ones.",
    "messages": "Sending, reading and editing messages, and their receipts.",
    "search": "Search for messages by their words.",
    "reactions": "Reactions to messages.",
    "threads": "Replies under messages, and who follows them.",
    "pins": "Messages that are pinned in their conversation.",
    "mentions": "The messages that mention the caller.",
    "files": "Files: uploads through the server or directly into the store, and links.",
    "auth": "Sign-in with a provider, and sessions.",
    "webhooks": "Applications that are sent what happens: for administrators.",
    "blocks": "Users whom the caller keeps away.",
    "reports": "Reports of messages and users, and what moderators decide on them.",
    "members": "Muting members, and keeping users out of groups.",
    "moderation": "Roles, bans, and what else moderators do to users.",
    "audit": "Who has done what as a moderator or administrator, and who has signed in.",
    "hub": "Negotiation of connections to the SignalR hub.",
    "health": "Health checks for load balancers.",
}


def install(app: Quart, settings: Settings) -> "Provider":
    """Install the provider. Its document is complete once all routes are registered."""

    class OfThisServer(Provider):  # the extension makes the provider, from its class
        def __init__(self, app: Quart, extension: QuartSchema) -> None:
            super().__init__(app, extension, settings)

    schema = QuartSchema(openapi_path=None, conversion_preference="msgspec", openapi_provider_class=OfThisServer)
    schema.init_app(app)
    del vars(app)["make_response"]  # the extension's, which converts what views return: ours return answers
    provider = schema.openapi_provider
    assert isinstance(provider, Provider)
    return provider


def _choice(kind: type[WireEnum], *members: WireEnum) -> Schema:
    indices = [list(kind).index(member) for member in members]
    return {"anyOf": [{"type": "string", "enum": [member.value for member in members]}, {"enum": indices}]}


# `alsoInConversation` of a message that is no reply, and of one that is.
_NO_REPLY: Schema = {
    "anyOf": [{"type": "boolean", "const": False}, {"type": "null"}],
    "description": "True only with a `threadId`.",
}
_TEXT: Schema = {
    "type": {"anyOf": [*_choice(MessageType, *SPOKEN_TYPES)["anyOf"], {"type": "null"}]},
    "content": {"pattern": f"^{texts.CONTENT}$"},
}
_FILE: Schema = {
    "type": _choice(MessageType, *FILE_TYPES),
    "fileId": UUID_SCHEMA,
    "content": {"pattern": f"^{texts.STORABLE}$"},
}
# Alternatives where the valid values of a field depend on another field: what is different in each, and what it needs.
_ALTERNATIVES: Mapping[type, list[Schema]] = {
    CreateReport: [
        {
            "title": title,
            "properties": {name: UUID_SCHEMA, other: {"type": "null"}},
            "required": [name],
        }
        for title, name, other in (("OfMessage", "messageId", "userId"), ("OfUser", "userId", "messageId"))
    ],
    CreateConversation: [
        {
            "title": "Direct",
            "properties": {
                "type": _choice(ConversationType, ConversationType.DIRECT),
                "memberIds": {"type": "array", "items": UUID_SCHEMA, "minItems": 1, "maxItems": 1},
            },
            "required": ["memberIds"],
        },
        {"title": "Group", "properties": {"type": _choice(ConversationType, ConversationType.GROUP)}},
    ],
    CreateMessage: [
        {"title": "Text", "properties": {**_TEXT, "alsoInConversation": _NO_REPLY}},
        {"title": "File", "properties": {**_FILE, "alsoInConversation": _NO_REPLY}, "required": ["fileId", "type"]},
        {"title": "TextReply", "properties": {**_TEXT, "threadId": UUID_SCHEMA}, "required": ["threadId"]},
        {
            "title": "FileReply",
            "properties": {**_FILE, "threadId": UUID_SCHEMA},
            "required": ["fileId", "type", "threadId"],
        },
    ],
}


class Provider(OpenAPIProvider):
    """Makes the document from the app's routes. `settings` has the limits and file types of this server."""

    def __init__(self, app: Quart, extension: QuartSchema, settings: Settings) -> None:
        super().__init__(app, extension)
        self.settings = settings
        self._encoded: bytes | None = None

    def schema(self) -> Schema:
        operations = list(self._operations())
        return {
            "openapi": "3.1.0",
            "info": {"title": "Parley", "version": "1", "description": DESCRIPTION},
            "servers": [{"url": self.settings.public_url.rstrip("/") or "/"}],
            "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
            "paths": _paths(operations),
            "components": {
                "schemas": _schemas([said for _, _, said in operations], self.settings),
                "securitySchemes": {
                    BEARER: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT, or an API key"},
                    IN_QUERY: {
                        "type": "apiKey",
                        "in": "query",
                        "name": "access_token",
                        "description": "For browsers, which cannot set headers on all requests. Not beside a header.",
                    },
                },
            },
            "security": [{BEARER: []}],
        }

    def encoded(self) -> bytes:
        """Return the document as JSON. It is made once."""
        if self._encoded is None:
            self._encoded = msgspec.json.encode(self.schema())
        return self._encoded

    def _operations(self) -> Iterator[tuple[Rule, Any, Operation]]:
        for rule in self.generate_rules():
            view = self._app.view_functions[rule.endpoint]
            if not hasattr(view, LEFT_OUT):
                yield rule, view, getattr(view, OPERATION)


def _paths(operations: Iterable[tuple[Rule, Any, Operation]]) -> Schema:
    paths: Schema = {}
    for rule, view, said in sorted(operations, key=lambda row: row[0].rule):
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda match: f"{{{_camel(match[1])}}}", rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            paths.setdefault(path, {})[method.lower()] = _operation(rule, method, view, said)
    return paths


def _operation(rule: Rule, method: str, view: Any, said: Operation) -> Schema:
    summary, _, description = (inspect.getdoc(view) or "").partition("\n")
    tag, _, name = rule.endpoint.partition(".")
    is_open = getattr(view, "open_route", False) and not said.takes_token_in_query
    found: Schema = {
        "operationId": _camel(f"{tag}_{name}"),
        "tags": [tag],
        "summary": summary.rstrip("."),
        "description": (description.strip() or summary) + _for_keys(rule, method, is_open),
        "parameters": [*map(_path_parameter, sorted(rule.arguments)), *map(_parameter, said.parameters)],
        "responses": dict(sorted(_responses(rule, said, is_open).items())),
    }
    if said.takes is not None:
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": _ref(said.takes)}}}
    if said.form is not None:
        found["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": said.form}}}
    if is_open:
        found["security"] = []
    elif said.takes_token_in_query:
        found["security"] = [{BEARER: []}, {IN_QUERY: []}]
    return found


def _for_keys(rule: Rule, method: str, is_open: bool) -> str:
    needed = None if is_open else key_access.needed(method, template(rule.rule))
    if needed is None:
        return ""
    return f"\n\nAn API key needs the scope `{needed.scope}`" + ("." if needed.is_alone else ", and a user.")


def _path_parameter(name: str) -> Schema:
    schema, description = PATH_PARAMETERS.get(name, (UUID_SCHEMA, f"The id of the {name.removesuffix('_id')}."))
    return {"name": _camel(name), "in": "path", "required": True, "schema": schema, "description": description}


def _parameter(said: Parameter) -> Schema:
    return {
        "name": said.name,
        "in": said.where,
        "required": said.is_required,
        "schema": said.schema,
        "description": said.description,
    }


def _responses(rule: Rule, said: Operation, is_open: bool) -> Schema:
    refused = dict.fromkeys(_refusals(rule, said, is_open))
    statuses = {CODES[code].status for code in refused}
    found: Schema = {str(status): _problem(status, refused) for status in statuses}
    found |= {str(int(answer.status)): _success(answer) for answer in said.answers}
    if IF_NONE_MATCH in said.parameters:
        headers = {"ETag": _header(*HEADERS["ETag"], is_required=True)}
        found["304"] = {"description": "It has not changed since that ETag.", "headers": headers}
    return found


def _refusals(rule: Rule, said: Operation, is_open: bool) -> Iterator[str]:
    """Yield the error codes that follow from the route's parameters and body, and those that it declares."""
    yield from (*ALWAYS, *said.refuses)
    if not is_open:
        yield from ("unauthenticated", "banned")
        if not said.takes_token_in_query:
            yield from ("scope_required", "forbidden")
        yield "invalid_claims"
    if rule.arguments:
        yield "not_found"
    if said.parameters or said.takes or said.form:
        yield "invalid_request"
    if said.takes or said.form:
        yield from ("timeout", "too_large", "unsupported_media_type")
    names = {parameter.name for parameter in said.parameters if parameter is not UNUSED_KEY}
    if "cursor" in names:
        yield "invalid_cursor"
    if "Idempotency-Key" in names:
        yield "idempotency_mismatch"
    if IF_MATCH in said.parameters:
        yield "precondition_failed"


def _success(answer: Answer) -> Schema:
    found: Schema = {"description": answer.description}
    if answer.headers:
        found["headers"] = {name: _header(*HEADERS[name], is_required=True) for name in answer.headers}
    if answer.body is not None:
        found["content"] = {answer.media: {"schema": _ref(answer.body)}}
    elif answer.media != JSON:
        found["content"] = {answer.media: {"schema": {"type": "string", "format": "binary"}}}
    return found


def _header(schema: Schema, description: str, *, is_required: bool) -> Schema:
    return {"schema": schema, "description": description, "required": is_required}


def _problem(status: int, codes: Iterable[str]) -> Schema:
    """Return the answer of this status for an operation that may end with these codes."""
    rows = {code: CODES[code] for code in CODES if code in codes and CODES[code].status == status}
    found: Schema = {
        "description": "\n".join(f"- `{code}`: {row.title}. {row.advice}" for code, row in rows.items()),
        "content": {PROBLEM: {"schema": {"$ref": REF.format(name="Problem")}}},
    }
    if status == 401:
        found["headers"] = {"WWW-Authenticate": _header({"type": "string"}, "`Bearer`.", is_required=True)}
    if status in (429, 503, 507):
        seconds = {"type": "integer", "minimum": 0}
        found["headers"] = {"Retry-After": _header(seconds, "Seconds to wait.", is_required=status != 503)}
    return found


def _schemas(operations: Iterable[Operation], settings: Settings) -> Schema:
    taken = {said.takes for said in operations if said.takes}
    given = {answer.body for said in operations for answer in said.answers if answer.body}
    _, requests = msgspec.json.schema_components(sorted(taken, key=_name), ref_template=REF)
    _, answers = msgspec.json.schema_components(sorted(given, key=_name), ref_template=REF)
    for schema in answers.values():
        _always_whole(schema)
    found = {**answers, **requests, "Problem": _problem_schema()}
    for kind, changes in _of_this_server(settings).items():
        for name, change in changes.items():
            found[_name(kind)]["properties"][name] |= change
    for schema in requests.values():
        _optional_where_it_may_be_left_out(schema)
    for schema in found.values():
        for one in (schema, *schema.get("properties", {}).values()):
            if "enum" in one:
                one.setdefault("type", "string")  # generators ask for it
    for kind, alternatives in _ALTERNATIVES.items():
        found[_name(kind)] = _alternatives(found[_name(kind)], alternatives)
    return dict(sorted(found.items()))


def _optional_where_it_may_be_left_out(schema: Schema) -> None:
    """Say in words what stands for a field that is left out: generators take `default` for "is always there"."""
    for field in schema.get("properties", {}).values():
        default = field.pop("default", None)
        if default:
            field["description"] = f"`{default}` when it is left out."


def _alternatives(schema: Schema, alternatives: list[Schema]) -> Schema:
    """Each alternative as a whole object: a generator makes a union of types of them, and cannot intersect schemas."""
    whole = []
    for one in alternatives:
        properties = dict(schema["properties"])
        for name, change in one["properties"].items():
            properties[name] = change if "type" in change or "anyOf" in change else {**properties[name], **change}
        required = [name for name in properties if name in (*schema["required"], *one.get("required", ()))]
        whole.append({"title": one["title"], "type": "object", "properties": properties, "required": required})
    return {**{name: schema[name] for name in ("title", "description") if name in schema}, "anyOf": whole}


def _of_this_server(settings: Settings) -> Mapping[type, Schema]:
    return {
        CreateMessage: {"content": {"maxLength": settings.max_message_bytes}},
        PresignFile: {
            "size": {"maximum": settings.max_upload_bytes},
            "contentType": {"enum": list(settings.upload_types)},
        },
    }


def _always_whole(schema: Schema) -> None:
    """Mark fields with a default as required: answers contain every field, except those that are UNSET."""
    for name, field in schema.get("properties", {}).items():
        if "default" in field:
            del field["default"]
            schema["required"] = [*schema.get("required", ()), name]


def _problem_schema() -> Schema:
    texts = {name: {"type": "string"} for name in ("type", "title", "detail")}
    return {
        "type": "object",
        "description": "An error (RFC 9457).",
        "properties": {
            "type": {**texts["type"], "format": "uri", "pattern": "^urn:parley:error:"},
            "title": texts["title"],
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": texts["detail"],
            "code": {"enum": list(CODES), "type": "string"},
            "instance": {
                "type": "string",
                "format": "uri",
                "description": "The request's id, which is also in the log.",
            },
            "retryAfterMs": {
                "type": "integer",
                "minimum": 0,
                "description": "The same again may work after so many milliseconds.",
            },
            "until": {
                "type": "string",
                "format": "date-time",
                "description": "When what forbids it is over; the end of the year 9999: never.",
            },
            "fields": {
                "type": "object",
                "description": "The invalid fields, with what is wrong.",
                "additionalProperties": {"type": "string"},
            },
            "errors": {
                "type": "object",
                "description": "The same as `fields`, for clients of before.",
                "deprecated": True,
                "additionalProperties": {"type": "string"},
            },
        },
        "required": ["type", "title", "status", "detail", "code"],
    }


def _ref(kind: type) -> Schema:
    return {"$ref": REF.format(name=_name(kind))}


def _name(kind: type) -> str:
    return kind.__name__


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)
