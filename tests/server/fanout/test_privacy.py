"""server.fanout.privacy: what the users hide who are connected here."""

from server.fanout.privacy import OPEN, PrivacySettings
from store.ids import new_id
from store.model import Privacy


def test_the_later_choice_counts() -> None:
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
