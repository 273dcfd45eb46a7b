"""Whose access token it is, where its issuer is not this service: from the claims of a verified token to a user.

Owns how claims become a profile, and the users that were found lately. A subject is the external id of a user, or the
id of one; with JIT_USERS a subject that is neither becomes a user. Making users is limited for all together: a flood of
tokens of unknown subjects costs two look-ups each, and no more.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import trio

from handlers import text_rules
from handlers.errors import ChatError, from_store
from handlers.model import Identity
from handlers.provisioning import EXTERNAL_ID_RULE, Provisioning
from handlers.rate_limits import Limiter
from server.config.settings import Settings
from store.errors import Overloaded, Unavailable

REMEMBERED = 60.0  # seconds for which the user of a subject is not looked up again; whether they exist always is
KNOWN_MAX = 10_000  # subjects that are remembered
MAX_TEXT = {"username": 320, "name": 128, "email": 320, "picture": 2048}  # characters


class Subjects:
    def __init__(self, provisioning: Provisioning, settings: Settings, new_users: Limiter[str]) -> None:
        self._provisioning = provisioning
        self._makes_users = settings.jit_users == "on"
        self._claims = claims_of(settings)
        self._new_users = new_users
        self._known: dict[str, tuple[UUID, float]] = {}  # until when; the oldest first
        self._asked: dict[str, trio.Event] = {}  # those that are looked up: their requests come together
        self.made = 0

    async def find(self, claims: Mapping[str, Any]) -> UUID:
        """Return the user of a token with these claims, made now if they are seen for the first time.

        Raises ChatError: unauthenticated if there is none (any more), invalid_claims, rate_limited, unavailable.
        """
        subject = claims["sub"]
        if not isinstance(subject, str):
            raise _invalid("sub", "text")
        while True:
            user_id, until = self._known.get(subject, (None, 0.0))
            if user_id is not None and trio.current_time() < until:
                return user_id
            other = self._asked.get(subject)
            if other is None:
                break
            await other.wait()
        self._asked[subject] = event = trio.Event()
        self._known.pop(subject, None)
        try:
            user_id = await self._look_up(subject, claims)
        except (Unavailable, Overloaded) as error:
            raise from_store(error) from None
        finally:
            del self._asked[subject]
            event.set()
        if len(self._known) >= KNOWN_MAX:
            del self._known[next(iter(self._known))]
        self._known[subject] = user_id, trio.current_time() + REMEMBERED
        return user_id

    async def _look_up(self, subject: str, claims: Mapping[str, Any]) -> UUID:
        found = await self._provisioning.whose(subject)
        if found is not None:
            return found
        if not self._makes_users:
            raise ChatError("unauthenticated", "There is no user of this subject.")
        if not text_rules.fits(text_rules.EXTERNAL_ID, subject):
            raise _invalid("sub", EXTERNAL_ID_RULE)
        identity = profile(claims, self._claims)
        self._new_users.require("")
        user_id, is_new = await self._provisioning.admit(identity)
        self.made += is_new
        return user_id


def claims_of(settings: Settings) -> Mapping[str, str]:
    """Return the claim that each field of a profile is read from, without fields that are read from none."""
    found = {
        "username": settings.jit_username_claim,
        "name": settings.jit_name_claim,
        "email": settings.jit_email_claim,
        "picture": settings.jit_picture_claim,
    }
    return {field: claim for field, claim in found.items() if claim}


def profile(claims: Mapping[str, Any], named: Mapping[str, str]) -> Identity:
    """What a token says of its user. Raises ChatError("invalid_claims") if it is not what it should be.

    A claim that is not there, or is null, says nothing. An address that was not verified is not taken.
    """
    found: dict[str, str] = {}
    for field, claim in named.items():
        value = claims.get(claim)
        if value is None or (field == "email" and claims.get("email_verified") is False):
            continue
        if not isinstance(value, str):
            raise _invalid(claim, "text")
        if len(value) > MAX_TEXT[field]:
            raise _invalid(claim, f"at most {MAX_TEXT[field]} characters")
        if not text_rules.fits(text_rules.LINE, value):
            raise _invalid(claim, "one line of visible text")
        if value.strip():
            found[field] = value.strip()
    if "email" in found and not text_rules.fits(text_rules.EMAIL, found["email"]):
        raise _invalid(named["email"], "an address")
    return Identity("app", claims["sub"], **found)


def _invalid(claim: str, expected: str) -> ChatError:
    sentence = f"The claim {claim!r} of the token makes no user: expected {expected}."
    return ChatError("invalid_claims", sentence, errors={claim: expected})
