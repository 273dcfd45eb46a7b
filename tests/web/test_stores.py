"""The stores of the JavaScript client in a real Chromium, outside of the page."""

import subprocess

from tests.waiting import WITHIN
from tests.web.browser import HERE


def test_the_stores_of_a_browser(node: str, chromium: str) -> None:
    """IndexedDB and localStorage keep the contract of a store: all or none, in order, shared by two tabs; one that is
    corrupt, of another format, user or server begins anew. What a closed tab had to send is sent by another."""
    done = subprocess.run(
        [node, str(HERE / "stores.mjs"), chromium], cwd=HERE, capture_output=True, text=True, timeout=WITHIN
    )
    assert done.returncode == 0, done.stdout + done.stderr
