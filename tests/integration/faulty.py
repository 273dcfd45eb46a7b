"""`parley serve` with defects: handlers that raise errors with their arguments in message and local variables.

Run as `python -m tests.integration.faulty serve`.
"""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from handlers.model import Caller
from handlers.presence import Presence
from handlers.users import Users
from server.cli.main import main
from store.model import User


async def search(
    self: Users, caller: Caller, q: str, limit: int, cursor: str | None
) -> tuple[Sequence[User], str | None]:
    remembered = {"email": q}
    try:
        raise KeyError(remembered["email"])
    except KeyError as error:
        raise ValueError(f"cannot look for '{q}'") from error


async def get(self: Presence, caller: Caller, connected: Any, user_ids: Collection[UUID]) -> Any:
    raise RuntimeError(f"no presence of {user_ids!r}")


Users.search = search  # type: ignore[method-assign]
Presence.get = get  # type: ignore[method-assign]
main()
