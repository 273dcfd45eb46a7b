"""Why connections end, as data: a slug for each reason there is, for metrics and the log.

Owns the table. The reasons themselves are sentences, some with a client's words in them; the slugs are few and stable.
"""

OTHER = "other"
# By how the reason begins. What an operator should make of each is in docs/monitoring.md.
_BEGINNINGS = {
    "closed by client": "client",
    "connection lost": "lost",
    "cancelled": "stopped",  # the process ends
    "closed, but the client did not take it": "unanswered",
    "the client does not poll any more": "lost",
    "aborted": "unanswered",  # our Close was not answered in time
    "stalled": "stalled",
    "slow_reader": "slow_reader",
    "protocol error": "protocol_error",
    "handshake refused": "handshake_refused",
    "handshake timeout": "handshake_timeout",
    "Client has not been heard of": "silent",
    "detached": "not_resumed",
    "replaced by a new socket": "replaced",
    "unavailable: An operator": "operator",
    "unauthenticated: An operator": "operator",
    "server closed": "server",
}
# Error codes that end connections, as they are.
_CODES = ("unauthenticated", "banned", "draining", "unavailable", "overloaded", "rate_limited", "not_found", "internal")
SLUGS = frozenset({*_BEGINNINGS.values(), *_CODES, OTHER})


def slug_of(reason: str) -> str:
    code = reason.partition(":")[0]
    found = (slug for beginning, slug in _BEGINNINGS.items() if reason.startswith(beginning))
    return next(found, code if code in _CODES else OTHER)
