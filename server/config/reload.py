"""What of the configuration may change in a running process, and the comparison of two.

Which settings those are is declared with them (`server.config.settings`). `server.instance` applies what changed; the
rest waits for a restart, and the answer to a reload names it.
"""

from dataclasses import replace
from typing import NamedTuple

from server.config.declaration import settings_of
from server.config.settings import Settings

RELOADABLE = frozenset(name for name, declared in settings_of(Settings).items() if declared.reloadable)


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
    moved = [name for name in Settings.__dataclass_fields__ if getattr(now, name) != getattr(wanted, name)]
    changed = [name for name in moved if name in RELOADABLE]
    merged = replace(now, **{name: getattr(wanted, name) for name in changed})
    others = tuple(name.upper() for name in moved if name not in RELOADABLE)
    return merged, Difference(tuple(name.upper() for name in changed), others)
