"""The users and conversations of a run, made up front over the public API, as any client would.

Owns the making, its progress, and the minting of tokens where the signing key is known.
"""

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import jwt
import trio

from loadtest.payloads import Opened, Registered
from loadtest.plan import Conversation, Person
from loadtest.rest import Rest, RestError
from loadtest.scenarios.base import Cast
from loadtest.targets import Target, TargetError, TargetUnfit

T = TypeVar("T")

AT_ONCE = 16  # requests under way
GROUP_BATCH = 1000  # members that one request may name
TOKEN_TTL = 24 * 3600  # seconds
ISSUER, AUDIENCE = "ChatBackend", "ChatBackendUsers"  # the server's defaults
RETRIES = 5

Progress = Callable[[str, int, int], None]  # what, how many, of how many


class Making:
    """Makes the users of one run. `progress` is called now and then."""

    def __init__(self, target: Target, run: str, progress: Progress) -> None:
        self._target = target
        self._run = run
        self._progress = progress
        self._rest = Rest(target.origin, connections=AT_ONCE)

    async def make(self, cast: Cast) -> tuple[list[Person], list[Conversation]]:
        """Raises TargetError."""
        try:
            people = await self._many("people", range(cast.people), self._person)
            groups: list[tuple[int, ...]] = [*cast.pairs, *cast.groups]
            direct = len(cast.pairs)

            async def conversation(index: int) -> Conversation:
                members = groups[index]
                make = self._direct if index < direct else self._group
                made = await make(index, [people[number] for number in members])
                return Conversation(made.id, members, made.last_seq if len(members) > GROUP_BATCH else 0)

            conversations = await self._many("conversations", range(len(groups)), conversation)
        except RestError as error:
            advice = " A server that is to be loaded is started with RATE_LIMITS=off." if error.status == 429 else ""
            raise TargetError(f"{self._target.url}: people cannot be made: {error}{advice}") from None
        finally:
            await self._rest.aclose()
        return people, conversations

    async def _many(self, what: str, numbers: Sequence[int], make: Callable[[int], Awaitable[T]]) -> list[T]:
        """In order, AT_ONCE at a time."""
        made: dict[int, T] = {}
        left = iter(numbers)
        failed: list[RestError] = []

        async def work(scope: trio.CancelScope) -> None:
            for number in left:
                try:
                    made[number] = await make(number)
                except RestError as error:
                    failed.append(error)
                    scope.cancel()
                    return
                if len(made) % 100 == 0:
                    self._progress(what, len(made), len(numbers))

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(work, nursery.cancel_scope)
        if failed:
            raise failed[0]
        self._progress(what, len(made), len(numbers))
        return [made[number] for number in numbers]

    async def _person(self, number: int) -> Person:
        body = {"username": f"{self._run}.{number}", "displayName": f"Load {number}"}
        made = await self._patiently(lambda: self._rest.post("/api/users", "", body, Registered))
        token = mint(self._target.key, made.id) if self._target.key else made.access_token
        if token is None:
            raise TargetUnfit(
                f"{self._target.url} gives new users no token (registration is not open): give the signing --key"
            )
        return Person(number, made.id, token)

    async def _direct(self, _: int, members: list[Person]) -> Opened:
        body = {"type": "Direct", "memberIds": [members[1].id]}
        return await self._patiently(lambda: self._rest.post("/api/conversations", members[0].token, body, Opened))

    async def _group(self, index: int, members: list[Person]) -> Opened:
        """A request names so many; the rest is added one by one."""
        owner, ids = members[0], [member.id for member in members[1:]]
        body = {"type": "Group", "name": f"{self._run} {index}", "memberIds": ids[:GROUP_BATCH]}
        made = await self._patiently(lambda: self._rest.post("/api/conversations", owner.token, body, Opened))
        path = f"/api/conversations/{made.id}/members"

        async def add(number: int) -> None:
            member = {"userId": ids[GROUP_BATCH + number]}
            await self._patiently(lambda: self._rest.post(path, owner.token, member, Opened))

        if len(ids) > GROUP_BATCH:
            await self._many("members", range(len(ids) - GROUP_BATCH), add)
            made = await self._rest.get(f"/api/conversations/{made.id}", owner.token, Opened)
        return made

    @staticmethod
    async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
        """A server under load may be overloaded for a moment, or limit the rate of registrations."""
        for attempt in range(RETRIES):
            try:
                return await call()
            except RestError as error:
                if error.status not in (0, 429, 503) or attempt + 1 == RETRIES:
                    raise
            await trio.sleep(0.5 * 2**attempt)
        raise AssertionError


def check_tokens(people: Sequence[Person], seconds: float) -> None:
    """Raises TargetUnfit when tokens that the API gave end before a run of so many seconds does."""
    try:
        claims = jwt.decode(people[0].token, options={"verify_signature": False})
    except (IndexError, jwt.InvalidTokenError):
        return  # no users, or no token that can be decoded here
    left = claims.get("exp", math.inf) - time.time()
    if left < seconds:
        raise TargetUnfit(
            f"tokens from the API are good for {max(left, 0):.0f} s, the run takes up to {seconds:.0f} s: "
            "give the signing --key"
        )


def mint(key: str, user_id: str, *, is_admin: bool = False, seconds: int = TOKEN_TTL) -> str:
    """A token as the server would give it, or as an operator gives it to an administrator."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": user_id, "iat": now, "nbf": now, "exp": now + seconds}
    if is_admin:
        claims["role"] = "admin"
    return jwt.encode(claims, key, algorithm="HS256")
