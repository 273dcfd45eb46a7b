"""The API's description: as documents at /openapi.json and /asyncapi.json (the hub), as a page at /docs.

Owns the routes. The page is rendered here from the same document. It has no script and loads nothing from other hosts.
"""

import re
import textwrap
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import NamedTuple

from markupsafe import Markup
from quart import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from server.rest import asyncapi
from server.rest.openapi import PROBLEM, Provider
from server.rest.operations import JSON, Schema, left_out
from server.rest.requests import open_route

POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
MAX_AGE = "public, max-age=300"  # it changes with the program
_ESCAPED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
MARK = re.compile(r"^ *(?:#|//): ([\w ]+)\n", re.MULTILINE)  # before each piece of a tour: what it shows
# The programs that the examples are pieces of, each run from end to end by the tests.
CURL, JAVASCRIPT, PYTHON, STOCK = TOURS = ("tour.sh", "client.mjs", "client.py.txt", "tour.mjs")
LANGUAGES = {
    CURL: "curl",
    JAVASCRIPT: "JavaScript",
    PYTHON: "Python",
    STOCK: "JavaScript, with a SignalR client",
}
START = {
    CURL: ("start", "usersCreate", "conversationsCreate", "messagesCreate"),
    JAVASCRIPT: ("start", "ReceiveMessage", "conversationsCreate", "SendMessage"),
    PYTHON: ("start", "Sync", "ReceiveMessage", "usersCreate", "conversationsCreate", "SendMessage", "end"),
    STOCK: ("start", "ReceiveMessage", "Sync", "SendMessage"),
}


def blueprint(described: Provider) -> Blueprint:
    routes = Blueprint("docs", __name__)

    @cache
    def page() -> bytes:
        return render(described.schema(), asyncapi.document(described.settings)).encode()

    @cache
    def of_hub() -> bytes:
        return asyncapi.encoded(described.settings)

    @cache
    def entrance() -> bytes:
        return resources.files("server.rest").joinpath("pages/root.html").read_bytes()

    @cache
    def style() -> bytes:
        return resources.files("server.rest").joinpath("pages/docs.css").read_bytes()

    if described.settings.web != "on":  # else the chat page is there (`server.web.routes`)

        @routes.get("/")
        @left_out("it shows people where to go")
        @open_route
        async def root() -> Response:
            if "text/html" not in request.headers.get("Accept", ""):
                raise NotFound
            response = _cached(entrance(), "text/html; charset=utf-8")
            response.headers["Vary"] = "Accept"
            return response

    @routes.get("/openapi.json")
    @left_out("it is the description")
    @open_route
    async def openapi() -> Response:
        return _cached(described.encoded(), JSON)

    @routes.get("/asyncapi.json")
    @left_out("it is the description of the hub")
    @open_route
    async def asyncapi_document() -> Response:
        return _cached(of_hub(), JSON)

    @routes.get("/docs")
    @left_out("it is the description, for people")
    @open_route
    async def docs() -> Response:
        return _cached(page(), "text/html; charset=utf-8")

    @routes.get("/docs/style.css")
    @left_out("it is a part of that page")
    @open_route
    async def stylesheet() -> Response:
        return _cached(style(), "text/css; charset=utf-8")

    return routes


def _cached(content: bytes, kind: str) -> Response:
    response = Response(content, content_type=kind)
    response.headers["Cache-Control"] = MAX_AGE
    response.headers["Content-Security-Policy"] = POLICY
    response.set_etag(sha256(content).hexdigest()[:16])
    if request.if_none_match.contains_weak(response.get_etag()[0] or ""):
        return Response("", status=304, headers={"ETag": response.headers["ETag"]})
    return response


# -- the page ---------------------------------------------------------------------------------


def render(document: Schema, hub: Schema) -> str:
    """Return the page of both documents. Its examples are pieces of programs that the tests run from end to end."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    pages = Environment(
        loader=PackageLoader("server.rest", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"prose": _prose, "kind": _kind, "rules": _rules, "lines": _lines}
    reader = _Reader(document, hub)
    return pages.get_template("docs.html").render(
        document=document,
        hub=hub,
        groups=list(reader.groups()),
        methods=list(reader.methods()),
        events=list(reader.events()),
        schemas=dict(sorted({**hub["components"]["schemas"], **document["components"]["schemas"]}.items())),
        reader=reader,
        start={name: start(name) for name in TOURS},
        languages=LANGUAGES,
        examples={name: pieces(name) for name in TOURS},
    )


def source(name: str) -> str:
    return resources.files("server.rest").joinpath(f"pages/{name}").read_text().strip()


def pieces(name: str) -> dict[str, str]:
    """The pieces of a tour, by what they show: a method, an event or an operation, or several of them."""
    return {shown: textwrap.dedent(text) for shown, text in _as_they_stand(name).items()}


def start(name: str) -> str:
    """Those at the beginning, and the first steps: a program by itself."""
    found = _as_they_stand(name)
    return "\n".join(found[shown] for shown in START[name])


def _as_they_stand(name: str) -> dict[str, str]:
    _, *found = MARK.split(source(name) + "\n")
    rows = zip(found[::2], found[1::2], strict=True)
    return {each: text.strip("\n") for shown, text in rows for each in shown.split()}


class Row(NamedTuple):
    """A parameter or a field in a table."""

    name: str
    where: str
    schema: Schema
    text: str
    is_required: bool


class _Reader:
    """Reads both documents for the page: groups operations by tag, follows references, knows fields and arguments."""

    def __init__(self, document: Schema, hub: Schema) -> None:
        self._document = document
        self._hub = hub

    def methods(self) -> Iterator[Schema]:
        for name, said in self._hub["operations"].items():
            if said["action"] == "receive":
                messages = self._hub["components"]["messages"]
                answer = messages.get(f"{name}Answer") or messages[f"{name}Item"]
                fields = answer["payload"]["properties"]
                yield {
                    **said,
                    "name": name,
                    "rows": self._arguments(name),
                    "is_stream": "item" in fields,
                    "result": fields.get("result") or fields["item"],
                    "errors": {code: self._hub["x-error-codes"][code] for code in said["x-errors"]},
                }

    def events(self) -> Iterator[Schema]:
        for name, said in self._hub["operations"].items():
            if said["action"] == "send":
                yield {**said, "name": name, "rows": self._arguments(name)}

    def _arguments(self, name: str) -> list[Row]:
        payload = self._hub["components"]["messages"][name]["payload"]["properties"]["arguments"]
        return [
            Row(schema["title"], "", schema, schema.get("description", ""), number < payload["minItems"])
            for number, schema in enumerate(payload.get("items", ()))
        ]

    def groups(self) -> Iterator[tuple[Schema, list[Schema]]]:
        operations = [
            {**operation, "method": method.upper(), "path": path, "is_open": operation.get("security") == []}
            for path, methods in self._document["paths"].items()
            for method, operation in methods.items()
        ]
        for tag in self._document["tags"]:
            yield tag, [operation for operation in operations if tag["name"] in operation["tags"]]

    def parameters(self, operation: Schema) -> list[Row]:
        return [
            Row(said["name"], said["in"], said["schema"], said["description"], said["required"])
            for said in operation["parameters"]
        ]

    def fields(self, schema: Schema) -> list[Row]:
        required = schema.get("required", ())
        return [
            Row(name, "", field, field.get("description", ""), name in required)
            for name, field in schema.get("properties", {}).items()
        ]

    def resolved(self, schema: Schema) -> Schema:
        """Return the target of a reference, or the schema itself if it is not one."""
        found = schema
        if "$ref" in schema:
            found = self._document
            for name in schema["$ref"].removeprefix("#/").split("/"):
                found = found[name]
        return found

    def content(self, message: Schema) -> Iterator[tuple[str, Schema]]:
        """Yield (media type, schema) of a body. Problems are left out, as the page describes them once."""
        for media, said in message.get("content", {}).items():
            if media != PROBLEM:
                yield media, said.get("schema", {})


def _prose(text: str) -> Markup:
    """Render the one mark of CommonMark that occurs in descriptions, `code`."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", text.translate(_ESCAPED))
    return Markup(marked)  # escaped above


def _lines(text: str) -> list[str]:
    return [line.removeprefix("- ") for line in text.splitlines() if line]


def _kind(schema: Schema) -> str:
    """The type in a few words, or the name of the schema."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema and "type" not in schema:
        return " or ".join(dict.fromkeys(map(_kind, schema["anyOf"])))
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    if "enum" in schema and "type" not in schema:
        return "integer"  # the index of a choice
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_kind(schema['additionalProperties'])}"
    return str(schema.get("format") or schema.get("type") or "anything")


def _rules(schema: Schema) -> Iterator[str]:
    """Limits, choices and defaults, one by one."""
    alternatives = schema.get("anyOf", ())
    if "enum" in schema:
        yield "one of " + ", ".join(map(str, schema["enum"]))
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None or high is not None:
        yield f"{'' if low is None else low} to {'any' if high is None else high}"
    if "maxLength" in schema:
        yield f"at most {schema['maxLength']} characters"
    if "minLength" in schema:
        yield f"at least {schema['minLength']}"
    if "maxItems" in schema:
        yield f"at most {schema['maxItems']} items"
    for alternative in alternatives:
        yield from _rules(alternative)
    if schema.get("default") is not None:
        yield f"default {schema['default']}"
