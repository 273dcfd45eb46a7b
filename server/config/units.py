"""Parse and format durations, sizes and rates: `15m`, `32KiB`, `60/1m`.

Owns their syntax. Each function raises ValueError with a sentence about what is expected, never with the given text,
which may be a secret in the wrong place. Touches nothing.
"""

import math
import re

from handlers.rate_limits import Rate

SECONDS = 1.0
MINUTES = 60.0
HOURS = 3600.0
DAYS = 86400.0
KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?")
_DURATION_UNITS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": MINUTES, "min": MINUTES, "h": HOURS, "d": DAYS}
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB)?", re.IGNORECASE)
_SIZE_UNITS = {"b": 1, "kib": KIB, "mib": MIB, "gib": GIB}


def duration(given: object) -> float:
    """Return seconds. Accepts a number, or one with ms, s, m, h or d."""
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        found = float(given)
    else:
        match = _DURATION.fullmatch(str(given).strip())
        found = float(match[1]) * _DURATION_UNITS[match[2]] if match else math.nan
    if not math.isfinite(found):
        raise ValueError("expected a duration such as 15, 15s, 5m or 1h")
    return found


def show_duration(seconds: float) -> str:
    """Return a text that `duration` reads as `seconds`, in the largest unit of which they are a whole number."""
    for unit, factor in (("d", DAYS), ("h", HOURS), ("m", MINUTES), ("s", 1.0)):
        if seconds >= factor and seconds % factor == 0:
            return f"{int(seconds // factor)}{unit}"
    return f"{seconds * 1000:.3f}".rstrip("0").rstrip(".") + "ms" if seconds else "0"


def size(given: object) -> int:
    """Return bytes. Accepts a whole number, or one with KiB, MiB or GiB."""
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    match = _SIZE.fullmatch(str(given).strip())
    if match is None:
        raise ValueError("expected a size such as 32768, 32KiB or 100MiB")
    return int(match[1]) * _SIZE_UNITS[(match[2] or "B").lower()]


def show_size(count: int) -> str:
    """Return the shortest text that `size` reads as `count` bytes."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if count and count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)


def rate(given: object) -> Rate:
    """Return a rate: a number in a duration, as `60/1m`."""
    if isinstance(given, Rate):
        return given
    count, _, period = str(given).partition("/")
    try:
        found = Rate(int(count), duration(period))
    except ValueError:
        found = Rate(0, 0)
    if found.count < 1 or found.seconds <= 0:
        raise ValueError("expected a rate such as 60/1m")
    return found


def show_rate(given: Rate) -> str:
    return f"{given.count}/{show_duration(given.seconds)}"


def whole_number(given: object) -> int:
    """Return an integer; neither a fraction nor a boolean of a TOML file is one."""
    try:
        if isinstance(given, (int, str)) and not isinstance(given, bool):
            return int(given)
    except ValueError:
        pass
    raise ValueError("expected a whole number")
