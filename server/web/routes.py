"""The routes of the page: itself at `/`, its files at `/web/BUILD/NAME`.

Owns these addresses and their caching. The page is asked for anew each time, and names the build of its files, which
never change under that name: so each is fetched once, and a new version is there with the next visit. While two
versions run side by side, a file of the other build is answered with ours, and not kept.
"""

from typing import Any

import msgspec
from quart import Blueprint, Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import NotFound

from server.config.settings import Settings
from server.rest.operations import left_out
from server.rest.requests import open_route
from server.web import files, policy
from server.web.files import PageFile
from server.web.offer import offer

HTML = "text/html; charset=utf-8"
FOR_EVER = "public, max-age=31536000, immutable"
ASK = "no-cache"  # keep it, and ask whether it is still good


def install(app: QuartTrio, settings: Settings) -> None:
    """Add the routes to the REST application, where the page is switched on."""
    if settings.web == "on":
        app.register_blueprint(_page(settings))


def _page(settings: Settings) -> Blueprint:
    routes = Blueprint("web", __name__)
    found = files.load()
    build = files.build_of(found)
    said = msgspec.json.encode(offer(settings)).decode()
    index = _render("index.html", build=build, offer=said, scripts=files.imported(found, "app.js"))
    headers = policy.headers(settings)

    @routes.get("/")
    @left_out("it is a page for people")
    @open_route
    async def page() -> Response:
        return _file(index, ASK, headers)

    @routes.get("/web/<asked>/<path:name>")
    @left_out("it is a part of that page")
    @open_route
    async def file(asked: str, name: str) -> Response:
        if name not in found:
            raise NotFound("The page has no such file.")
        return _file(found[name], FOR_EVER if asked == build else ASK, {})

    return routes


def _render(template: str, **values: Any) -> PageFile:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    pages = Environment(
        loader=PackageLoader("server.web", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return PageFile.of(template, HTML, pages.get_template(template).render(**values).encode())


def _file(file: PageFile, caching: str, headers: dict[str, str]) -> Response:
    """Answer with a file, compressed where the client takes that; 304 when it has it."""
    is_compressed = request.accept_encodings["gzip"] > 0 and len(file.compressed) < len(file.content)
    response = Response(file.compressed if is_compressed else file.content, content_type=file.content_type)
    response.set_etag(file.digest + ("-gzip" if is_compressed else ""))
    if is_compressed:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Cache-Control"] = caching
    response.headers["Vary"] = "Accept-Encoding"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    for name, value in headers.items():
        response.headers[name] = value
    if request.if_none_match.contains_weak(response.get_etag()[0] or ""):
        kept = ("ETag", "Cache-Control", "Vary")
        return Response("", status=304, headers={name: response.headers[name] for name in kept})
    return response
