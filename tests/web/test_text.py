"""What the page makes of the text of messages, without a browser."""

import subprocess

from tests.web.browser import HERE

LONG = 60  # seconds: what is not linear takes minutes


def test_links(node: str) -> None:
    """An address ends where its sentence goes on. No text takes longer than its length says."""
    done = subprocess.run([node, "text.mjs"], cwd=HERE, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stdout + done.stderr
