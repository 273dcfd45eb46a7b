"""loadtest.scenarios.moderation, against a real server: everything is done, judged, and as promised."""

from loadtest.oracle import invariants
from loadtest.scenarios.moderation import ACTS, ENDED, Moderation, Parameters
from tests.loadtest.playing import play
from tests.running import running


async def test_everybody_is_kept_from_what_they_are(database: str, redis_url: str) -> None:
    """People are muted, kept out, blocked and banned while they write; nothing refused is stored, and
    what was acknowledged is."""
    async with running(database, redis_url) as server:
        for seconds in (3, 10, 50):  # on a slow machine the first seconds have few acts
            result = await play(
                server.url, "moderation", groups=1, members=24, rate=100, seconds=seconds, lasts=0.3, removals=1.0
            )
            figures = Moderation(Parameters()).figures(result)
            if all(figures[act] for act in ACTS) or not result.oracle.holds:
                break
    assert result.oracle.holds, result.oracle.breaches
    assert all(figures[act] for act in ACTS), figures
    assert result.oracle.checked[invariants.RESTRICTED] > 0
    assert result.histogram(ENDED).count > 0
    assert result.errors.keys() & {"muted", "recipient_unavailable", "banned"}
