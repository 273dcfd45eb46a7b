"""The workers of one run: their processes, their orders, and their reports.

Owns the processes. Each ends when its input is closed, however this process ends.
"""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
import trio

from loadtest import plan

R = TypeVar("R", bound=plan.Report)

STOP_TIMEOUT = 10.0  # seconds

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(plan.Report).decode


class WorkerError(Exception):
    """A worker failed or died; the message says which and why."""


class WorkerPool:
    """`on_report` gets every Connected and Beat; answers to orders go to the caller of `answers`."""

    def __init__(self, processes: Sequence[trio.Process], on_report: Callable[[int, plan.Report], None]) -> None:
        self._processes = processes
        self._on_report = on_report
        self._answers: list[tuple[trio.MemorySendChannel[plan.Report], trio.MemoryReceiveChannel[plan.Report]]] = [
            trio.open_memory_channel(1000) for _ in processes
        ]

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    async def order(self, order: plan.Order) -> None:
        async with trio.open_nursery() as nursery:
            for process in self._processes:
                nursery.start_soon(_write, process, order)

    async def answers(self, kind: type[R], *, skipping: bool = False) -> list[R]:
        """One of this kind from each worker; other ones before it are passed over if `skipping`. Raises WorkerError."""
        found: dict[int, R] = {}

        async def one(number: int) -> None:
            answer = await self._answers[number][1].receive()
            while skipping and not isinstance(answer, kind):
                answer = await self._answers[number][1].receive()
            assert isinstance(answer, kind), f"worker {number} answered {answer}, not {kind.__name__}"
            found[number] = answer

        async with trio.open_nursery() as nursery:
            for number in range(len(self._processes)):
                nursery.start_soon(one, number)
        return [found[number] for number in range(len(self._processes))]

    async def listen(self, number: int) -> None:
        """Raises WorkerError when the worker ends before it has said Ended."""
        process = self._processes[number]
        assert process.stdout is not None
        pending: list[bytes] = []
        async for chunk in process.stdout:
            *whole, rest = bytes(chunk).split(b"\n")
            for line in whole:
                report = _decode(b"".join(pending) + line)
                pending.clear()
                if self._take(number, report):
                    return
            pending.append(rest)
        raise WorkerError(f"worker {number} ended with code {await process.wait()}; what it said is above")

    def _take(self, number: int, report: plan.Report) -> bool:
        """Whether it was the last one."""
        if isinstance(report, plan.Beat) or (isinstance(report, plan.Connected) and report.online < report.wanted):
            self._on_report(number, report)
        else:
            self._answers[number][0].send_nowait(report)
        return isinstance(report, plan.Ended)


async def _write(process: trio.Process, message: plan.Order | plan.Plan) -> None:
    assert process.stdin is not None
    try:
        await process.stdin.send_all(_encode(message) + b"\n")
    except trio.BrokenResourceError:
        pass  # the worker has died: `listen` raises


@asynccontextmanager
async def open_worker_pool(
    plans: Sequence[plan.Plan], on_report: Callable[[int, plan.Report], None]
) -> AsyncIterator[WorkerPool]:
    """Workers that have their plans. Raises WorkerError when one dies."""
    processes: list[trio.Process] = []
    try:
        for given in plans:
            command = [sys.executable, "-m", "loadtest.worker"]
            process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            processes.append(process)
            await _write(process, given)
        worker_pool = WorkerPool(processes, on_report)
        async with trio.open_nursery() as nursery:
            for number in range(len(processes)):
                nursery.start_soon(worker_pool.listen, number)
            yield worker_pool
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            for process in processes:
                await _end(process)


async def _end(process: trio.Process) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdin.aclose()
    await process.stdout.aclose()
    with trio.move_on_after(STOP_TIMEOUT):
        await process.wait()
    if process.poll() is None:
        process.kill()
        await process.wait()
