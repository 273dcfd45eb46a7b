"""What of the configuration may change in a running process, and the comparison of two.

Owns the list. `server.app` applies what changed; the rest waits for a restart, and whoever asked is told so.
"""

from typing import NamedTuple

import msgspec

from server.config.settings import Settings

RELOADABLE = frozenset(
    {"log_level", "jwt_key", "jwt_old_keys", "rate_limits", "drain_seconds", "shutdown_timeout"}
    | {name for name in Settings.__struct_fields__ if name.startswith("rate_")}
)


class Difference(NamedTuple):
    """Names of settings, as operators write them."""

    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]

    def __str__(self) -> str:
        if not self.changed and not self.needs_restart:
            return "nothing has changed"
        said = [f"changed: {', '.join(self.changed)}"] if self.changed else []
        said += [f"needs a restart: {', '.join(self.needs_restart)}"] if self.needs_restart else []
        return "; ".join(said)


def merge(now: Settings, wanted: Settings) -> tuple[Settings, Difference]:
    """The settings to go on with: `now`, with all of `wanted` that can be had without a restart."""
    moved = [name for name in Settings.__struct_fields__ if getattr(now, name) != getattr(wanted, name)]
    changed = [name for name in moved if name in RELOADABLE]
    merged = msgspec.structs.replace(now, **{name: getattr(wanted, name) for name in changed})
    others = tuple(name.upper() for name in moved if name not in RELOADABLE)
    return merged, Difference(tuple(name.upper() for name in changed), others)
