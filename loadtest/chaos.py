"""Faults on a schedule, while the load runs: kill -9, SIGSTOP, restarts of services, cut connections.

Owns the schedule's language and the breaking. Only a `parley dev` that this run has started is ever hurt; connections
are cut on the generator's side, whatever the target is.

A schedule is a list of faults, one a line or separated by semicolons, each `AT KIND [TARGET [NUMBER]] [for SECONDS]`:

    5 kill instance            one, chosen at random; `kill instance 2` is the second
    8 stop instance for 12     SIGSTOP, and SIGCONT after 12 s
    20 restart server          all instances, by SIGTERM
    25 restart redis           or postgres: stopped properly, and started again
    30 kill postgres           or redis: kill -9, and started again
    35 cut 0.5                 half of the connections
"""

import contextlib
import math
import os
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import trio

from loadtest import plan, results
from loadtest.processes import family
from loadtest.targets import DevTarget, Target
from loadtest.worker_pool import WorkerPool

KINDS = {"kill": ("instance", "redis", "postgres"), "stop": ("instance",), "restart": ("server", "redis", "postgres")}
SERVICES = {"redis": ("valkey-server", "redis-server"), "postgres": ("postgres",)}
DEFAULT_STOP = 5.0  # seconds
GONE_WITHIN = 15.0  # seconds for a service to end
START_ATTEMPTS = 20  # PostgreSQL refuses to start while a process of its predecessor is left
LASTS = 30.0  # seconds that a fault may take beyond its own time


class ChaosError(ValueError):
    """A schedule cannot be read, or cannot be carried out here; the message says why."""


class Fault(msgspec.Struct, frozen=True):
    """`at` is in seconds of the run; `number` an instance, from 1, 0 for any; `part` of the connections, to cut."""

    at: float
    kind: str
    target: str = ""
    number: int = 0
    seconds: float = 0.0
    part: float = 1.0

    def __str__(self) -> str:
        what = f"{self.target} {self.number or ''}".strip() if self.target else f"{self.part:g} of the connections"
        return f"{self.kind} {what}" + (f" for {self.seconds:g} s" if self.seconds else "")


def parse(text: str) -> list[Fault]:
    """A schedule, or the name of a file that holds one. Raises ChaosError."""
    if text and not any(mark in text for mark in "\n;") and Path(text).is_file():
        text = Path(text).read_text()
    lines = (line.partition("#")[0].strip() for line in text.replace(";", "\n").splitlines())
    return sorted((_fault(line) for line in lines if line), key=lambda fault: fault.at)


def _fault(line: str) -> Fault:
    words = line.lower().split()
    seconds = 0.0
    try:
        if "for" in words:
            position = words.index("for")
            [text] = words[position + 1 :]
            seconds = float(text)
            words = words[:position]
        at, kind, *rest = words
        if not (0 <= float(at) < math.inf and 0 <= seconds < math.inf):
            raise ValueError
        if kind == "cut":
            part = float(rest[0]) if rest else 1.0
            if not 0 <= part <= 1 or len(rest) > 1:
                raise ValueError
            return Fault(float(at), kind, part=part)
        number = int(rest[1]) if len(rest) > 1 else 0
        if kind not in KINDS or rest[0] not in KINDS[kind] or number < 0 or len(rest) > 2:
            raise ValueError
        if kind == "stop":
            seconds = seconds or DEFAULT_STOP
        return Fault(float(at), kind, rest[0], number, seconds)
    except (ValueError, IndexError):
        raise ChaosError(f"--chaos: {line!r} is no fault: AT KIND [TARGET [NUMBER]] [for SECONDS]") from None


def check_times(faults: Sequence[Fault], end: float) -> None:
    """Raises ChaosError when one of them is not over when the load is, `end` seconds from the start."""
    for fault in faults:
        if fault.at + fault.seconds >= end:
            raise ChaosError(f"--chaos: {fault.at:g} {fault}: the load ends after {end:g} s, and this not before it")


def check(faults: Sequence[Fault], target: Target) -> None:
    """Raises ChaosError when one of them would hurt what is not ours."""
    for fault in faults:
        if fault.number and isinstance(target, DevTarget) and fault.number > target.instances:
            raise ChaosError(f"{fault}: there are {target.instances} instances; give --instances {fault.number}")
        if fault.kind != "cut" and not isinstance(target, DevTarget):
            raise ChaosError(f"{fault} needs a server of our own: --dev")
        if fault.kind == "stop" and isinstance(target, DevTarget) and target.instances < 2:
            raise ChaosError(f"{fault}: with one instance the services would be stopped with it; give --instances 2")


class Faults:
    """Carries out a schedule. `done` is what was broken, and when."""

    def __init__(
        self,
        target: Target,
        worker_pool: WorkerPool,
        now: Callable[[], float],
        note: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._target = target
        self._worker_pool = worker_pool
        self._now = now
        self._note = note
        self._warn = warn
        self.done: list[results.Chaos] = []
        self._waiting = trio.CancelScope()

    async def run(self, schedule: Sequence[Fault]) -> None:
        """Returns when the last one is mended."""
        async with trio.open_nursery() as nursery:
            with self._waiting:
                for fault in schedule:
                    await trio.sleep(max(0.0, fault.at - self._now()))
                    nursery.start_soon(self._break, fault)

    def no_more(self) -> None:
        """The load has ended: what would be broken later is not."""
        self._waiting.cancel()

    async def _break(self, fault: Fault) -> None:
        self._note(f"chaos: {fault}")
        at = self._now()
        with trio.move_on_after(fault.seconds + LASTS) as scope:
            await self._ways[fault.kind, fault.target](self, fault)
        until = round(self._now(), 3)
        what = str(fault) + (" (not mended in time)" if scope.cancelled_caught else "")
        self.done.append(
            results.Chaos(
                at=round(at, 3), kind=fault.kind, target=fault.target or "connections", until=until, detail=what
            )
        )
        (self._warn if scope.cancelled_caught else self._note)(f"chaos: {what}: over after {until - at:.1f} s")

    async def _cut(self, fault: Fault) -> None:
        await self._worker_pool.order(plan.Cut(fault.part))

    @property
    def _dev(self) -> DevTarget:
        assert isinstance(self._target, DevTarget)
        return self._target

    def _instance(self, fault: Fault) -> int:
        pids = instances(self._dev)
        if not pids:
            raise ChaosError("no instance is running")
        return pids[(fault.number - 1) % len(pids)] if fault.number else random.choice(pids)

    async def _kill_instance(self, fault: Fault) -> None:
        if self._dev.instances == 1:
            await self._dev.crash()
            return
        pid = self._instance(fault)
        _signal(pid, signal.SIGKILL)
        await _gone(pid)
        await self._all_instances()

    async def _stop_instance(self, fault: Fault) -> None:
        pid = self._instance(fault)
        _signal(pid, signal.SIGSTOP)
        try:
            await trio.sleep(fault.seconds)
        finally:
            _signal(pid, signal.SIGCONT)

    async def _restart_server(self, fault: Fault) -> None:
        if self._dev.instances == 1:
            await self._dev.restart()
            return
        pids = instances(self._dev)
        for pid in pids:
            _signal(pid, signal.SIGTERM)
        for pid in pids:
            await _gone(pid)
        await self._all_instances()

    async def _all_instances(self) -> None:
        while len(instances(self._dev)) < self._dev.instances:
            await trio.sleep(0.1)

    async def _service(self, fault: Fault) -> None:
        """Its supervisor ends with it, so we start the same supervisor again."""
        supervisor, pid = service(self._dev, fault.target)
        command = command_line(supervisor)
        gentle = signal.SIGINT if fault.target == "postgres" else signal.SIGTERM
        _signal(pid, signal.SIGKILL if fault.kind == "kill" else gentle)
        with trio.move_on_after(GONE_WITHIN):
            await _gone(pid)
            await _gone(supervisor)
        for _ in range(START_ATTEMPTS):
            process = await self._dev.adopt(command)
            with trio.move_on_after(0.5):
                await process.wait()
                continue
            return

    _ways: "dict[tuple[str, str], Callable[[Faults, Fault], Awaitable[None]]]" = {  # noqa: RUF012
        ("cut", ""): _cut,
        ("kill", "instance"): _kill_instance,
        ("kill", "redis"): _service,
        ("kill", "postgres"): _service,
        ("stop", "instance"): _stop_instance,
        ("restart", "server"): _restart_server,
        ("restart", "redis"): _service,
        ("restart", "postgres"): _service,
    }


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def instances(target: DevTarget) -> list[int]:
    """The processes that serve, without their supervisors."""
    assert target.pid is not None
    return sorted(
        pid for pid in family(target.pid) if command_line(pid)[-1:] == ["serve"] and "--" not in command_line(pid)
    )


def service(target: DevTarget, name: str) -> tuple[int, int]:
    """The supervisor and the service's first process. Raises ChaosError."""
    for root in target.roots:
        for pid in family(root):
            words = command_line(pid)
            if "--" in words and any(Path(word).name in SERVICES[name] for word in words[words.index("--") :]):
                for child in family(pid):
                    own = command_line(child)
                    if child != pid and own and Path(own[0]).name in SERVICES[name]:
                        return pid, child
    raise ChaosError(f"{name} is not running")


def _signal(pid: int, number: int) -> None:
    """Another fault may have ended it already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def _gone(pid: int) -> None:
    while command_line(pid):
        await trio.sleep(0.02)
