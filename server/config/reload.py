"""Compare two configurations, and select the changes that a running process can apply.

Reloadable settings are declared as such (`server.config.settings`). `server.instance` applies them; the other changes
need a restart, and the answer to a reload names them.
"""

from dataclasses import replace
from typing import NamedTuple

from server.config.declaration import settings_of
from server.config.settings import Settings

RELOADABLE = frozenset(name for name, declared in settings_of(Settings).items() if declared.reloadable)


class Difference(NamedTuple):
    """The names of changed settings, as operators write them."""

    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]

    def __str__(self) -> str:
        if not self.changed and not self.needs_restart:
            return "nothing has changed"
        said = [f"changed: {', '.join(self.changed)}"] if self.changed else []
        said += [f"needs a restart: {', '.join(self.needs_restart)}"] if self.needs_restart else []
        return "; ".join(said)


def merge(now: Settings, wanted: Settings) -> tuple[Settings, Difference]:
    """Return `now` with all changes of `wanted` that need no restart."""
    moved = [name for name in Settings.__dataclass_fields__ if getattr(now, name) != getattr(wanted, name)]
    changed = [name for name in moved if name in RELOADABLE]
    merged = replace(now, **{name: getattr(wanted, name) for name in changed})
    others = tuple(name.upper() for name in moved if name not in RELOADABLE)
    return merged, Difference(tuple(name.upper() for name in changed), others)
