"""server.fanout, with the hub connections of one instance: whatever happens when, members hear everything."""

import pytest

from tests.server.fanout.random_rooms import play

STEPS = 150
SEEDS = 80  # of each test
TESTS = 4


@pytest.mark.parametrize("first", range(0, SEEDS * TESTS, SEEDS))
def test_whatever_happens_members_hear_everything(first: int) -> None:
    """Clients miss no change, and hear none twice or late; in the end each hears its user's conversations, and no
    others; and nothing is left behind by those that have gone (P3, P4, P9)."""
    for seed in range(first, first + SEEDS):
        play(seed, STEPS)


@pytest.mark.parametrize("first", range(0, SEEDS * TESTS, SEEDS))
def test_whatever_happens_to_sockets_members_hear_everything(first: int) -> None:
    """So do clients with stateful reconnect, of which some are without a socket for a while."""
    for seed in range(first, first + SEEDS):
        play(seed, STEPS, returning=True)


@pytest.mark.parametrize("seed", [532, 1258, 3008])
def test_what_was_found_of_sockets(seed: int) -> None:
    """A page behind a removal, a removal that came late, a connection that lags amid the opening of its rooms."""
    play(seed, 250, returning=True)


def test_a_seed_is_a_run() -> None:
    """What a seed has found can be found again: the same happens, in the same order, at the same moments."""
    first = play(2, STEPS)
    assert play(2, STEPS) == first and any("hears change" in what for _, _, what in first)
