"""The API's description: as an OpenAPI document at /openapi.json, as a page at /docs.

Owns the routes. The page is rendered here from the same document. It has no script and loads nothing from other hosts.
"""

import html
import json
import re
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from quart import Blueprint, Response, request

from server.rest.openapi import PROBLEM, Provider
from server.rest.operations import JSON, Schema, left_out
from server.rest.requests import open_route

POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
MAX_AGE = "public, max-age=300"  # it changes with the program
EXAMPLES = {
    "uuid": "0192f0c1-7a10-7c3e-9d51-2f8f3a6b1c44",
    "date-time": "2026-01-31T12:00:00.000Z",
    "uri": "https://example.org/",
    "binary": "(the content)",
}


def blueprint(described: Provider) -> Blueprint:
    routes = Blueprint("docs", __name__)

    @cache
    def page() -> bytes:
        return render(described.schema()).encode()

    @cache
    def style() -> bytes:
        return resources.files("server.rest").joinpath("pages/docs.css").read_bytes()

    @routes.get("/openapi.json")
    @left_out("it is the description")
    @open_route
    async def openapi() -> Response:
        return _cached(described.encoded(), JSON)

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


def render(document: Schema) -> str:
    pages = Environment(
        loader=PackageLoader("server.rest", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"prose": _prose, "kind": _kind, "rules": _rules, "pretty": _pretty, "lines": _lines}
    reader = _Reader(document)
    return pages.get_template("docs.html").render(
        document=document, groups=list(reader.groups()), schemas=document["components"]["schemas"], reader=reader
    )


class Row(NamedTuple):
    """A parameter or a field in a table."""

    name: str
    where: str
    schema: Schema
    text: str
    is_required: bool


class _Reader:
    """Reads an OpenAPI document for the page: groups operations by tag, follows references, makes example bodies."""

    def __init__(self, document: Schema) -> None:
        self._document = document

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

    def example(self, schema: Schema, depth: int = 0) -> object:
        schema = self.resolved(schema)
        if "default" in schema and schema["default"] is not None:
            return schema["default"]
        if "enum" in schema:
            return schema["enum"][0]
        if "properties" in schema:
            return {name: self.example(field, depth + 1) for name, field in schema["properties"].items()}
        if "anyOf" in schema:
            return None if depth > 2 else self.example(schema["anyOf"][0], depth)
        match schema.get("type"):
            case "array":
                return [self.example(schema["items"], depth + 1)]
            case "integer":
                return schema.get("minimum", 0)
            case "boolean":
                return True
            case "object":
                return {}
        return EXAMPLES.get(schema.get("format", ""), "text")


def _prose(text: str) -> Markup:
    """Render the one mark of CommonMark that occurs in descriptions, `code`."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
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


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
