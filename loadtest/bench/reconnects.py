"""Thousands who connect within a second or two, as after the restart of an instance, and what those notice who are
connected already.

Owns a process of those who come. They ask for their connections when it is their turn, however slowly the server takes
them, and give way to all others on this machine.
"""

import multiprocessing
import select
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

from loadtest.bench.measures import percentile
from loadtest.bench.process import BenchError, Server
from loadtest.bench.sockets import SEPARATOR, request, source
from loadtest.bench.talk import Talk, Talkers, give_way

WITHIN = 2.0  # seconds, in which all of them ask: more than a server of one core takes
GIVE_UP = 60.0  # seconds, for those who have asked
HEAD_END = b"\r\n\r\n"


class Reconnects(NamedTuple):
    p99: float  # ms, of a direct message at the server
    seconds: float  # until the last one was connected


def reconnects(server: Server, tokens: Sequence[str], pairs: Talkers) -> Reconnects:
    """All who have these tokens connect, while pairs talk."""
    ours, theirs = multiprocessing.Pipe()
    comers = multiprocessing.get_context("fork").Process(target=_come, args=(theirs, server.port, tokens), daemon=True)
    comers.start()
    talk = Talk(server.port, pairs)
    talk.quiet()
    ours.send(None)
    delays = talk.run(lambda passed: ours.poll())
    error, seconds = ours.recv()
    ours.send(None)
    comers.join(30)
    talk.close()
    if error:
        raise BenchError(error)
    return Reconnects(percentile(delays, 0.99), seconds)


def _come(pipe: Connection, port: int, tokens: Sequence[str]) -> None:
    give_way()
    comers = _Comers(port, tokens)
    pipe.recv()
    pipe.send(comers.come())
    pipe.recv()


class _Comers:
    def __init__(self, port: int, tokens: Sequence[str]) -> None:
        self._port = port
        self._tokens = tokens
        self._poll = select.epoll()
        self._under_way: dict[int, tuple[socket.socket, bytes, bytearray]] = {}  # with what it asks, and was answered
        self._connected: list[socket.socket] = []

    def come(self) -> tuple[str, float]:
        """Why not all have connected, if so, and how long they took."""
        start = time.monotonic()
        asked = 0
        while len(self._connected) < len(self._tokens):
            passed = time.monotonic() - start
            if passed > WITHIN + GIVE_UP:
                return f"bench: {len(self._connected)} of {len(self._tokens)} have connected", passed
            while asked < min(len(self._tokens), len(self._tokens) * passed / WITHIN):
                self._ask(asked)
                asked += 1
            for number, events in self._poll.poll(0.001 if asked < len(self._tokens) else 0.1):
                if not self._go_on(number, events):
                    return "bench: the server closed a connection", passed
        return "", time.monotonic() - start

    def _ask(self, number: int) -> None:
        sock = socket.socket()
        sock.bind(source(number))
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", self._port))
        self._poll.register(sock.fileno(), select.EPOLLOUT)
        self._under_way[sock.fileno()] = sock, request(self._tokens[number]), bytearray()

    def _go_on(self, number: int, events: int) -> bool:
        """False: it has been closed."""
        sock, wanted, answer = self._under_way[number]
        try:
            if events & select.EPOLLOUT:
                sock.send(wanted)
                self._poll.modify(number, select.EPOLLIN)
                return True
            data = sock.recv(4096)
        except OSError:
            return False
        answer += data
        if SEPARATOR in answer.partition(HEAD_END)[2]:
            self._poll.unregister(number)
            self._connected.append(self._under_way.pop(number)[0])
        return bool(data)
