"""Text that cannot be stored and numbers that no type holds, in every parameter of every REST route and hub method.

Routes, methods and their parameters are taken from the process's own tables, so that a new one is tried by itself.
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

import httpx
import msgspec
import pytest
import structlog
import trio
from structlog.typing import EventDict

from loadtest.client import HubClient, HubError, connect
from server.hub import methods
from server.hub.dispatch import STREAM, Declaration
from tests.server.rest.test_permissions import METHODS, RULES, World, routes_of
from tests.site import open_site

MARKER = "geheimnisvoll"  # in what is sent: it may not be in the log
DIGITS = "9" * 5000  # Python refuses to read so many
PLACE = "\N{REPLACEMENT CHARACTER}"  # of the value, in a body that is written before
HEADERS = (
    *("User-Agent", "X-Request-Id", "Origin", "Cookie", "Accept", "Accept-Language", "Range", "X-Forwarded-For"),
    *("X-Forwarded-Proto", "traceparent", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match"),
)


def _packed(text: bytes) -> bytes:
    plain = b"x" * len(text)
    return msgspec.msgpack.encode(plain.decode()).replace(plain, text)


class Value(NamedTuple):
    """How it is written in JSON, in MessagePack, in an address and in a header; None where it cannot be said."""

    json: bytes
    msgpack: bytes | None
    quoted: str
    header: bytes | None


TEXT = MARKER.encode()
CUT = TEXT + b"\xed\xa0\xbd"
VALUES = {
    "surrogate": Value(b'"%b\\ud83d"' % TEXT, _packed(CUT), f"{MARKER}%ED%A0%BD", CUT),
    "NUL": Value(b'"%b\\u0000"' % TEXT, _packed(TEXT + b"\0"), f"{MARKER}%00", None),  # no head is read with one
    "2**63": Value(b"%d" % 2**63, msgspec.msgpack.encode(2**63), str(2**63), b"%d" % 2**63),
    "digits": Value(DIGITS.encode(), msgspec.msgpack.encode(DIGITS), DIGITS, DIGITS.encode()),
}
# What may be so: the parameter takes the value, or passes over it.
TAKEN = {
    ("query q", "2**63"): "a user may be called so",
    ("query reason", "2**63"): "a text like any other",
    ("query cursor", "2**63"): "of a list by name: a name to go on from",
    ("query negotiateVersion", "NUL"): "SignalR's own servers take any version that they do not know for the first",
    ("query negotiateVersion", "2**63"): "the same",
    ("query negotiateVersion", "digits"): "the same",
    ("query useStatefulReconnect", "NUL"): "whatever is not true is false",
    ("query useStatefulReconnect", "2**63"): "the same",
    ("query useStatefulReconnect", "digits"): "the same",
    ("body name", "NUL"): "of a file: what cannot be shown is taken out of its name",
}


BODIES: dict[str, Any] = {"POST /api/users": {"username": "new"}}  # of routes that need no token


class Try(NamedTuple):
    what: str
    path: str
    content: bytes | None = None
    headers: Mapping[bytes, bytes] = MappingProxyType({})


@pytest.fixture
async def world(database: str, redis_url: str, nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[World]:
    async with open_site(database, redis_url, nursery, objects=f"file://{tmp_path}/files") as site:
        found = World(site)
        await found.settle()
        yield found


def require_silence(logs: list[EventDict]) -> None:
    """Nothing of what was sent, and no defect."""
    said = [line for line in logs if MARKER in repr(line) or DIGITS[:100] in repr(line)]
    assert not said, said[0]
    assert not [line for line in logs if line["log_level"] in ("error", "critical") or "exc_info" in line]


# -- REST ------------------------------------------------------------------------------------------------------------


def resolved(document: Any, schema: Any) -> Any:
    while "$ref" in schema:
        found = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def fields(document: Any, schema: Any) -> dict[str, bool]:
    """The fields of a body, and whether each is a list."""
    schema = resolved(document, schema)
    found: dict[str, bool] = {}
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        found |= fields(document, branch)
    for name, one in schema.get("properties", {}).items():
        one = resolved(document, one)
        kinds = [one, *(resolved(document, each) for each in one.get("anyOf", ()))]
        found[name] = found.get(name, False) or any(kind.get("type") == "array" for kind in kinds)
    return found


def tries(document: Any, route: str, request: Any, value: Value, *, headers: bool) -> Iterator[Try]:
    """The request with this value in each of its parameters in turn."""
    method, _, pattern = route.partition(" ")
    address, body, _ = request
    path, _, query = address.partition("?")
    content = None if body is None else json.dumps(body).encode()
    described = document["paths"].get(pattern, {}).get(method.lower(), {})
    parts = path.split("/")
    for index, part in enumerate(pattern.split("/")):
        if part.startswith("{"):
            changed = [*parts[:index], value.quoted, *parts[index + 1 :]]
            yield Try(f"path {part}", "/".join(changed) + (query and f"?{query}"), content)
    for parameter in described.get("parameters", ()):
        parameter = resolved(document, parameter)
        name = parameter["name"]
        if parameter["in"] == "query":
            others = [one for one in query.split("&") if one and not one.startswith(f"{name}=")]
            yield Try(f"query {name}", f"{path}?{'&'.join([*others, f'{name}={value.quoted}'])}", content)
    schema = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    for name, is_list in fields(document, schema).items():
        made = json.dumps({**(body or {}), name: [PLACE] if is_list else PLACE}, ensure_ascii=False)
        yield Try(f"body {name}", address, made.encode().replace(f'"{PLACE}"'.encode(), value.json))
    if headers and value.header is not None:
        for name in HEADERS:
            yield Try(f"header {name}", address, content, {name.encode(): value.header})


def wrong(tried: Try, name: str, answer: httpx.Response) -> str:
    """What is wrong with the answer; empty when nothing is."""
    if answer.status_code >= 500:
        return f"{answer.status_code}"
    if answer.status_code < 400:
        is_taken = (tried.what, name) in TAKEN or tried.what.startswith("header ")
        return "" if is_taken else f"{answer.status_code}: it was taken"
    problem = answer.json()
    kind, _, field = tried.what.partition(" ")
    if problem["code"] == "internal" or not problem["detail"]:
        return f"{problem['code']} {problem['detail']}"
    if kind == "body" and answer.status_code == 400 and not {field, f"{field}[0]", "body"} & {*problem["errors"]}:
        return f"it names {list(problem['errors'])}"
    return ""


async def test_every_parameter_of_every_route(world: World) -> None:
    """Each gets an error that says what is wrong, and where; nothing of it is logged. Headers on one route that reads
    and one that writes: what they mean is read in one place for all."""
    site = world.site
    document = (await site.http.get("/openapi.json")).json()
    found, count = [], 0
    with structlog.testing.capture_logs() as logs:
        for route in sorted(routes_of(site)):
            method, _, pattern = route.partition(" ")
            request = RULES[route][0].ask(world.of("owner")) if route in RULES else (pattern, BODIES.get(route), {})
            for name, value in VALUES.items():
                headers = route in ("GET /api/users/me", "POST /api/messages")
                for tried in tries(document, route, request, value, headers=headers):
                    sent = {b"Authorization": f"Bearer {world.tokens['owner']}".encode()}
                    sent |= {} if tried.content is None else {b"Content-Type": b"application/json"}
                    answer = await site.http.request(
                        method, tried.path, content=tried.content, headers={**sent, **tried.headers}
                    )
                    count += 1
                    text = wrong(tried, name, answer)
                    if text:
                        found.append(f"{route}, {tried.what}, {name}: {text}")
    assert not found, found
    assert count > 300
    require_silence(logs)


# -- the hub ---------------------------------------------------------------------------------------------------------

GOOD = {"invalid_request", "invalid_content", "invalid_cursor", "unauthenticated", "forbidden", "not_found"}
TAKEN_BY_HUB = {
    ("SendMessage", "message.content", "digits"): "a text like any other, where a text can have digits",
    ("EditMessage", "content", "digits"): "the same",
}


def branches(kind: Any) -> Iterator[Any]:
    """The plain types of an annotation."""
    if get_origin(kind) in (Union, UnionType):
        for one in get_args(kind):
            yield from branches(one)
    elif hasattr(kind, "__metadata__"):
        yield from branches(get_args(kind)[0])
    else:
        yield kind


def is_json(value: msgspec.Raw) -> bool:
    return bytes(value) in [each.json for each in VALUES.values()]


def replaced(kind: Any, given: Any, value: msgspec.Raw) -> Iterator[tuple[str, Any]]:
    """The argument with this value in its place, and in that of each part of it."""
    yield "", value
    for one in branches(kind):
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            for field in msgspec.structs.fields(one):
                base = given if isinstance(given, dict) else {}
                for place, part in replaced(field.type, base.get(field.encode_name), value):
                    yield f".{field.encode_name}{place}", {**base, field.encode_name: part}
        elif get_origin(one) is list:
            yield "[0]", [value]
        elif get_origin(one) is dict:
            [key] = given
            for place, part in replaced(get_args(one)[1], None, value):
                yield f"[...]{place}", {key: part}
            if not is_json(value):
                yield "[key]", msgspec.Raw(b"\x81%b\x00" % bytes(value))
            elif bytes(value).startswith(b'"'):
                yield "[key]", msgspec.Raw(b"{%b:0}" % bytes(value))


async def ask(client: HubClient, declared: Declaration, arguments: list[Any]) -> str:
    """The code of the error; empty when there was none."""
    try:
        with trio.fail_after(300):
            if declared.kind is STREAM:
                async for _ in client.stream(declared.name, *arguments):
                    pass
            else:
                await client.invoke(declared.name, *arguments)
    except HubError as error:
        return error.code
    return ""


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_every_parameter_of_every_method(world: World, protocol: str) -> None:
    """Each gets an error that says so, on a connection that goes on; nothing of it is logged."""
    token, found, count = world.tokens["owner"], [], 0
    with structlog.testing.capture_logs() as logs:
        async with connect(f"{world.site.url}/hubs/chat", token, protocol=protocol) as client:
            for declared in methods.METHODS:
                given = METHODS[declared.name][0].ask(world.of("owner"))
                for name, value in VALUES.items():
                    raw = value.json if protocol == "json" else value.msgpack
                    if raw is None:
                        continue
                    for index, parameter in enumerate(declared.parameters):
                        base = given[index] if index < len(given) else None
                        for place, made in replaced(parameter.annotation, base, msgspec.Raw(raw)):
                            before = [*given[:index], *[None] * (index - len(given))]
                            code = await ask(client, declared, [*before, made, *given[index + 1 :]])
                            count += 1
                            good = {"invalid_request"} if name == "surrogate" else GOOD
                            if code not in good and (declared.name, parameter.name + place, name) not in TAKEN_BY_HUB:
                                found.append(f"{declared.name}, {parameter.name}{place}, {name}: {code or 'taken'}")
            assert await client.invoke("Ping") == {}
    assert not found, found
    assert count > 100
    require_silence(logs)
