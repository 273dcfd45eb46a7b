"""People who chat while some of them are muted, kept out, blocked or banned, and let again."""

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import trio
from msgspec import Meta

from loadtest import results
from loadtest.oracle import invariants
from loadtest.oracle.refusals import BANNED, EVERYWHERE, GONE, MUTED, UNAVAILABLE, Kept
from loadtest.rest import RestError
from loadtest.scenarios.base import Cast, Common, Scenario, Size
from loadtest.virtual_user import VirtualUser

if TYPE_CHECKING:
    from loadtest.world import World

APART = 12  # two people in a direct conversation: in one worker, of however few there are
AGAIN = 0.2  # seconds after which an act is repeated that had no answer
ENDS_WITHIN = 60.0  # seconds for the connection of who is banned: long past the promise, which the report has
JSON = [("Content-Type", "application/json")]
ACTS = ("muted", "kept out", "blocked", "banned")
ENDED = "ban"  # the operation that is timed: from the answer of a ban until the connection of its user has ended


class Parameters(Common, frozen=True, kw_only=True):
    MIX = ("writes", "direct", "typing", "mutes", "blocks", "bans", "removals")
    members: Annotated[int, Meta(ge=3, description="of each group, the first of whom moderates it")] = 24
    groups: Annotated[int, Meta(ge=1, description="groups; no user is in two")] = 4
    writes: Annotated[float, Meta(ge=0, description="weight of messages to the group, among the arrivals")] = 50
    direct: Annotated[float, Meta(ge=0, description="weight of messages in direct conversations")] = 30
    typing: Annotated[float, Meta(ge=0, description="weight of StartTyping")] = 15
    mutes: Annotated[float, Meta(ge=0, description="weight of mutes")] = 2
    blocks: Annotated[float, Meta(ge=0, description="weight of blocks, by the other user")] = 2
    bans: Annotated[float, Meta(ge=0, description="weight of bans; none without the signing key of the server")] = 1
    removals: Annotated[float, Meta(ge=0, description="weight of removals from the group, for good")] = 0.2
    lasts: Annotated[float, Meta(gt=0, description="seconds that all but a removal lasts")] = 1.0
    size: Size = 100
    rate: Annotated[float, Meta(ge=0, description="arrivals per second, in all")] = 200.0


class Moderation(Scenario):
    name = "moderation"
    stresses = "mutes, removals, blocks and bans of people who go on writing: nothing refused is stored or shown"
    example = "parley loadtest run moderation --dev --instances 2"
    Parameters = Parameters

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self._busy: set[int] = set()  # those with whom something is being done

    def cast(self) -> Cast:
        size = self.parameters.members
        people = size * self.parameters.groups
        groups = [tuple(range(start, start + size)) for start in range(0, people, size)]
        starts = range(0, people - 2 * APART + 1, 2 * APART)
        pairs = [(start + number, start + number + APART) for start in starts for number in range(APART)]
        return Cast(people=people, pairs=pairs, groups=groups)

    def act(self, world: "World", due: float) -> None:
        given, rng = self.parameters, world.rng
        virtual_user = rng.choice(world.actors)
        group = next((one for one in virtual_user.conversations if len(world.conversations[one].members) > 2), None)
        direct = next((one for one in virtual_user.conversations if len(world.conversations[one].members) == 2), None)
        acts = ("write", "direct", "type", "mute", "block", "ban", "remove")
        weights = (given.writes, given.direct, given.typing, given.mutes, given.blocks, given.bans, given.removals)
        match rng.choices(acts, weights)[0]:
            case "write" if group is not None:
                virtual_user.send(group, due, given.size)
            case "direct" if direct is not None:
                virtual_user.send(direct, due, given.size)
            case "type":
                virtual_user.type(rng.choice(virtual_user.conversations or [*world.conversations]))
            case "mute" if group is not None:
                self._begin(world, virtual_user, lambda: self._mute(world, virtual_user, group))
            case "remove" if group is not None and direct is not None:
                self._begin(world, virtual_user, lambda: self._remove(world, virtual_user, group))
            case "block" if direct is not None:
                self._begin(world, virtual_user, lambda: self._block(world, virtual_user, direct))
            case "ban" if direct is not None and world.plan.admin:
                self._begin(world, virtual_user, lambda: self._ban(world, virtual_user, direct))
            case _:
                pass

    def _begin(self, world: "World", virtual_user: VirtualUser, act: Any) -> None:
        """One act at a time on each; those who moderate are not acted on."""
        number = virtual_user.number
        if number in self._busy or number % self.parameters.members == 0:
            return
        self._busy.add(number)

        async def run() -> None:
            await act()
            self._busy.discard(number)

        world.request(run)

    async def _mute(self, world: "World", subject: VirtualUser, group: str) -> None:
        owner = self._owner(world, group)
        if owner is None:
            return
        path = f"/api/conversations/{group}/members/{subject.user_id}/mute"
        kept = subject.refusals.keep(MUTED, group)
        await self._hold(world, owner, path, [kept])
        world.recorder.count("muted")

    async def _block(self, world: "World", subject: VirtualUser, direct: str) -> None:
        partner = self._partner(world, subject, direct)
        if partner is None or partner.number in self._busy:
            return
        kept = subject.refusals.keep(UNAVAILABLE, direct)
        subject.refusals.hide(partner.user_id, kept)
        partner.refusals.hide(subject.user_id, kept)
        await self._hold(world, partner.person.token, f"/api/users/me/blocks/{subject.user_id}", [kept])
        world.recorder.count("blocked")

    async def _ban(self, world: "World", subject: VirtualUser, direct: str) -> None:
        partner = self._partner(world, subject, direct)
        if partner is None or subject.number == 0:
            return
        held = [subject.refusals.keep(BANNED, EVERYWHERE), partner.refusals.keep(UNAVAILABLE, direct)]
        subject.retire()
        path = f"/api/users/{subject.user_id}/ban"
        await self._answered(world, "PUT", path, world.plan.admin, held)
        answered = world.now()
        with trio.move_on_after(ENDS_WITHIN):
            await world.wait_for(lambda: subject.connection is None)
        if subject.connection is not None:
            text = f"p{subject.number} is connected, {ENDS_WITHIN:g} s after they were banned"
            world.oracle.breach(invariants.RESTRICTED, text, virtual_user=subject.number)
        world.recorder.record(ENDED, answered)
        await trio.sleep(self.parameters.lasts)
        await self._over(world, path, world.plan.admin, held)
        subject.connect()
        await world.wait_for(lambda: subject.online)
        world.recorder.count("banned")

    async def _remove(self, world: "World", subject: VirtualUser, group: str) -> None:
        owner = self._owner(world, group)
        if owner is None:
            return
        kept = subject.refusals.keep(GONE, group)
        await self._answered(world, "PUT", f"/api/conversations/{group}/bans/{subject.user_id}", owner, [kept])
        subject.remove(group)
        before = world.conversations[group]
        members = tuple(number for number in before.members if number != subject.number)
        world.conversations[group] = msgspec.structs.replace(before, members=members)
        world.recorder.count("kept out")

    async def _hold(self, world: "World", token: str, path: str, held: list[Kept]) -> None:
        await self._answered(world, "PUT", path, token, held)
        await trio.sleep(self.parameters.lasts)
        await self._over(world, path, token, held)

    async def _answered(self, world: "World", method: str, path: str, token: str, held: list[Kept]) -> None:
        await _repeated(world, method, path, token)
        for kept in held:
            kept.answer(world.now())

    async def _over(self, world: "World", path: str, token: str, held: list[Kept]) -> None:
        for kept in held:
            kept.end(world.now())
        await _repeated(world, "DELETE", path, token)
        for kept in held:
            kept.finish(world.now())

    @staticmethod
    def _owner(world: "World", group: str) -> str | None:
        """The token of who moderates it; None: they belong to another worker."""
        owner = world.virtual_users.get(world.conversations[group].members[0])
        return None if owner is None else owner.person.token

    @staticmethod
    def _partner(world: "World", virtual_user: VirtualUser, direct: str) -> VirtualUser | None:
        others = [number for number in world.conversations[direct].members if number != virtual_user.number]
        return world.virtual_users.get(others[0])

    def figures(self, result: results.Result) -> dict[str, float]:
        return {act: sum(sample.counters.get(act, 0) for sample in result.samples) for act in ACTS}


async def _repeated(world: "World", method: str, path: str, token: str) -> None:
    """Until it is answered. Raises RestError if it is refused."""
    body = (b"{}", JSON) if method == "PUT" else (b"", ())
    while True:
        try:
            await world.rest.request(method, path, token, *body)
        except RestError as error:
            if 400 <= error.status < 500 and error.status != 429:
                raise
            await trio.sleep(AGAIN)
        else:
            return
