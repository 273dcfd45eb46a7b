"""What the examples are run with: Node and the clients of tests/interop, the browser of tests/web."""

from collections.abc import Iterator

import pytest

from tests.interop.conftest import node as node  # fixtures: pytest finds them by these names
from tests.web.browser import start_chromium
from tests.web.conftest import chromium as chromium
from tests.web.conftest import node as browser_node

__all__ = ["browser_node", "chromium", "node"]


@pytest.fixture
def running_chromium(browser_node: str, chromium: str) -> Iterator[str]:
    """Its address."""
    with start_chromium(browser_node, chromium) as address:
        yield address
