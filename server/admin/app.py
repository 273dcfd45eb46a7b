"""The admin interface over HTTP: `/metrics` for Prometheus, and on the Unix socket the routes of `parley inspect`.

Owns the routes. `snapshots` and `task_tree` collect what they show, `control` has the actions.
"""

from collections.abc import Mapping
from typing import Protocol

import trio
from quart import Blueprint, Response, request
from quart_trio import QuartTrio

from handlers import text_rules
from handlers.errors import ChatError
from server.admin import snapshots, task_tree
from server.admin.control import Control
from server.admin.schemas import HealthView, PoolView
from server.fanout.rooms import Rooms
from server.hub.server import HubServer
from server.metrics import sources
from server.metrics.scrape import scrape
from server.observability.health_checks import Check
from server.observability.version import version
from server.rest import problems
from server.rest.routes.health import run_checks
from store.postgres.group_commit import Lanes
from store.postgres.pool import Pool

DEFAULT_LIMIT = 50
MAX_LIMIT = 100_000
MAX_BODY = 4096  # bytes; no route here reads a body


class Parts(sources.Parts, Protocol):
    """The parts of an instance that are shown (`server.instance.Instance`)."""

    hub: HubServer
    rooms: Rooms
    lanes: Lanes

    @property
    def checks(self) -> Mapping[str, Check]: ...

    @property
    def pools(self) -> Mapping[str, Pool]: ...


def metrics_app(parts: sources.Parts) -> QuartTrio:
    """Return an app that serves `/metrics` only."""
    app = QuartTrio("server.admin", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    turn = trio.Lock()

    @app.get("/metrics")
    async def metrics() -> Response:
        async with turn:  # concurrent scrapes would delay the clients of this instance
            body, content_type = await scrape(parts, request.headers.get("Accept", ""))
        return Response(body, content_type=content_type)

    problems.install(app)
    return app


def admin_app(parts: Parts, control: Control) -> QuartTrio:
    """Return the whole app: metrics, snapshots and actions."""
    app = metrics_app(parts)
    app.register_blueprint(_questions(parts, control))
    app.register_blueprint(_orders(control))
    return app


def _questions(parts: Parts, control: Control) -> Blueprint:
    routes = Blueprint("questions", __name__)

    @routes.get("/status")
    async def status() -> Response:
        return _answer(control.status())

    @routes.get("/settings")
    async def settings() -> Response:
        return _answer(control.list_settings())

    @routes.get("/health")
    async def health() -> Response:
        verdict, results = await run_checks(parts.checks)
        shown = {name: str(result) for name, result in results.items()}  # Note is a str
        return _answer(HealthView(verdict, shown, version()))

    @routes.get("/instances")
    async def instances() -> Response:
        return _answer(await control.list_instances())

    @routes.get("/connections")
    async def connections() -> Response:
        order = request.args.get("sort", "send_queue")
        if order not in snapshots.ORDERS:
            raise ChatError("invalid_request", f"Sort by one of {', '.join(snapshots.ORDERS)}.")
        user = request.args.get("user")
        found = await snapshots.list_connections(
            parts.hub.connections,
            parts.rooms,
            user=await control.find_user(user) if user else None,
            order=order,
            limit=_limit(),
            now=trio.current_time(),
        )
        return _answer(found)

    @routes.get("/rooms")
    async def rooms() -> Response:
        return _answer(await snapshots.list_rooms(parts.rooms, _limit()))

    @routes.get("/lanes")
    async def lanes() -> Response:
        return _answer(parts.lanes.statistics_each())

    @routes.get("/pool")
    async def pool() -> Response:
        return _answer([PoolView(name, pool.statistics()) for name, pool in parts.pools.items()])

    @routes.get("/tree")
    async def nursery_tree() -> Response:
        return _answer(await task_tree.grow(parts.hub.connections))

    return routes


def _orders(control: Control) -> Blueprint:
    routes = Blueprint("orders", __name__)

    @routes.post("/connections/<connection_id>/kill")
    async def kill(connection_id: str) -> Response:
        control.kill(connection_id)
        return _answer({"killed": connection_id})

    @routes.post("/users/<user>/kill")
    async def kill_user(user: str) -> Response:
        user_id = await control.find_user(user)
        return _answer(await control.kill_user(user_id))

    @routes.post("/log-level/<level>")
    async def log_level(level: str) -> Response:
        control.set_log_level(level)
        return _answer({"level": level})

    @routes.post("/drain")
    async def drain() -> Response:
        control.drain()
        return _answer(control.status())

    return routes


def _answer(body: object) -> Response:
    return Response(snapshots.encode(body), content_type="application/json")


def _limit() -> int:
    found = text_rules.whole_number(request.args.get("limit", str(DEFAULT_LIMIT)), 1, MAX_LIMIT)
    if found is None:
        raise ChatError("invalid_request", f"The limit is between 1 and {MAX_LIMIT}.")
    return found
