"""The AsyncAPI 3 description of the hub, assembled from its methods and events and their types.

Owns the document. SignalR's envelopes are described as far as a client needs them: an invocation, its completion, items
of streams.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

from handlers.errors import CODES
from server.config.settings import Settings
from server.hub.dispatch import STREAM, Declaration
from server.hub.events import EVENTS
from server.hub.methods import ALWAYS, METHODS, WAITING
from server.hub.server import PATH
from server.protocol.signalr.codec import UuidKey, camel
from server.protocol.signalr.messages import COMPLETION, INVOCATION, STREAM_INVOCATION, STREAM_ITEM
from server.rest.operations import Schema

REF = "#/components/schemas/{name}"
CHANNEL = "hub"
DESCRIPTION = """\
The real-time side of Parley: a SignalR hub, for WebSockets, Server-Sent Events and long polling, in JSON and
MessagePack. Official SignalR clients speak the envelopes below. Negotiate with `POST /hubs/chat/negotiate`, or connect
a WebSocket with an access token. Everything over HTTP is in `/openapi.json`.

An invocation with an id is answered by one completion, with its result or an error: `code: sentence`, and, where there
is more for programs, a line break and a JSON object with `retryAfterMs` and `fields`.
"""
OBJECT = {"type": "object"}
# Where REST's is about pages and headers.
ADVICE = {"invalid_cursor": "Begin with 0.", "rate_limited": "Wait for `retryAfterMs`."}


def document(settings: Settings) -> Schema:
    types, components = _types()
    messages: Schema = {}
    operations: Schema = {}
    for method in METHODS:
        _method(method, types, messages, operations)
    for name, event in EVENTS.items():
        messages[name] = {
            "title": name,
            "summary": event.summary,
            "payload": _envelope(
                INVOCATION,
                name,
                [{"title": shown, **types[str(kind)]} for shown, kind in event.arguments],
                call_id=None,
            ),
        }
        operations[name] = _operation("send", event.summary, [name])
    messages["Failed"] = {
        "title": "Failed",
        "summary": "The answer to an invocation that has failed.",
        "payload": _object({"type": {"const": COMPLETION}, "invocationId": _ID, "error": _error(CODES)}),
    }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Parley hub", "version": "1", "description": DESCRIPTION},
        "defaultContentType": "application/json",
        "servers": {"hub": _server(settings.public_url)},
        "channels": {
            CHANNEL: {
                "address": PATH,
                "description": "One connection of one user.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "bindings": {"ws": {"method": "GET", "query": _QUERY}},
            }
        },
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "accessToken": {"type": "httpApiKey", "in": "query", "name": "access_token"},
            },
        },
        "x-error-codes": {code: f"{row.title}. {ADVICE.get(code, row.advice)}" for code, row in CODES.items()},
    }


def encoded(settings: Settings) -> bytes:
    return msgspec.json.encode(document(settings))


_ID = {"type": "string", "maxLength": 128}
_QUERY = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "The connection token of a negotiation."},
        "access_token": {"type": "string", "description": "An access token, where a header cannot be sent."},
        "sync": {"enum": ["manual"], "type": "string", "description": "Attach to nothing until Sync is called."},
    },
}


def _server(public_url: str) -> Schema:
    url = urlsplit(public_url)
    return {
        "host": url.netloc or "localhost:5000",
        "protocol": "wss" if url.scheme == "https" else "ws",
        "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in ("bearer", "accessToken")],
    }


def _types() -> tuple[dict[str, Schema], Schema]:
    """The schema of each type that is an argument, a result or of an event, by its text; and those they refer to."""
    kinds = [one.annotation for method in METHODS for one in method.parameters]
    kinds += [method.result for method in METHODS]
    kinds += [kind for event in EVENTS.values() for _, kind in event.arguments]
    unique = list({str(kind): kind for kind in kinds}.values())
    found, components = msgspec.json.schema_components(unique, schema_hook=_schema_of, ref_template=REF)
    schemas = dict(zip(map(str, unique), found, strict=True))
    taken = _names(schemas[str(one.annotation)] for method in METHODS for one in method.parameters)
    for name, schema in components.items():
        if "enum" in schema:
            schema["type"] = "string"
        for field_name, field in schema.get("properties", {}).items():
            default = field.pop("default", msgspec.UNSET)
            if default and default is not msgspec.UNSET:
                field["description"] = f"`{default}` when it is left out."
            if default is not msgspec.UNSET and name not in taken:
                schema["required"] = [*schema.get("required", ()), field_name]
    return schemas, components


def _names(schemas: Iterable[Schema]) -> set[str]:
    """Of those that are referred to."""
    found: set[str] = set()
    for schema in schemas:
        for one in (schema, *schema.get("anyOf", ()), schema.get("additionalProperties") or {}):
            for ref in (one, *(one.get("anyOf", ()) if isinstance(one, dict) else ())):
                if isinstance(ref, dict) and "$ref" in ref:
                    found.add(ref["$ref"].rpartition("/")[2])
    return found


def _schema_of(kind: type) -> Schema:
    if kind is UuidKey:
        return {"type": "string", "format": "uuid"}
    if kind is object:
        return {"description": "Anything."}  # an empty one counts as none
    raise NotImplementedError


def _method(method: Declaration, types: dict[str, Schema], messages: Schema, operations: Schema) -> None:
    is_stream = method.kind is STREAM
    kind = STREAM_INVOCATION if is_stream else INVOCATION
    name, summary = method.name, str(method.function.__doc__)
    parameters = [
        {"title": camel(one.name), **types[str(one.annotation)], **_default(one.default, one.empty)}
        for one in method.parameters
    ]
    least = sum(one.default is one.empty for one in method.parameters)
    messages[name] = {
        "title": name,
        "summary": summary,
        "payload": _envelope(kind, name, parameters, least=least, call_id=_ID),
    }
    answers = {f"{name}Answer": (COMPLETION, "result")}
    if is_stream:
        answers = {f"{name}Item": (STREAM_ITEM, "item"), f"{name}End": (COMPLETION, "")}
    for answer, (envelope, field) in answers.items():
        value = {field: types[str(method.result)]} if field else {}
        fields = {"type": {"const": envelope}, "invocationId": _ID, **value}
        messages[answer] = {"title": answer, "payload": _object(fields)}
    operations[name] = {
        **_operation("receive", summary, [name]),
        "reply": {
            "channel": {"$ref": f"#/channels/{CHANNEL}"},
            "messages": [{"$ref": f"#/channels/{CHANNEL}/messages/{one}"} for one in (*answers, "Failed")],
        },
        "x-errors": errors(method),
        "x-cost": method.cost,
    }


def errors(method: Declaration) -> list[str]:
    """Return the codes that a method may end with, in the order of the table."""
    found = {*ALWAYS, *method.errors, *(WAITING if method.waits else ())}
    return [code for code in CODES if code in found]


def _default(value: object, empty: object) -> Schema:
    return {} if value is empty or value is None else {"default": value}


def _operation(action: str, summary: str, names: list[str]) -> Schema:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{CHANNEL}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{CHANNEL}/messages/{name}"} for name in names],
    }


def _envelope(
    kind: int, target: str, arguments: list[Schema], *, call_id: Schema | None, least: int | None = None
) -> Schema:
    most = len(arguments)
    items: Schema = {"type": "array", "maxItems": most, "minItems": most if least is None else least}
    if arguments:
        items["items"] = arguments
    fields = {"type": {"const": kind}, "target": {"const": target}, "arguments": items}
    if call_id is None:
        return _object(fields)
    found = _object({**fields, "invocationId": call_id})
    if kind == INVOCATION:
        found["required"].remove("invocationId")  # without one there is no answer
    return found


def _object(properties: Schema) -> Schema:
    return {**OBJECT, "properties": properties, "required": list(properties)}


def _error(codes: Iterable[str]) -> Schema:
    return {"type": "string", "pattern": f"^(?:{'|'.join(codes)}): "}
