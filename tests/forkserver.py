"""Server processes that start at once: forked from a process that has imported everything, which costs 2 s of CPU.

Owns that process, one for each process of tests, and what one knows of its children. It has one thread, no event loop
and no connection; a child gets the environment, the directory and the descriptors that a process of its own would
have, and runs the same module as `python -m MODULE serve`, or a command with other
arguments (`run`). Signals go to the child directly; its exit code comes
through a pipe, as only its parent can ask the kernel for it.
"""

import atexit
import fcntl
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import NamedTuple

import msgspec
import trio

from server.process.spared_imports import lean_imports

PRELOADED = (  # beside the server
    "server.cli.checks",
    "server.cli.inspect.client",
    "server.cli.inspect.questions",
    "server.cli.inspect.tables",
    "server.cli.main",
    "server.cli.retention",
)
STDERR = 2
ORDER_BYTES = 128 << 10  # of the longest order: mostly the environment
MOST_DESCRIPTORS = 32
OUT_OF_THE_WAY = 256  # a descriptor above those that a child may be asked to have

_lock = threading.Lock()  # tests have servers in threads, too


class Order(msgspec.Struct, frozen=True):
    """A process to start.

    The descriptors sent with it are its output, the pipe for its exit code, and one for each of `passed`.
    """

    module: str
    environ: dict[str, str]
    directory: str
    passed: tuple[int, ...]  # the numbers that the descriptors are to have
    arguments: tuple[str, ...] = ("serve",)


class Child:
    """A forked process, with as much of `trio.Process` as the tests use."""

    def __init__(self, pid: int, pidfd: int, ended: int, output: int) -> None:
        self.pid = pid
        self.stdout = trio.lowlevel.FdStream(output)
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._ended = ended
        self._is_open = True
        self._waiting = trio.Lock()

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
            self.returncode = int(os.read(self._ended, 16))
        return self.returncode

    async def wait(self) -> int:
        async with self._waiting:
            if self._is_open:
                while self.poll() is None:
                    await trio.lowlevel.wait_readable(self._ended)
                self._is_open = False
                os.close(self._ended)
                os.close(self._pidfd)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has just ended
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


async def fork(module: str, environ: Mapping[str, str], pass_fds: Sequence[int] = ()) -> Child:
    """Start `python -m MODULE serve` as a fork of the fork server, which is started first if need be."""
    order = Order(module, dict(environ), os.getcwd(), tuple(pass_fds))
    return Child(*await trio.to_thread.run_sync(_ask, order))


class Ended(NamedTuple):
    """A command that has ended, and what it printed."""

    code: int
    out: str
    err: str


async def run(*arguments: str, environ: Mapping[str, str]) -> Ended:
    """Run `parley ARGUMENTS` in a forked process, which need not import everything first, until it ends."""
    with tempfile.TemporaryFile() as errors:
        order = Order("server", dict(environ), os.getcwd(), (STDERR,), arguments)
        child = Child(*await trio.to_thread.run_sync(_ask, order, [errors.fileno()]))
        async with child.stdout:
            out = b"".join([bytes(chunk) async for chunk in child.stdout])
        code = await child.wait()
        errors.seek(0)
        return Ended(code, out.decode(), errors.read().decode())


def _ask(order: Order, descriptors: Sequence[int] | None = None) -> tuple[int, int, int, int]:
    """Send an order to the fork server; return pid, pidfd, and the read ends of the exit code and the output.

    `descriptors` are passed in place of `order.passed` when their numbers here differ from those in the child. One
    order at a time (`_lock`), as the answer to each is the next message on the socket. Our copies of the write ends are
    closed in any case: the read ends must see the end of file when the child, or the fork server, has ended.
    """
    output, output_of_child = os.pipe()
    ended, exit_code_pipe = os.pipe()
    try:
        with _lock:
            control = _fork_server()
            socket.send_fds(
                control,
                [msgspec.json.encode(order)],
                [output_of_child, exit_code_pipe, *(descriptors or order.passed)],
            )
            answer, [pidfd], _, _ = socket.recv_fds(control, 16, 1, socket.MSG_CMSG_CLOEXEC)
    finally:
        os.close(output_of_child)
        os.close(exit_code_pipe)
    return int(answer), pidfd, ended, output


@cache
def _fork_server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours


class Parent:
    """The fork server's own side. `_children` are those that have not been reaped, by their pidfd."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, tuple[int, int]] = {}  # the pid, and the pipe for its exit code

    def serve(self) -> str | None:
        """Fork a child for each order until the socket is closed; return None then.

        In a child, return the name of the module to run at once.
        """
        while True:
            ready = select.select([self._control.fileno(), *self._children], [], [])[0]
            for pidfd in self._children.keys() & ready:
                self._reap(pidfd)
            if self._control.fileno() in ready:
                message, descriptors, _, _ = socket.recv_fds(
                    self._control, ORDER_BYTES, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
                if not message:
                    return None
                order = msgspec.json.decode(message, type=Order)
                if self._fork(order, *descriptors):
                    return order.module

    def _fork(self, order: Order, output: int, exit_code_pipe: int, *passed: int) -> bool:
        """Fork for an order; return True in the child.

        The child closes all that is the fork server's: its socket, so that the tests see the end of the fork server,
        and the pipes of other children, so that the tests see the end of these. The parent keeps the pidfd and the pipe
        for the exit code only.
        """
        if (pid := os.fork()) == 0:
            self._control.close()
            for descriptor in (exit_code_pipe, *self._children, *(pipe for _, pipe in self._children.values())):
                os.close(descriptor)
            become(order, output, passed)
            return True
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid, exit_code_pipe
        socket.send_fds(self._control, [str(pid).encode()], [pidfd])
        for descriptor in (output, *passed):
            os.close(descriptor)
        return False

    def _reap(self, pidfd: int) -> None:
        pid, exit_code_pipe = self._children.pop(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with suppress(BrokenPipeError):  # the process that asked has ended
            os.write(exit_code_pipe, str(code).encode())
        os.close(exit_code_pipe)
        os.close(pidfd)


def become(order: Order, output: int, passed: Sequence[int]) -> None:
    """Take on what a process of this order's own would have: output, descriptors, environment, directory, arguments.

    Descriptors are first duplicated to high numbers, so that none is overwritten by another's wanted number.
    """
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    kept = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, OUT_OF_THE_WAY) for descriptor in passed]
    for descriptor in (output, *passed):
        os.close(descriptor)
    for descriptor, wanted in zip(kept, order.passed, strict=True):
        os.dup2(descriptor, wanted)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(order.environ)
    os.chdir(order.directory)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = order.arguments


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: meant for the tests, which close the socket
    with lean_imports():
        import_module("server.app")
    for module in PRELOADED:
        import_module(module)
    if module_to_run := Parent(socket.socket(fileno=int(sys.argv[1]))).serve():
        runpy.run_module(module_to_run, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
