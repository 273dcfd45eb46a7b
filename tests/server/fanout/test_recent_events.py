"""server.fanout.recent_events: what connections have missed, in one bounded table, and nothing while none has."""

from typing import cast

from server.fanout.recent_events import Broadcast, RecentEvents
from server.fanout.room import Subscriber
from store.ids import new_id

ROOM = new_id()
ONE, TWO = cast(Subscriber, "one"), cast(Subscriber, "two")


def about(*names: str, value: int = 0) -> list[Broadcast]:
    return [Broadcast((ROOM,), "Event", (value,), about=name) for name in names]


def say(events: RecentEvents, *names: str, value: int = 0, missed_by: tuple[Subscriber, ...] = ()) -> None:
    events.begin(about(*names, value=value))
    for connection in missed_by:
        events.miss(connection)
    events.end()


def read(events: RecentEvents, connection: Subscriber) -> list[object]:
    found = events.missed(connection)
    assert found is not None
    number, missed = found
    events.caught_up(connection, number)
    return missed


def test_the_latest_of_each() -> None:
    """A connection gets what came since it began to miss events, also those of that moment, each thing once."""
    events = RecentEvents()
    say(events, "a", "b")
    assert len(events) == 0 and not events.has_missed(ONE)  # nothing is kept while none has missed any
    say(events, "c", "d", missed_by=(ONE,))
    say(events, "e", "c", value=2)
    say(events, "f", missed_by=(ONE, TWO))
    latest = events.latest("c")
    assert latest is not None and latest.arguments == (2,)
    assert read(events, ONE) == ["d", "e", "c", "f"]
    assert not events.has_missed(ONE) and read(events, TWO) == ["f"]
    assert len(events) == 0 and events.latest("f") is None


def test_missed_in_between() -> None:
    """A connection that leaves its rooms between events misses the next ones; what comes while it reads comes next."""
    events = RecentEvents()
    events.miss(ONE)
    assert read(events, ONE) == [] and not events.has_missed(ONE)
    events.miss(ONE)
    say(events, "a")
    found = events.missed(ONE)
    say(events, "b")
    assert found is not None and found[1] == ["a"]
    events.caught_up(ONE, found[0])
    assert events.has_missed(ONE) and read(events, ONE) == ["b"]
    events.miss(ONE)
    say(events, "c")
    events.forget(ONE)
    assert len(events) == 0


def test_bounded() -> None:
    """Past the limit the oldest are forgotten; who has missed one of these cannot be brought up to date."""
    events = RecentEvents(limit=3)
    say(events, "a", missed_by=(ONE,))
    say(events, "b", missed_by=(TWO,))
    say(events, "c", "d", "c")
    assert len(events) == 3 and events.missed(ONE) is None and read(events, TWO) == ["b", "d", "c"]
    events.forget(ONE)
    say(events, "e", missed_by=(ONE,))
    assert read(events, ONE) == ["e"]
    say(events, *(str(number) for number in range(100)))
    assert len(events) == 0


def test_what_is_not_repeated() -> None:
    """Events that are about nothing in particular are not kept."""
    events = RecentEvents()
    events.begin([Broadcast((ROOM,), "Event", ())])
    events.miss(ONE)
    events.end()
    assert len(events) == 0 and read(events, ONE) == []
