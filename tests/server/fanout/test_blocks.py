"""server.fanout.blocks: whose presence is kept from the users who are connected here."""

from trio.testing import MockClock

from server.fanout.blocks import MOST, REMEMBERED, BlockLists
from store.ids import new_id
from store.postgres.blocks import Around, Concerning


async def test_both_ways() -> None:
    """Of the two, neither is shown to the other; nothing is kept of who has gone."""
    lists, one, other, third = BlockLists(), new_id(), new_id(), new_id()
    lists.load(one, Concerning(1, [Around(other, True, 1)]))
    lists.load(third, Concerning(1, [Around(one, False, 2)]))
    assert lists.is_hidden(one, other) and lists.is_hidden(third, one)
    assert not lists.is_hidden(one, third) and not lists.is_hidden(other, one)  # of who is connected elsewhere
    lists.forget(one)
    lists.forget(third)
    assert len(lists) == 0 and not lists.is_hidden(one, other)


async def test_the_later_change_counts() -> None:
    """In whichever order they are heard of; a block of one of the two is enough."""
    lists, one, other = BlockLists(), new_id(), new_id()
    lists.set(one, other, 5, is_own=True, is_blocked=False)
    lists.set(one, other, 4, is_own=True, is_blocked=True)
    assert not lists.is_hidden(one, other)
    lists.set(one, other, 6, is_own=False, is_blocked=True)
    assert lists.is_hidden(one, other)


async def test_what_is_read_may_be_older(mock_clock: MockClock) -> None:
    """What was heard a moment ago stays, whatever is read; later what is read is all there is."""
    lists, one, other, third = BlockLists(), new_id(), new_id(), new_id()
    lists.set(one, other, 5, is_own=True, is_blocked=True)
    lists.set(one, third, 6, is_own=True, is_blocked=False)
    lists.load(one, Concerning(1, [Around(third, True, 4)]))
    assert lists.is_hidden(one, other) and not lists.is_hidden(one, third)
    mock_clock.jump(REMEMBERED)
    lists.load(one, Concerning(1, [Around(third, True, 7)]))
    assert not lists.is_hidden(one, other) and lists.is_hidden(one, third)
    mock_clock.jump(REMEMBERED)
    lists.load(one, Concerning())
    assert len(lists) == 0


async def test_the_version_of_the_own_list(mock_clock: MockClock) -> None:
    """It rises, and is news once; what is read long after may be lower; it goes with the user's last connection."""
    lists, one = BlockLists(), new_id()
    assert lists.state_of(one).version == 0 and not lists.is_news(one, 0)
    assert lists.is_news(one, 5) and not lists.is_news(one, 5) and not lists.is_news(one, 4)
    assert not lists.is_news(one, 4, is_read=True)
    mock_clock.jump(REMEMBERED)
    assert not lists.is_news(one, 4) and lists.state_of(one).version == 5
    assert lists.is_news(one, 4, is_read=True) and lists.state_of(one).version == 4
    lists.forget(one)
    assert lists.state_of(one).version == 0


async def test_too_many() -> None:
    """Who is blocked by more users than are kept sees no presence at all, rather than too much."""
    lists, one = BlockLists(), new_id()
    lists.load(one, Concerning(1, [Around(new_id(), False, number) for number in range(MOST + 1)]))
    assert lists.is_hidden(one, new_id())
    lists.load(one, Concerning(1, [Around(new_id(), False, 1)]))
    assert not lists.is_hidden(one, new_id())
