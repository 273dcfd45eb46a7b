"""What libraries import only because it is installed: not loaded into a server that never uses it.

Owns the list. Several libraries look for packages of others, and go without where they are missing: structlog and the
command line of httpx for `rich`, Quart-Schema for `pydantic`, PyJWT for `cryptography`. They take a sixth of the memory
of an idle process. Touches `sys.modules`, for as long as the libraries are imported.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

NEVER_USED = ("pydantic", "pydantic_core", "pygments", "rich")
FOR_PUBLIC_KEYS = ("cryptography",)  # a server that signs by itself makes and checks HS256 only


@contextmanager
def spared(*names: str) -> Iterator[None]:
    """Meanwhile, what imports one of these packages finds it missing, unless it is loaded already. Later imports are
    as always."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: as if it were not installed
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
