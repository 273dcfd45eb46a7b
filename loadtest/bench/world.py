"""Who is in the database of a server under measurement, made once, before the first round.

Owns the users and conversations of all measures. What is made depends on the stages that are measured: five thousand
more users are not made for nothing.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from loadtest.bench import measures, reading
from loadtest.bench.people import Rest, User
from loadtest.bench.process import HERE, Source, parley
from loadtest.bench.rows import CROWD, MANY, SIZES, THOUSAND

MEMBERS = 200  # of the big room; ten connections each, or as many as make up `SIZES`
USERS = 2100  # with one conversation each, but for the members of the room
CROWDED = 1900  # users with `MANY` conversations
GROUP = 50  # members of each
BUSY = 3  # users with `THOUSAND` conversations, of two each
LISTED = 50  # conversations of the one who lists them
EVENT_BYTES = 640  # where nothing of Parley's is measured that would show it


class Read(NamedTuple):
    """A conversation of two of the room with more than `BEHIND` changes. The lister has 50 groups and nothing else:
    what they list is the same whatever else is measured."""

    reader: User
    lister: User
    conversation: str
    head: int
    message: str  # the last one's id


class Room(NamedTuple):
    conversation: str
    members: list[User]  # at least two


class World(NamedTuple):
    data: Path  # of a `parley dev`, which is stopped
    source: Source
    users: list[User]
    pairs: list[tuple[User, User, str]]
    big: str
    crowd: list[User]
    crowded_room: str
    many: list[User]
    read: "Read | None"  # what is read, if anything is
    event_bytes: int
    rooms: Sequence[Room] = ()  # for so many sockets as `SIZES` says, if they are wanted
    busy: Sequence[User] = ()  # with `THOUSAND` conversations each, if they are wanted

    @property
    def members(self) -> list[User]:
        """Those in the room."""
        return self.users[:MEMBERS]

    @property
    def plain(self) -> list[User]:
        """Those with one conversation."""
        return self.users[MEMBERS:]

    @property
    def talking(self) -> list[tuple[User, User, str]]:
        """Pairs of whom no one is in the room."""
        return self.pairs[MEMBERS:][: measures.PAIRS]


def make(data: Path, stages: Collection[str], source: Source = HERE) -> World:
    """Everybody whom these stages need. Raises BenchError."""
    with parley(data, source=source) as server, Rest(server.port) as rest:
        users = [rest.user(f"user{number}") for number in range(USERS)]
        pairs = [(one, other, rest.direct(one, other)) for one, other in zip(users[::2], users[1::2], strict=True)]
        big = rest.group(users[0], users[:MEMBERS], "big")
        crowd, room = [], ""
        if "storm" in stages:
            crowd = [rest.user(f"crowd{number}") for number in range(CROWD)]
            room = rest.group(crowd[0], crowd, "crowd")
        many = [rest.user(f"many{number}") for number in range(CROWDED)] if "many" in stages else []
        _fill(rest, many)
        busy = [rest.user(f"busy{number}") for number in range(BUSY)] if "thousand" in stages else []
        for user in busy:
            for number in range(THOUSAND):  # with those at the end: of none of them a connection is open before
                rest.group(user, [user, users[-1 - number]], f"busy {number}")
        read = _long(rest, users, pairs[0][2]) if "reads" in stages else None
        rooms = []
        if "fan" in stages:
            few = [users[:size] for size in SIZES if size < MEMBERS]
            rooms = [Room(rest.group(members[0], members, f"room of {len(members)}"), members) for members in few]
            rooms += [Room(big, users[:MEMBERS])] * (len(SIZES) - len(rooms))
        size = measures.event_size(server, (users[0], users[1], big))
    return World(data, source, users, pairs, big, crowd, room, many, read, size, rooms, busy)


def _long(rest: Rest, users: list[User], conversation: str) -> Read:
    reader, other, *_ = users
    lister = rest.user("lister")
    for number in range(LISTED):
        rest.group(lister, [lister, *users[: 1 + number % 5]], f"list {number}")
    body = {"conversationId": conversation, "content": measures.PAYLOAD.decode()}
    for _ in range(reading.BEHIND):
        rest.post("/api/messages", body, other.token)
    last = rest.post("/api/messages", body, reader.token)
    return Read(reader, lister, conversation, last["seq"], last["id"])


def _fill(rest: Rest, users: list[User]) -> None:
    """Put every user into `MANY` conversations, each time with others."""
    for turn in range(MANY):
        shifted = users[turn:] + users[:turn]
        for start in range(0, len(shifted), GROUP):
            members = shifted[start : start + GROUP]
            rest.group(members[0], members, f"group {turn}-{start}")
