"""Paths are matched without case, as ASP.NET matches them: /api/Users/{id} is /api/users/{id}.

Owns the words of our paths. Ids and keys are left as they are.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from werkzeug.routing import Map

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


def any_case(app: App, rules: Map) -> App:
    """Wrap an ASGI app so that the fixed words of a path get the spelling that they have in `rules`."""
    parts = {part for rule in rules.iter_rules() for part in rule.rule.split("/") if part and "<" not in part}
    words = {part.casefold(): part for part in parts}

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if path and not path.islower():
            spelled = "/".join(words.get(word.casefold(), word) for word in path.split("/"))
            if spelled != path:
                scope = {**scope, "path": spelled, "raw_path": spelled.encode()}
        await app(scope, receive, send)

    return serve
