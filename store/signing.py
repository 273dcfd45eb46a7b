"""The keys that this service signs with: several while they are being exchanged.

Owns which there are and what is derived from them; touches nothing. The first key signs, all of them are accepted, so
that what was signed before an exchange, or by an instance that has had it already, is still good.
"""

import hmac


class SigningKeys:
    """Signing keys that may be replaced while in use: objects that hold or derive from this one use the new keys."""

    def __init__(self, current: str, *old: str) -> None:
        self.accepted: tuple[str, ...] = (current, *old)

    @property
    def current(self) -> str:
        return self.accepted[0]

    def replace(self, current: str, *old: str) -> None:
        self.accepted = (current, *old)

    def derive(self, purpose: bytes) -> "DerivedKeys":
        """Keys for one purpose only, so that what is signed for it is never taken for anything else."""
        return DerivedKeys(self, purpose)


class DerivedKeys:
    def __init__(self, keys: SigningKeys, purpose: bytes) -> None:
        self._keys = keys
        self._purpose = purpose
        self._made_of: tuple[str, ...] = ()
        self._made: tuple[bytes, ...] = ()

    @property
    def current(self) -> bytes:
        return self.accepted[0]

    @property
    def accepted(self) -> tuple[bytes, ...]:
        if self._made_of is not self._keys.accepted:
            self._made_of = self._keys.accepted
            self._made = tuple(hmac.digest(key.encode(), self._purpose, "sha256") for key in self._made_of)
        return self._made
