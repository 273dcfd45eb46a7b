"""server.config.units: durations, sizes and rates, however they are written."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.rate_limits import Rate
from server.config.units import duration, rate, show_duration, show_rate, show_size, size, whole_number


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15", 15), ("1.5s", 1.5), ("250ms", 0.25), ("5m", 300), ("2h", 7200), ("1d", 86400), (3, 3), (0.5, 0.5)],
)
def test_durations(text: object, seconds: float) -> None:
    """A number is seconds; a unit may follow."""
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("1", 1), ("2 KiB", 2048), ("3mib", 3 << 20), ("1GiB", 1 << 30), ("7B", 7), (9, 9)]
)
def test_sizes(text: object, count: int) -> None:
    """A number is bytes; a unit, in any case, may follow."""
    assert size(text) == count


NONE_OF_THEM: dict[Callable[[object], object], list[object]] = {
    duration: ["-1", "x", "", "1 week", "9" * 400, math.inf, math.nan, True, None],
    size: ["1.5KiB", "-1", "x", "", 1.5, True],
    rate: ["60", "0/1s", "60/0", "-1/1s", "60/soon", "x/1s", ""],
    whole_number: ["x", "1.5", 1.5, True, None, []],
}


@pytest.mark.parametrize(("parse", "text"), [(parse, text) for parse, texts in NONE_OF_THEM.items() for text in texts])
def test_what_is_none_of_them(parse: Callable[[object], object], text: object) -> None:
    """What cannot be read is refused with what is expected: no infinity, and no boolean that counts as 1."""
    with pytest.raises(ValueError, match=r"^expected a"):
        parse(text)


@given(st.integers(0, 10**6), st.sampled_from([1, 0.001, 0.25, 60, 3600, 86400]))
def test_durations_are_read_as_they_are_shown(count: int, unit: float) -> None:
    """What `show_duration` writes, `duration` reads, to the digits shown."""
    assert math.isclose(duration(show_duration(count * unit)), count * unit, rel_tol=1e-5)


@pytest.mark.parametrize("text", ["0", "250ms", "15s", "90s", "5m", "90m", "1h", "36h", "1d", "30d"])
def test_durations_are_shown_as_they_are_written(text: str) -> None:
    """In the unit of which they are a whole number: a day is no number of minutes."""
    assert show_duration(duration(text)) == text


@given(st.integers(0, 2**40))
def test_sizes_are_read_as_they_are_shown(count: int) -> None:
    """What `show_size` writes, `size` reads, exactly."""
    assert size(show_size(count)) == count


def test_rates_are_read_as_they_are_shown() -> None:
    """In the words of the documents."""
    for text in ("60/1m", "200/10s", "1/250ms", "20/1h"):
        assert show_rate(rate(text)) == text
    assert rate("60/1m") == rate(Rate(60, 60.0)) == Rate(60, 60.0)
