"""Every class of defect, planted on purpose, must be found: by name, where it is, with its trace."""

from pathlib import Path
from typing import Any

import trio
from click.testing import CliRunner, Result

from loadtest import results
from loadtest.commands import main
from loadtest.oracle.invariants import PROMISES
from tests.loadtest.lying_proxy import ALL, LyingProxy
from tests.loadtest.playing import play
from tests.running import running


def audit(result: results.Result, path: Path) -> Result:
    results.write(result, path)
    return CliRunner().invoke(main, ["audit", str(path)])


def test_there_is_a_lie_for_every_promise() -> None:
    """Each promise of the oracle has a lie that must break it."""
    assert set(ALL) == set(PROMISES)


async def test_a_lying_server_is_found_out(database: str, redis_url: str, tmp_path: Path) -> None:
    """Between a sound server and its clients each conversation is lied to in one way: each way is found, and where."""
    async with running(database, redis_url) as server, trio.open_nursery() as nursery:
        proxy = LyingProxy(server.url, ALL)
        await nursery.start(proxy.run)
        url = f"http://127.0.0.1:{proxy.port}"
        given: dict[str, Any] = {"pairs": len(ALL), "rate": 22 * len(ALL), "writes": 0.9, "seconds": 1, "size": 200}
        result = await play(url, "search", settle=5.0, **given)
        nursery.cancel_scope.cancel()
    assert set(proxy.dealt) == set(ALL)
    for promise in PROMISES:
        found = [breach for breach in result.oracle.breaches if breach.promise == promise]
        assert found, f"{promise} was not found: {result.oracle.breached}"
        assert any(breach.trace for breach in found), promise
    for promise in ("order", "gap", "repeat", "unseen", "diverged", "receipt"):
        where = proxy.dealt[promise]
        assert any(breach.promise == promise and where in breach.text for breach in result.oracle.breaches), promise
    done = audit(result, tmp_path / "run.json")
    assert done.exit_code == 1
    assert "the first, " in done.output


async def test_a_defect_of_the_server_is_found(database: str, redis_url: str) -> None:
    """A server that now and then does not deliver a message to a member, and never repairs it, is found out."""
    async with running(database, redis_url, module="tests.loadtest.amnesiac_proxy") as server:
        result = await play(server.url, "group", settle=5.0, groups=1, members=5, rate=50, seconds=1)
    assert result.oracle.breached.keys() & {"gap", "unseen"}, result.oracle
    assert not result.oracle.breached.keys() - {"gap", "unseen"}
