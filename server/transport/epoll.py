"""Watch all raw sockets of the process with one epoll: edge-triggered, each registered once.

Owns the epoll and the task that reads it, which waits for the epoll itself with Trio. Trio's own `wait_readable`
registers a socket again for every wait: that costs a system call for each message, and a kilobyte of frames and
waiters for each idle connection. The members react to readiness: they read and handle what has come in the poller's
step, which is divided, so that others have their turn.
"""

import select
import time
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import trio

from store.defects import guard

MAX_EVENTS = 512  # taken at once
STEP = 0.001  # seconds for which members are woken in one scheduler step: what they read, they handle there
WRITABLE: Final = select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP
READABLE: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLERR | select.EPOLLHUP
ENDED: Final = select.EPOLLRDHUP | select.EPOLLERR | select.EPOLLHUP  # no new edge may follow: read to the end
_EVERYTHING = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET

_guard = guard("poller")


class Ready(Protocol):
    def on_ready(self, events: int) -> None:
        """The socket has become readable, writable, or has ended. Must not wait, nor take long.

        May come once more after the member was removed.
        """

    def abort(self, why: str) -> None:
        """End the member after a defect in it."""


class Poller:
    """One for each process. Members are removed just before their socket is closed."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._members: dict[int, Ready] = {}

    def add(self, number: int, member: Ready) -> None:
        """Watch descriptor `number`; readiness before this call is reported too. Raise OSError."""
        self._epoll.register(number, _EVERYTHING)
        self._members[number] = member

    def remove(self, number: int) -> None:
        """Stop watching. The kernel removes a descriptor from the epoll when it is closed."""
        self._members.pop(number, None)

    def members(self) -> Sequence[Ready]:
        return tuple(self._members.values())

    async def settle(self) -> None:
        """Wait until all members that are ready now have been woken, and have run once."""
        while not self._epoll.closed:
            ready = self._epoll.poll(0, MAX_EVENTS)
            await self._wake_all(ready)
            if len(ready) < MAX_EVENTS:
                break
        for _ in range(2):  # woken tasks run before the second one returns
            await trio.lowlevel.checkpoint()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wake members until cancelled."""
        if self._epoll.closed:
            self._reopen()
        with self._epoll as epoll:
            task_status.started()
            while True:
                await trio.lowlevel.wait_readable(epoll)
                await self._wake_all(epoll.poll(0, MAX_EVENTS))

    async def _wake_all(self, ready: Sequence[tuple[int, int]]) -> None:
        """Wake these, in as many steps as it takes.

        Who they are is looked up first: by a later step a descriptor may be another member's.
        """
        rest = iter([(self._members.get(number), events) for number, events in ready])
        while not self._wake(rest):
            await trio.lowlevel.checkpoint()

    def _wake(self, rest: Iterator[tuple[Ready | None, int]]) -> bool:
        """Wake members for `STEP`. Return whether these were all."""
        member: Ready | None = None
        until = time.perf_counter() + STEP
        while True:
            try:
                for member, events in rest:
                    if member is not None:
                        member.on_ready(events)
                        if time.perf_counter() > until:
                            return False
                return True
            except Exception as error:  # of one member: it is ended, the others are woken
                self._give_up(member, _guard.caught(error))

    def _give_up(self, member: Ready | None, reference: str) -> None:
        try:
            if member is not None:
                member.abort(f"internal: a defect in its wakening, reference {reference}")
        except Exception as error:
            _guard.caught(error)

    def _reopen(self) -> None:
        """Register all members with a new epoll, after a failure. The kernel reports again what is ready."""
        self._epoll = select.epoll()
        for number in self._members:
            self._epoll.register(number, _EVERYTHING)
