"""One process of the generator: `python -m loadtest.worker`, started by the coordinator, with its orders on standard
input (`loadtest.plan`).

Owns the process. Ends when its input does, so that nothing is left when the coordinator dies.
"""

import gc
import os
import random
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime

import msgspec
import trio

from loadtest import arrivals, plan, results
from loadtest.oracle import invariants
from loadtest.oracle.audit import Audit
from loadtest.recorder import LATE
from loadtest.rest import RestError
from loadtest.scenarios import SCENARIOS
from loadtest.scenarios.base import Enters, HasBackground, Prepares, Scenario
from loadtest.virtual_user import VirtualUser
from loadtest.world import World

BEAT = 1.0  # seconds
GRACE = 1.0  # seconds after a phase in which what was due in it may still end

_encode = msgspec.json.Encoder().encode
_decode_order = msgspec.json.Decoder(plan.Order).decode


class Worker:
    def __init__(self, given: plan.Plan, scenario: Scenario, world: World) -> None:
        self.plan = given
        self.scenario = scenario
        self.world = world
        shards = given.parts // given.workers
        self.share = len(world.actors) / (len(given.actors) or 1) / shards
        self._started_at = datetime.now(UTC)
        self._under_way: set[trio.CancelScope] = set()  # phases

    def report(self, message: plan.Report) -> None:
        sys.stdout.buffer.write(_encode(message) + b"\n")
        sys.stdout.buffer.flush()

    async def follow(self, orders: AsyncIterator[bytes]) -> None:
        """Until the audit is ordered, or the orders end. Phases are played beside the rest."""
        patience: float | None = None
        async with trio.open_nursery() as nursery:
            async for line in orders:
                order = _decode_order(line)
                match order:
                    case plan.Connect():
                        await self._connect()
                    case plan.Begin(at=at):
                        self._begin(at)
                        nursery.start_soon(self._beat)
                        if isinstance(self.scenario, HasBackground):
                            nursery.start_soon(self.scenario.background, self.world)
                    case plan.Play(phase=phase):
                        self.world.recorder.begin(phase)
                        nursery.start_soon(self._play_unless_stopped, phase)
                    case plan.Cut(part=part):
                        self._cut(part)
                    case plan.Stop():
                        self._stop()
                    case plan.Settle(patience=seconds):
                        await self._settle(seconds)
                    case plan.Audit(patience=seconds):
                        patience = seconds
                        break
            nursery.cancel_scope.cancel()
        if patience is not None:
            await self._audit(patience)

    async def _connect(self) -> None:
        world = self.world
        if not self.scenario.gathers:
            self.report(plan.Connected(0, 0))
            return
        virtual_users = list(world.virtual_users.values())
        async with trio.open_nursery() as nursery:

            async def report_online() -> None:
                while True:
                    if world.online < len(virtual_users):  # all of them is the answer, which is given once
                        self.report(plan.Connected(world.online, len(virtual_users)))
                    await trio.sleep(0.5)

            nursery.start_soon(report_online)
            await world.gather(virtual_users)
            if isinstance(self.scenario, Prepares):
                await self.scenario.prepare(world)
            nursery.cancel_scope.cancel()
        self.report(plan.Connected(world.online, len(virtual_users)))

    def _begin(self, at: float) -> None:
        gc.collect()
        gc.freeze()  # people and connections stay: looking through them again and again costs pauses
        self._started_at = datetime.now(UTC)
        self.world.begin(at)

    async def _beat(self) -> None:
        number = 1
        while True:
            await trio.sleep(max(0.0, number * BEAT - self.world.now()))
            number += 1
            sample = self.world.recorder.cut()
            self.report(plan.Beat(sample, sum(self.world.oracle.breached.values())))

    async def _play_unless_stopped(self, phase: results.Phase) -> None:
        with trio.CancelScope() as scope:
            self._under_way.add(scope)
            try:
                await self._play(phase)
            finally:
                self._under_way.discard(scope)

    def _stop(self) -> None:
        for scope in self._under_way:
            scope.cancel()
        self.world.recorder.stop()
        self.report(plan.Stopped())

    async def _play(self, phase: results.Phase) -> None:
        """What is due is done when it is due, or as soon after as we can; its time counts from when it was due."""
        world = self.world
        rng = random.Random(f"{self.plan.seed}-{self.plan.part}-{phase.name}")
        act, recorder = self.scenario.act, world.recorder
        for due in arrivals.times(phase, share=self.share, arrivals=world.parameters.arrivals, rng=rng):
            wait = due - world.now()
            if wait > 0:
                await trio.sleep(wait)
            recorder.count(results.INTENDED)
            recorder.record(LATE, due)
            act(world, due)
        await trio.sleep(max(0.0, phase.end - world.now()))
        with trio.move_on_after(GRACE):
            await world.nothing_under_way()
        histograms = {name: histogram.encode() for name, histogram in recorder.of_phase(phase.name).items()}
        self.report(plan.Played(phase.name, histograms, world.under_way))

    def _cut(self, part: float) -> None:
        world = self.world
        online = [virtual_user for virtual_user in world.virtual_users.values() if virtual_user.online]
        for virtual_user in world.rng.sample(online, round(part * len(online))):
            virtual_user.cut()

    async def _settle(self, patience: float) -> None:
        world = self.world
        with trio.move_on_after(patience):
            await world.everybody()
            await world.nothing_under_way()
        self._unanswered()
        self.report(plan.Settled(world.under_way))

    def _unanswered(self) -> None:
        """Whatever is still due counts with the time it has taken so far: it must not be left out because it is bad."""
        world = self.world
        for virtual_user in world.virtual_users.values():
            for send in virtual_user.pending.values():
                world.recorder.error("unfinished")
                world.recorder.record("send", send.due)
            if virtual_user.online and virtual_user.connection is not None and virtual_user.connection.under_way:
                text = f"{virtual_user.connection.under_way} calls of p{virtual_user.number} were never answered"
                world.oracle.breach(invariants.UNANSWERED, text, virtual_user=virtual_user.number)
            elif virtual_user.wanted and not virtual_user.online:
                world.recorder.error("not_back")

    async def _audit(self, patience: float) -> None:
        world = self.world
        try:
            await Audit(world, patience).run()
        except* RestError as group:  # a server that is gone for good; what was measured is kept
            text = f"the stored messages cannot be read, so nothing is known of them: {group.exceptions[0]}"
            world.oracle.breach(invariants.UNANSWERED, text)
        self.report(plan.Ended(self._result()))

    def _result(self) -> results.Result:
        recorder, given = self.world.recorder, self.plan
        recorder.cut()
        return results.Result(
            scenario=given.scenario,
            started_at=self._started_at,
            seconds=max((phase.end for phase in recorder.phases), default=0.0),
            target=given.url,
            seed=given.seed,
            client=given.client,
            machine=results.this_machine(),
            phases=[
                msgspec.structs.replace(
                    phase,
                    rate=phase.rate * self.share,
                    rate_at_end=None if phase.rate_at_end is None else phase.rate_at_end * self.share,
                )
                for phase in recorder.phases
            ],
            samples=recorder.samples,
            histograms={name: histogram.encode() for name, histogram in recorder.measured().items()},
            errors=dict(recorder.errors),
            oracle=self.world.oracle.summary(),
        )


def populate(world: World, given: plan.Plan, scenario: Scenario) -> None:
    """Add the virtual users of this worker, each with its own conversations."""
    conversations: dict[int, list[str]] = {person.number: [] for person in given.people}
    for conversation in given.conversations:
        for member in conversation.members:
            if member in conversations:
                conversations[member].append(conversation.id)
    acting = frozenset(given.actors)
    for person in given.people:
        acts = person.number in acting
        world.add(VirtualUser(world, person, conversations[person.number], scenario.manner(acts=acts)), acts=acts)


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncGenerator[bytes, None]:
    pending = b""
    async for chunk in stream:
        *whole, pending = (pending + bytes(chunk)).split(b"\n")
        for line in whole:
            yield line


async def run() -> None:
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream, aclosing(_lines(stream)) as orders:
        given = msgspec.json.decode(await anext(orders), type=plan.Plan)
        kind = SCENARIOS[given.scenario]
        scenario = kind(msgspec.convert(given.parameters, kind.Parameters))
        async with trio.open_nursery() as nursery:
            world = World(given, scenario, nursery)
            populate(world, given, scenario)
            await nursery.start(world.opener.run)
            nursery.start_soon(world.keep_alive)
            if isinstance(scenario, Enters):
                scenario.enter(world)
            await Worker(given, scenario, world).follow(orders)
            for virtual_user in world.virtual_users.values():
                virtual_user.retire()
            if world.recording is not None:
                world.recording.close()
            nursery.cancel_scope.cancel()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # the terminal's are for the coordinator: it closes our input
        signal.signal(number, signal.SIG_IGN)
    trio.run(run)


if __name__ == "__main__":
    main()
