"""server.fanout.privacy: what the users hide who are connected here."""

import trio
from trio.testing import MockClock

from server.fanout.privacy import OPEN, REMEMBERED, PrivacySettings
from store.ids import new_id
from store.model import Privacy


async def test_the_later_choice_counts() -> None:
    """In whichever order two are heard of; nothing is hidden of who never chose, or has gone."""
    settings, alice = PrivacySettings(), new_id()
    assert settings.of(alice) == OPEN == Privacy(read_receipts=True, typing=True, last_seen=True)
    settings.set(alice, Privacy(typing=False), 2)
    settings.set(alice, Privacy(), 1)
    settings.set(alice, Privacy(), 2)
    assert settings.of(alice) == Privacy(typing=False) and settings.of(new_id()) == OPEN
    settings.set(alice, Privacy(last_seen=False), 3)
    assert settings.of(alice) == Privacy(last_seen=False) and len(settings) == 1
    settings.forget(alice)
    assert settings.of(alice) == OPEN and len(settings) == 0


async def test_what_was_lost_is_not_kept(autojump_clock: MockClock) -> None:
    """What is read counts more than what was heard long ago, also a lower version or none: PostgreSQL has come back
    with less. What was heard a moment ago may be later than what is read, and what is read may be later than it."""
    settings, alice = PrivacySettings(), new_id()
    settings.load(alice, (Privacy(typing=False), 4))
    settings.set(alice, Privacy(), 5)
    settings.load(alice, (Privacy(typing=False), 4))
    assert settings.of(alice) == OPEN
    settings.load(alice, (Privacy(last_seen=False), 6))
    assert settings.of(alice) == Privacy(last_seen=False)
    settings.set(alice, Privacy(), 7)
    await trio.sleep(REMEMBERED)
    settings.load(alice, (Privacy(typing=False), 4))
    assert settings.of(alice) == Privacy(typing=False)
    settings.set(alice, Privacy(read_receipts=False), 5)
    assert settings.of(alice) == Privacy(read_receipts=False)
    settings.load(alice, None)
    assert settings.of(alice) == Privacy(read_receipts=False)
    await trio.sleep(REMEMBERED)
    settings.load(alice, None)
    assert settings.of(alice) == OPEN and len(settings) == 0


async def test_what_is_heard_behind_its_read_lasts(autojump_clock: MockClock) -> None:
    """What was read, and is heard of then, is not replaced by what somebody else had begun to read before."""
    settings, alice = PrivacySettings(), new_id()
    settings.load(alice, (Privacy(last_seen=False), 6))
    settings.set(alice, Privacy(last_seen=False), 6)
    for older in ((Privacy(), 5), None):
        settings.load(alice, older)
        assert settings.of(alice) == Privacy(last_seen=False)
