"""How to install what an optional part needs.

Owns the sentence. It names the `pip` of this environment, and a directory in place of a name: a package index may know
another project as `parley`.
"""

import sys


def how_to_install(extra: str) -> str:
    """Return what to do to have an extra of setup.cfg."""
    return f"in Parley's source directory, run {sys.prefix}/bin/pip install '.[{extra}]'"
