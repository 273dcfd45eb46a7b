"""Paths are matched without case, as ASP.NET matches them: /api/Users/{id} is /api/users/{id}.

Owns the words of our paths. Ids and keys are left as they are, and so is what an application chose, which may be such a
word by chance. What is behind this looks at paths before they are routed, so it has them as they are routed: with one
slash at the beginning.
"""

from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

from werkzeug.routing import Map

from server.protocol.http1.head import one_slash

CHOSEN = "<external:"

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


def any_case(app: App, rules: Map) -> App:
    """Wrap an ASGI app so that the fixed words of a path get the spelling that they have in `rules`."""
    parts = {part for rule in rules.iter_rules() for part in rule.rule.split("/") if part and "<" not in part}
    words = {part.casefold(): part for part in parts}
    split = [rule.rule.split("/") for rule in rules.iter_rules()]
    before_chosen = {one for row in split for one, part in pairwise(row) if part.startswith(CHOSEN)}

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if path and (path.startswith("//") or not path.islower()):
            found = one_slash(path).split("/")
            for number, word in enumerate(found):
                if not (number and found[number - 1] in before_chosen):
                    found[number] = words.get(word.casefold(), word)
            spelled = "/".join(found)
            if spelled != path:
                scope = {**scope, "path": spelled, "raw_path": spelled.encode()}
        await app(scope, receive, send)

    return serve
