"""store.postgres.durability: whether an accepted message is on one machine or on two."""

import pytest
import trio
from structlog.testing import capture_logs

from store.postgres import durability, group_commit
from store.postgres.durability import Durability
from store.postgres.group_commit import Lanes
from store.postgres.sessions import Connector
from tests.store.cluster import Cluster
from tests.store.world import Sent, make_append, make_group, make_users
from tests.waiting import wait_until


@pytest.mark.parametrize(
    ("conninfo", "several"),
    [
        ("host=a,b target_session_attrs=read-write", True),
        ("postgresql://a:1,b:2/parley?target_session_attrs=read-write", True),
        ("host=a", False),
        ("postgresql://u@a/parley", False),
    ],
)
def test_what_is_said(conninfo: str, several: bool) -> None:
    """With several servers configured, it is a warning that commits wait for none; so is that they no longer do."""
    with capture_logs() as lines:
        one = Durability(conninfo)
        one.observe(False)
        one.observe(False)
        one.observe(True)
        one.observe(False)
    events = ["commits_wait_for_standby", "accepted_on_one_machine"]
    assert [line["event"] for line in lines] == (["accepted_on_one_machine"] if several else []) + events


async def test_a_standby_that_is_away(
    cluster: Cluster, database: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes without messages find out that commits wait in vain for a standby, and that they do no longer."""
    monkeypatch.setattr(group_commit, "LOOK", 0.05)
    monkeypatch.setattr(group_commit, "LOOK_WITHIN", 0.5)
    source = Connector(database, name="test", writes=True)
    conn = await source.connect()
    assert not await durability.fetch_waits(conn) and not conn.waits_for_standby
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    lanes = Lanes(source, count=1, on_commit=lambda changes: None, on_doubt=lambda conversations: None)
    await nursery.start(lanes.run)
    assert lanes.trouble() is None
    try:
        cluster.execute("ALTER SYSTEM SET synchronous_standby_names = 'away'")
        cluster.execute("SELECT pg_reload_conf()")
        await wait_until(lambda: lanes.trouble() is not None)
        other = await source.connect()
        assert other.waits_for_standby and await durability.fetch_waits(other)
        other.finish()
    finally:
        cluster.execute("ALTER SYSTEM RESET synchronous_standby_names")
        cluster.execute("SELECT pg_reload_conf()")
    await wait_until(lambda: lanes.trouble() is None)
    sent = Sent()
    lanes.offer(make_append(group, alice, sent))
    assert (await sent.message()).seq == 2
    conn.finish()
