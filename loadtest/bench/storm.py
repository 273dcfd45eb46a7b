"""Thousands who react to one message within a second, and what others' direct messages notice of it.

Owns two processes of those who react: one has them react in time, one reads what comes to them, and gives way to all
others meanwhile. Thousands of clients would be on thousands of machines.
"""

import json
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from loadtest.bench.measures import PAYLOAD, percentile
from loadtest.bench.people import Rest, User
from loadtest.bench.process import BenchError, Server
from loadtest.bench.sockets import SEPARATOR, Sockets, call, frame
from loadtest.bench.talk import Talk, Talkers, give_way

WINDOW = 2.0  # seconds from the first reaction on, for which direct messages are measured
STORMS = 2  # in a round
WITHIN = 1.0  # seconds, in which all react
EMOJI = "\U0001f44d"


class Storm(NamedTuple):
    alone: float  # ms, the 99th percentile of a direct message at the server
    beside: float  # ms, the same beside the storm
    events: float  # a second, changes of the message that came to the client with the most of them
    missing: int  # reactions that the message does not count at the end


def storm(server: Server, members: list[User], conversation: str, pairs: Talkers) -> Storm:
    """`STORMS` times everybody reacts to a new message within a second."""
    crowd = Sockets(server.port)
    crowd.connect(len(members), [member.token for member in members])
    crowd.quiet()
    reader, reading = _start(_read, crowd)
    sender, sending = _start(_react, crowd)
    talk = Talk(server.port, pairs)
    talk.quiet()
    alone = [delay for _ in range(STORMS) for delay in talk.run(lambda passed: passed > WINDOW)]
    beside, events, missing = [], 0.0, 0
    with Rest(server.port) as rest:
        for _ in range(STORMS):
            body = {"conversationId": conversation, "content": PAYLOAD.decode()}
            message = rest.post("/api/messages", body, members[0].token)["id"]
            reader.send(message)
            _await(reader)  # the message has come to everybody
            sender.send(message)
            beside += talk.run(lambda passed: passed > WINDOW)
            most, counted = _await(reader)
            events, missing = max(events, most), missing + len(members) - counted
    for pipe, process in ((reader, reading), (sender, sending)):
        pipe.send(None)
        process.join(30)
    talk.close()
    crowd.close()
    return Storm(percentile(alone, 0.99), percentile(beside, 0.99), events, missing)


def _start(work: Callable[[Connection, Sockets], None], crowd: Sockets) -> tuple[Connection, BaseProcess]:
    """A process that has these sockets, too, and a pipe to it."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(theirs, crowd), daemon=True)
    process.start()
    return ours, process


def _await(pipe: Connection) -> tuple[float, int]:
    if not pipe.poll(120):
        raise BenchError("bench: those who react say nothing")
    found: tuple[float, int] = pipe.recv()
    return found


def _react(pipe: Connection, crowd: Sockets) -> None:
    """Have all react to each message that is named, evenly spread over `WITHIN`."""
    while (message := pipe.recv()) is not None:
        wanted = frame(call("1", "React", message, EMOJI))
        start = time.monotonic()
        for number, sock in enumerate(crowd.sockets):
            time.sleep(max(0.0, start + WITHIN * number / len(crowd.sockets) - time.monotonic()))
            sock.send(wanted)


def _read(pipe: Connection, crowd: Sockets) -> None:
    """For each message that is named: say when it has come to all, and then how many changes a second the busiest
    client had, and what the last one counts."""
    give_way()
    while pipe.recv() is not None:
        for _ in range(100):
            if not crowd.receive(lambda sock, data: None, 0.1):
                break
        pipe.send((0.0, 0))
        pipe.send(_changes(crowd))


def _changes(crowd: Sockets) -> tuple[float, int]:
    changes: dict[object, list[float]] = {sock: [] for sock in crowd.sockets}
    last = b""

    def note(sock: object, data: bytes) -> None:
        nonlocal last
        found = data.count(b'"reactions"')
        if found:
            changes[sock] += [time.monotonic()] * found
            last = data

    while crowd.receive(note, 2.0):
        pass
    return max(_rate(times) for times in changes.values()), _count(last)


def _rate(times: list[float]) -> float:
    """How many a second, from the first to the last."""
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


def _count(data: bytes) -> int:
    """What the last change in these frames says."""
    text = data.rpartition(b'"reactions":')[2].partition(SEPARATOR)[0]
    [first, *_], _ = json.JSONDecoder().raw_decode(text.decode())
    return int(first["count"])
