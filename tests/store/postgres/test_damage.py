"""store.postgres.damage: faults of PostgreSQL's own are said once, and remembered for a while."""

import psycopg
import pytest
from structlog.testing import capture_logs

from store import outage
from store.postgres import damage
from store.postgres.damage import Damage


def fault() -> psycopg.Error:
    said: dict[int, bytes | None] = {psycopg.pq.DiagnosticField.MESSAGE_PRIMARY: b"invalid page in block 7"}
    return psycopg.errors.DataCorrupted("invalid page in block 7, and what somebody wrote", info=said)


def test_it_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing shows that it is over, so health has it for a while after the last time; the log has two lines."""
    now = 1000.0
    monkeypatch.setattr("store.postgres.damage.time.monotonic", lambda: now)
    found = Damage()
    assert found.trouble() is None
    with capture_logs() as lines:
        for _ in range(20):
            found.observe(fault())
        now += damage.SHOWN
        assert "20 so far, the last one 600 s ago: invalid page in block 7 (XX001)" in (found.trouble() or "")
        now += 1
        assert found.trouble() is None
        now += outage.REMIND
        found.observe(fault())
        assert "1 so far" in (found.trouble() or "") and found.count == 21
    events = ["postgres_damaged", "postgres_damaged_over", "postgres_damaged"]
    assert [line["event"] for line in lines] == events and "somebody" not in str(lines)
