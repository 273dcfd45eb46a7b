"""Sign-in, from the redirect to the provider to the identity of the user who returns.

Owns the configured providers and the single use of each attempt. Touches Redis (through `Claimer`) and the providers.
"""

import hmac
from collections.abc import Mapping, Sequence

from handlers import permissions
from handlers.model import Identity
from server.config.settings import OAuthProvider
from server.identity.connection_tokens import Claimer
from server.identity.exchange_codes import Codes
from server.identity.providers import Provider, failed, make_provider
from server.identity.sign_in_state import TTL, Attempt, Sealer
from store.errors import StoreError
from store.outage import Outage
from store.redis import keys
from store.signing import SigningKeys


class SignIn:
    def __init__(self, configured: Sequence[OAuthProvider], signing: SigningKeys, claimer: Claimer) -> None:
        """Attempts are sealed, and codes signed, with keys derived from `signing`."""
        self._providers: dict[str, Provider] = {config.name: make_provider(config) for config in configured}
        self.sealer = Sealer(signing)
        self.codes = Codes(signing)
        self._claimer = claimer
        self.outage = Outage("parley.sign_in", "sign_ins_unchecked", advice="Redis is out of reach")

    def find(self, name: str) -> Provider:
        """Return the provider of this name. Raise ChatError("not_found")."""
        if name not in self._providers:
            raise permissions.not_found("identity provider")
        return self._providers[name]

    async def finish(self, attempt: Attempt, state: str, query: Mapping[str, str]) -> Identity:
        """Return the identity of the user whose browser returned with `query`. Raise ChatError."""
        if not hmac.compare_digest(attempt.state.encode(), state.encode()):
            raise failed("The state is not that of this sign-in.")
        if not await self._spend(attempt.state):
            raise failed("This sign-in is over: begin again.")
        if "error" in query:
            denied = query["error"] == "access_denied"
            raise failed("The sign-in was declined." if denied else "The provider could not sign you in.")
        if not query.get("code"):
            raise failed("The provider sent no code.")
        return await self.find(attempt.provider).identify(attempt, query["code"], query.get("iss"))

    async def _spend(self, state: str) -> bool:
        """Return True once for each state, across all instances."""
        try:
            fresh = await self._claimer.claim(keys.claim("sign-in", state), TTL)
        except StoreError as error:
            # Sign-in must work without Redis, and the provider's code is single-use too.
            self.outage.failed(str(error))
            return True
        self.outage.over()
        return fresh
