"""store.postgres.lane_health: what is trouble of a lane, and when it is over. No database: attempts are made up."""

import psycopg
import pytest
from psycopg.errors import DiskFull, InternalError
from structlog.testing import capture_logs

from store.errors import Unavailable
from store.ids import new_id
from store.postgres import lane_health
from store.postgres.lane_health import LaneHealth

NO_ROOM = DiskFull("no space left on device")
FAULT = InternalError("could not read block 7")


class Time:
    now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Time stands still, at `now`."""
    stands = Time()
    monkeypatch.setattr(lane_health, "time", stands)
    return stands


def a_lane() -> LaneHealth:
    lane = LaneHealth(0)
    lane.tried_out()
    return lane


def trouble_of(lane: LaneHealth, waits_since: float | None = None) -> str:
    return lane.trouble(waits_since) or ""


def test_before_it_was_tried_out() -> None:
    """A lane is in trouble until it is known that it can write."""
    assert trouble_of(LaneHealth(0)) == "not connected to PostgreSQL yet"
    assert trouble_of(a_lane()) == ""


def test_an_outage_is_over_with_what_is_written() -> None:
    """A lane's trouble ends with its next write, and its beginning and end are one log line each."""
    lane = a_lane()
    with capture_logs() as lines:
        for _ in range(3):
            lane.failed(Unavailable("no answer"))
        assert "no answer" in trouble_of(lane)
        lane.wrote()
    assert trouble_of(lane) == "" and [line["event"] for line in lines] == ["commits_fail", "commits_fail_over"]


def test_a_full_disk_lasts_until_room_was_found() -> None:
    """Whatever small messages it takes meanwhile; and room is looked for soon, not only after the usual time."""
    lane = a_lane()
    lane.found_room()
    assert not lane.room_is_due
    lane.failed(NO_ROOM)
    lane.wrote()
    lane.tried_out()
    assert lane.has_no_room and trouble_of(lane)
    lane.look_for_room()
    assert lane.room_is_due
    lane.found_room()
    lane.tried_out()
    assert not lane.has_no_room and trouble_of(lane) == "" and not lane.room_is_due


def test_a_fault_is_the_lanes_where_several_conversations_met_one(clock: Time) -> None:
    """One conversation may meet it as often as it likes; and what was written since, or time, ends it."""
    lane, page = a_lane(), new_id()
    for _ in range(2 * lane_health.SEVERAL):
        lane.met(FAULT, [page])
    assert trouble_of(lane) == ""

    def meet_several() -> None:
        for _ in range(lane_health.SEVERAL):
            lane.met(FAULT, [new_id()])
        assert trouble_of(lane) == "InternalError"

    meet_several()
    lane.wrote()
    assert trouble_of(lane) == ""
    meet_several()
    clock.now += lane_health.FAULT_MEMORY
    assert trouble_of(lane) == ""


@pytest.mark.parametrize(
    ("took", "waited", "is_trouble"),
    [(0.0, 3.0, False), (0.0, 3.1, True), (2.0, 6.0, False), (2.0, 6.1, True), (99.0, 10.0, False), (99.0, 10.1, True)],
)
def test_how_long_messages_may_wait(clock: Time, took: float, waited: float, is_trouble: bool) -> None:
    """For some times as long as the last commit took, at least TOO_LONG, at most LONGEST, if any waits."""
    lane = a_lane()
    lane.committed(took)
    assert ("wait for their commit" in trouble_of(lane, clock.now - waited)) is is_trouble
    assert trouble_of(lane) == ""


def test_slow_commits(clock: Time) -> None:
    """They are said once, are no trouble, and are over with a quick one; or after a while in which there was none."""
    lane = a_lane()
    with capture_logs() as lines:
        lane.committed(5.0)
        lane.committed(5.0)
        assert lane.slow.reason == "a commit took 5.0 s" and trouble_of(lane) == ""
        lane.committed(0.01)
        assert not lane.slow
        lane.committed(5.0)
        lane.tried_out()
        assert lane.slow
        clock.now += lane_health.SLOW_MEMORY + 1
        lane.tried_out()
        assert not lane.slow
    assert [line["event"] for line in lines] == ["commits_slow", "commits_slow_over"]


def test_a_lost_session_is_no_full_disk() -> None:
    """It is over with the next that works."""
    lane = a_lane()
    lane.failed(psycopg.OperationalError("terminating connection"))
    assert not lane.has_no_room
    lane.tried_out()
    assert trouble_of(lane) == ""
