"""store.sealing: secrets that only the holder of the signing key can read."""

import pytest

from store.sealing import Unreadable, seal, unseal
from store.signing import SigningKeys

KEYS = SigningKeys("a" * 32)
OURS = KEYS.derive(b"a purpose")


def test_sealed_and_opened() -> None:
    """It is opened by the same key and word, is nowhere to be seen, and looks different each time."""
    sealed = seal(OURS, b"the secret", b"word")
    assert unseal(OURS, sealed, b"word") == (b"the secret", True)
    assert b"the secret" not in sealed and seal(OURS, b"the secret", b"word") != sealed


def test_who_cannot_open_it() -> None:
    """Another key, purpose or word, a changed octet, or what is no sealed secret at all: it is refused."""
    sealed = seal(OURS, b"the secret", b"word")
    changed = [sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :] for at in range(len(sealed))]
    for keys, what, word in (
        (SigningKeys("b" * 32).derive(b"a purpose"), sealed, b"word"),
        (KEYS.derive(b"another"), sealed, b"word"),
        (OURS, sealed, b"other"),
        *((OURS, one, b"word") for one in (b"", b"\1", sealed[:10], *changed)),
    ):
        with pytest.raises(Unreadable):
            unseal(keys, what, word)


def test_an_exchange_of_keys() -> None:
    """While the old key is accepted, what it has sealed is opened, and known to be of the old one."""
    keys = SigningKeys("a" * 32)
    derived = keys.derive(b"a purpose")
    sealed = seal(derived, b"the secret", b"word")
    keys.replace("b" * 32, "a" * 32)
    assert unseal(derived, sealed, b"word") == (b"the secret", False)
    assert unseal(derived, seal(derived, b"the secret", b"word"), b"word") == (b"the secret", True)
    keys.replace("b" * 32)
    with pytest.raises(Unreadable):
        unseal(derived, sealed, b"word")
