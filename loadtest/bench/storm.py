"""Thousands who react to one message within a second, and what others' direct messages notice of it.

Owns a process of its own for those who react, so that what is measured beside them waits for the server only.
"""

import json
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import NamedTuple

from loadtest.bench.measures import PAYLOAD, delays, percentile
from loadtest.bench.people import Rest, User
from loadtest.bench.process import BenchError, Server
from loadtest.bench.sockets import SEPARATOR, Sockets, call, frame

RATE = 200.0  # direct messages a second
WINDOW = 2.0  # seconds from the first reaction on, for which they are measured
STORMS = 2  # in a round
EMOJI = "\U0001f44d"


class Storm(NamedTuple):
    alone: float  # ms, the 99th percentile of the delivery of a direct message
    beside: float  # ms, the same beside the storm
    events: float  # a second, changes of the message that came to the client with the most of them
    missing: int  # reactions that the message does not count at the end


def storm(server: Server, members: list[User], conversation: str, pairs: list[tuple[User, User, str]]) -> Storm:
    """`STORMS` times everybody reacts to a new message within a second."""
    ours, theirs = multiprocessing.Pipe()
    crowd = multiprocessing.get_context("fork").Process(
        target=_crowd, args=(theirs, server.port, members, conversation), daemon=True
    )
    crowd.start()
    people = Sockets(server.port)
    people.connect(2 * len(pairs), [user.token for one, other, _ in pairs for user in (one, other)])
    _await(ours)
    people.quiet()
    alone = [delay for _ in range(STORMS) for delay in delays(people, pairs, RATE, WINDOW)]
    beside, events, missing = [], 0.0, 0
    with Rest(server.port) as rest:
        for _ in range(STORMS):
            body = {"conversationId": conversation, "content": PAYLOAD.decode()}
            message = rest.post("/api/messages", body, members[0].token)["id"]
            ours.send(message)
            _await(ours)
            beside += delays(people, pairs, RATE, WINDOW)
            most, counted = _await(ours)
            events, missing = max(events, most), missing + len(members) - counted
    ours.send(None)
    crowd.join(30)
    people.close()
    return Storm(percentile(alone, 0.99), percentile(beside, 0.99), events, missing)


def _await(pipe: Connection) -> tuple[float, int]:
    if not pipe.poll(120):
        raise BenchError("bench: those who react say nothing")
    found: tuple[float, int] = pipe.recv()
    return found


def _crowd(pipe: Connection, port: int, members: list[User], conversation: str) -> None:
    crowd = Sockets(port)
    crowd.connect(len(members), [member.token for member in members])
    crowd.quiet()
    pipe.send((0.0, 0))
    while (message := pipe.recv()) is not None:
        pipe.send(_react(pipe, crowd, message))
    crowd.close()


def _react(pipe: Connection, crowd: Sockets, message: str) -> tuple[float, int]:
    """All within a second. Return how many changes a second the busiest client had, and what the last one counts."""
    wanted = frame(call("1", "React", message, EMOJI))
    for _ in range(100):  # the message comes to everybody first
        if not crowd.receive(lambda sock, data: None, 0.1):
            break
    changes: dict[object, list[float]] = {sock: [] for sock in crowd.sockets}
    last = b""

    def note(sock: object, data: bytes) -> None:
        nonlocal last
        found = data.count(b'"reactions"')
        if found:
            changes[sock] += [time.monotonic()] * found
            last = data

    pipe.send((0.0, 0))
    start = time.monotonic()
    for number, sock in enumerate(crowd.sockets):
        due = start + number / len(crowd.sockets)
        while (wait := due - time.monotonic()) > 0:
            crowd.receive(note, wait)
        sock.send(wanted)
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
