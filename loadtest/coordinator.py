"""One run from beginning to end: people, workers, phases, faults, the settling and the audit, and the result.

Owns the order of these steps. What happens in them is in `people`, `worker_pool`, `chaos`, and in the workers.
"""

import secrets
import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import msgspec
import trio

from loadtest import plan, results, summary
from loadtest.chaos import Fault, Faults
from loadtest.histogram import Histogram
from loadtest.plan import Conversation, Person
from loadtest.processes import Watch
from loadtest.provisioning import Making, check_tokens, mint
from loadtest.recorder import LATE
from loadtest.report.charts import busiest
from loadtest.results import Phase, Result, Sample
from loadtest.scenarios.base import Cast, Scenario
from loadtest.steps import Step
from loadtest.targets import Target, TargetError, TargetUnfit, check_files, is_loopback
from loadtest.telemetry import INTERVAL, Telemetry
from loadtest.worker_pool import WorkerPool, open_worker_pool

LEAD = 0.5  # seconds from the order to begin until the start
MAX_STEPS = 40
LATE_LIMIT_MS, LATE_COUNT = 20.0, 100  # p99 of so many arrivals
LATE_SHARE = 0.5  # of the p99 of what is measured: beyond it that is the generator's own


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a scenario is run, whichever it is."""

    workers: int = 1
    shard: tuple[int, int] = (1, 1)
    seed: int = 1
    client: str = "lean"
    settle: float = 30.0
    connect_timeout: float = 120.0
    start_at: float | None = None  # of the wall clock: shards start together
    metrics: tuple[str, ...] = ()  # Prometheus pages of the servers
    profile: str = ""
    record: str = ""  # a directory, for the history checker
    notes: tuple[str, ...] = ()


class View(Protocol):
    """Who shows the run as it goes."""

    def update(self, sample: Sample, processes: Sequence[results.Process] = ()) -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...


class Coordinator:
    """`view` shows the run; `progress` what comes before it."""

    def __init__(
        self, scenario: Scenario, target: Target, options: Options, view: View, faults: Sequence[Fault] = ()
    ) -> None:
        self.scenario = scenario
        self.target = target
        self.options = options
        self.view = view
        self.run_name = "r" + secrets.token_hex(4)
        self.watch = Watch()
        self.telemetry = Telemetry(options.metrics, target.admin)
        self._planned = faults
        self._faults: list[results.Chaos] = []
        self._steps: list[Step] = []
        self._seconds: dict[int, dict[int, Sample]] = {}  # by second and worker, until every worker's is there
        self._breaches: Counter[int] = Counter()
        self._start = 0.0
        self._loading = trio.CancelScope()
        self._begun = False
        self._interrupted_at: float | None = None

    def interrupt(self) -> bool:
        """End the load now, and audit what there is. False if there is none: it has not begun."""
        if self._begun and self._interrupted_at is None:
            self._interrupted_at = round(self.now(), 3)
            self.view.warn("interrupted: what was done until now is audited; once more ends it without a result")
            self._loading.cancel()
        return self._begun

    async def run(self) -> Result:
        """Raises TargetError, WorkerError."""
        cast = shard_of(self.scenario.cast(), *self.options.shard)
        check_files(-(-cast.people // self.options.workers), whose="each worker")
        people, conversations = await Making(self.target, self.run_name, self._progress).make(cast)
        length = max((phase.end for phase in self.scenario.phases()), default=0.0)
        check_tokens(people, length + 2 * self.options.settle)  # everybody settles, and is audited
        plans = self._plans(cast, people, conversations)
        async with open_worker_pool(plans, self._on_report) as worker_pool:
            self._watch_roots()
            self._watch_listeners()
            for number, pid in enumerate(worker_pool.pids):
                self.watch.add(pid, f"worker {number + 1}", "generator")
            await self._gather(worker_pool)
            await self._begin(worker_pool)
            parts = await self._play(worker_pool)
        return self._result(parts)

    def _progress(self, what: str, done: int, whole: int) -> None:
        if whole:
            self.view.note(f"{what}: {done:,} of {whole:,}")

    def _plans(self, cast: Cast, people: Sequence[Person], conversations: Sequence[Conversation]) -> list[plan.Plan]:
        """People are dealt out one by one; a worker knows the conversations of its own."""
        workers, (shard, shards) = self.options.workers, self.options.shard
        found = []
        for worker in range(workers):
            mine = frozenset(range(worker, len(people), workers))
            found.append(
                plan.Plan(
                    run=self.run_name,
                    scenario=self.scenario.name,
                    parameters=msgspec.to_builtins(self.scenario.parameters),
                    seed=self.options.seed,
                    url=self.target.url,
                    client=self.options.client,
                    worker=worker,
                    workers=workers,
                    actors=tuple(cast.actors) or tuple(range(cast.people)),
                    part=(shard - 1) * workers + worker,
                    parts=shards * workers,
                    people=tuple(people[number] for number in sorted(mine)),
                    conversations=tuple(one for one in conversations if not mine.isdisjoint(one.members)),
                    ids=tuple(person.id for person in people),
                    admin=mint(self.target.key, people[0].id, is_admin=True) if self.target.key and people else "",
                    record=self.options.record,
                )
            )
        return found

    # -- the run ---------------------------------------------------------------------------------

    async def _gather(self, worker_pool: WorkerPool) -> None:
        await worker_pool.order(plan.Connect())
        with trio.move_on_after(self.options.connect_timeout):
            connected = await worker_pool.answers(plan.Connected)
            self.view.note(f"connected: {sum(one.online for one in connected):,}")
            return
        raise TargetError(f"not everybody was connected within {self.options.connect_timeout:g} s")

    async def _begin(self, worker_pool: WorkerPool) -> None:
        wait = LEAD if self.options.start_at is None else max(LEAD, self.options.start_at - time.time())
        self._start = time.monotonic() + wait
        await worker_pool.order(plan.Begin(self._start))
        self.watch.sample(-wait)
        await trio.sleep(wait)

    def now(self) -> float:
        return time.monotonic() - self._start

    async def _play(self, worker_pool: WorkerPool) -> list[Result]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sample)
            nursery.start_soon(self._listen)
            faults = Faults(self.target, worker_pool, self.now, self.view.note, self.view.warn)
            self._begun = True
            async with trio.open_nursery() as breaking:  # what is broken is mended, even after an interruption
                breaking.start_soon(faults.run, self._planned)
                with self._loading:
                    await self._phases(worker_pool)
                faults.no_more()
            self._faults = faults.done
            if self._loading.cancelled_caught:
                await worker_pool.order(plan.Stop())
                await worker_pool.answers(plan.Stopped, skipping=True)
            self.view.note("waiting until everybody has everything")
            await worker_pool.order(plan.Settle(self.options.settle))
            await worker_pool.answers(plan.Settled)
            await worker_pool.order(plan.Audit(self.options.settle))
            parts = [ended.part for ended in await worker_pool.answers(plan.Ended)]
            nursery.cancel_scope.cancel()
        return parts

    async def _phases(self, worker_pool: WorkerPool) -> None:
        last = 0.0
        for phase in self.scenario.phases():
            await worker_pool.order(plan.Play(phase))
            last = phase.end
        for _ in self.scenario.phases():
            await worker_pool.answers(plan.Played)
        if self.scenario.parameters.shape == "step":
            await self._climb(worker_pool, max(last, self.now()))

    async def _climb(self, worker_pool: WorkerPool, start: float) -> None:
        """Up until a step does not hold."""
        given = self.scenario.parameters
        rate, shards = given.rate, self.options.shard[1]
        for number in range(1, MAX_STEPS + 1):
            start = max(start, self.now() + 0.1)
            phase = Phase(name=f"step {number}", start=start, end=start + given.step_seconds, rate=rate)
            await worker_pool.order(plan.Play(phase))
            played = await worker_pool.answers(plan.Played)
            step = Step(
                name=phase.name,
                rate=rate / shards,
                seconds=given.step_seconds,
                limit_ms=given.step_limit_ms,
                left=sum(one.under_way for one in played),
                histogram=merged(played, self.scenario.judged).encode(),
            )
            self._steps.append(step)
            verdict = "holds" if step.holds else "does not hold"
            self.view.note(f"{step.rate:,.0f}/s: p99 {step.p99:.1f} ms of {self.scenario.judged}, {verdict}")
            if not step.holds:
                break
            rate, start = rate * given.step_factor, phase.end

    async def _sample(self) -> None:
        second = 0
        while True:
            await trio.sleep(max(0.0, second - self.now()))
            self._watch_roots()
            self.watch.sample(round(self.now(), 3))
            second += 1

    def _watch_roots(self) -> None:
        """Also what was started again in the place of something killed."""
        for pid in self.target.roots:
            self.watch.add_tree(pid)

    def _watch_listeners(self) -> list[int]:
        """A server that is there already, on this machine: also what listens in the place of what was killed."""
        if self.target.roots or self.options.metrics or not is_loopback(self.target.origin.host):
            return []
        return self.watch.add_listeners(self.target.origin.port)

    async def _listen(self) -> None:
        while True:
            await self.telemetry.find(self._watch_listeners())
            await self.telemetry.read(round(self.now(), 3), self.watch)
            await trio.sleep(INTERVAL)

    def _on_report(self, number: int, report: plan.Report) -> None:
        if isinstance(report, plan.Connected):
            self.view.note(f"worker {number + 1} connected {report.online:,} of {report.wanted:,}")
        elif isinstance(report, plan.Beat):
            if report.breaches > self._breaches[number]:
                self.view.warn(f"worker {number + 1}: {report.breaches} breaches so far")
            self._breaches[number] = report.breaches
            second = round(report.sample.at)
            beats = self._seconds.setdefault(second, {})
            beats[number] = report.sample
            if len(beats) == self.options.workers:
                del self._seconds[second]
                self.view.update(results.merge_samples(list(beats.values()))[0], self.watch.processes())

    # -- the result ------------------------------------------------------------------------------

    def _result(self, parts: list[Result]) -> Result:
        index, count = self.options.shard
        merged_parts = results.merge(parts)
        whole = msgspec.structs.replace(
            merged_parts,
            samples=self.telemetry.added(merged_parts.samples),
            parameters=msgspec.to_builtins(self.scenario.parameters),
            profile=self.options.profile,
            shard=f"{index}/{count}" if count > 1 else "",
            versions={**results.installed_versions(), **self.telemetry.versions},
            settings=self.telemetry.settings,
            processes=self.watch.processes(),
            chaos=self._faults,
            steps=self._steps,
            interrupted_at=self._interrupted_at if self._loading.cancelled_caught else None,
        )
        whole = msgspec.structs.replace(whole, notes=[*self.options.notes, *unseen(whole), *doubts(whole)])
        return msgspec.structs.replace(whole, figures=summary.of(whole))


def merged(played: Sequence[plan.Played], operation: str) -> Histogram:
    return Histogram.merged(
        Histogram.decode(one.histograms[operation]) for one in played if operation in one.histograms
    )


def shard_of(cast: Cast, index: int, count: int) -> Cast:
    """The index-th part (from 1) of a cast: every count-th conversation with its people, numbered anew; and of those
    who are in none, every count-th."""
    if count == 1:
        return cast
    groups = [*cast.pairs, *cast.groups]
    if groups and len(groups) < count:
        raise TargetUnfit(f"{len(groups)} conversations cannot be dealt out to {count} shards")
    mine = groups[index - 1 :: count]
    in_some = {number for group in groups for number in group}
    alone = [number for number in range(cast.people) if number not in in_some]
    numbers = sorted({number for group in mine for number in group} | set(alone[index - 1 :: count]))
    anew = {number: index for index, number in enumerate(numbers)}
    direct = len(cast.pairs[index - 1 :: count])
    dealt = [tuple(anew[number] for number in group) for group in mine]
    return Cast(
        people=len(numbers),
        pairs=[(group[0], group[1]) for group in dealt[:direct]],
        groups=dealt[direct:],
        actors=[anew[number] for number in cast.actors if number in anew],
    )


def unseen(result: Result) -> list[str]:
    if any(process.role == "server" for process in result.processes):
        return []
    return ["no process of the server was seen: its processor time and memory take --metrics"]


def doubts(result: Result) -> list[str]:
    """Why these figures say little, or more of the generator than of the server."""
    found = []
    if result.interrupted_at is not None:
        found.append(f"interrupted after {max(result.interrupted_at, 0):.1f} s: this is a part of the run")
    late = lateness(result)
    if late:
        found.append(f"the generator itself was late: p99 {late:.0f} ms. Give it more cores or --workers, or less rate")
    return found


def lateness(result: Result) -> float:
    """The p99 in ms, where it is not to be left out of account; else 0."""
    if LATE not in result.histograms:
        return 0.0
    histogram = result.histogram(LATE)
    late = histogram.percentile(99) * results.MS
    return late if late >= LATE_LIMIT_MS and histogram.count >= LATE_COUNT else 0.0


def uncounted(result: Result) -> str:
    """Why no figure of this result counts; empty if they do."""
    if not result.has_measured:
        return "nothing was measured: give it a --rate above 0, or more --seconds"
    late, operation = lateness(result), busiest(result)
    if late and operation and late > LATE_SHARE * result.histogram(operation).percentile(99) * results.MS:
        return f"the generator was too late to count: p99 {late:.0f} ms of its own, most of what was measured"
    return ""
