"""loadtest.bench.reconnects: many who connect at once while pairs talk."""

import pytest

from loadtest.bench import reconnects as module
from loadtest.bench.process import BenchError, Server
from loadtest.bench.reconnects import reconnects
from tests.loadtest.bench.hub import hub
from tests.loadtest.bench.test_talk import PAIRS

TOKENS = [f"token {number}" for number in range(200)]


class Known(Server):
    """A server of which nothing is known but its port."""

    def __init__(self, port: int) -> None:
        self.port = port


def test_all_connect_while_others_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends when the last one is connected, not before all of them have asked."""
    monkeypatch.setattr(module, "WITHIN", 0.5)
    with hub() as port:
        found = reconnects(Known(port), TOKENS, PAIRS)
    assert found.seconds >= 0.45 and found.p99 > 0


def test_a_refusal_is_said() -> None:
    """There is no figure of a server that turns those away who come."""
    with hub(refused=50) as port, pytest.raises(BenchError, match="closed a connection"):
        reconnects(Known(port), TOKENS, PAIRS)
