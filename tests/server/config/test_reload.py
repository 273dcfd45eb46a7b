"""server.config.reload: what may change in a running process, and what it says about the rest."""

from server.config.loading import load
from server.config.reload import merge

KEY = "k" * 32


def test_merge() -> None:
    """Limits, keys and the level are taken over; where it listens is not; both are named, and nothing else moves."""
    now = load({}, None, jwt_key=KEY, listen="127.0.0.1:1", lanes=2)
    wanted = load(
        {},
        None,
        jwt_key="n" * 32,
        jwt_old_keys=[KEY],
        listen="127.0.0.1:2",
        lanes=3,
        rate_sends="5/1s",
        log_level="debug",
    )
    merged, difference = merge(now, wanted)
    assert (merged.jwt_key, merged.jwt_old_keys, merged.rate_sends.count) == ("n" * 32, (KEY,), 5)
    assert (merged.listen, merged.lanes, merged.log_level) == ("127.0.0.1:1", 2, "debug")
    assert set(difference.changed) == {"JWT_KEY", "JWT_OLD_KEYS", "RATE_SENDS", "LOG_LEVEL"}
    assert difference.needs_restart == ("LISTEN", "LANES")
    assert str(difference).endswith("; needs a restart: LISTEN, LANES") and KEY not in str(difference)
    assert str(merge(now, now)[1]) == "nothing has changed"
