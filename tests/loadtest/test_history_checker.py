"""The history checker: it accepts every correct history, and finds each planted fault."""

import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loadtest.commands import main
from loadtest.history_checker import records
from loadtest.history_checker.check import check
from loadtest.history_checker.conversation import Allowed
from loadtest.history_checker.order import Order
from loadtest.history_checker.reading import Record, RecordError
from loadtest.history_checker.recording import BUFFER, Recording
from loadtest.history_checker.records import Event, State
from loadtest.history_checker.violations import CLASSES, REWOUND, Findings, Violation
from tests.loadtest.history_checker.faults import FAULTS, Story
from tests.loadtest.history_checker.simulator import Run, write

SEEDS = st.integers(0, 2**32)
STEPS = st.integers(1, 250)
CLIENTS = st.integers(1, 5)


class Judged(NamedTuple):
    found: dict[str, Violation]
    text: str


def judged(clients: Sequence[Sequence[Event]], stored: Sequence[State] | None, *, may_go_back: bool = False) -> Judged:
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory), clients, stored)
        verdict = check([Path(directory)], Allowed(may_go_back=may_go_back))
        return Judged(verdict.first, "\n".join(verdict.lines()))


@settings(max_examples=60)
@given(SEEDS, CLIENTS, STEPS, st.booleans(), st.booleans())
def test_correct_histories_are_accepted(seed: int, clients: int, steps: int, goes_back: bool, is_stored: bool) -> None:
    """Whatever crashes, is retried, cut off, replayed, resynced or lost: nothing is wrong with it."""
    run = Run(random.Random(seed), clients=clients, steps=steps, goes_back=goes_back)
    verdict = judged(run.events, run.stored if is_stored else None, may_go_back=goes_back)
    assert not verdict.found, verdict.text


def planted(name: str, seed: int) -> Judged | None:
    """What is found in a run with this fault; None when it has no place for it."""
    rng, fault = random.Random(seed), FAULTS[name]
    story = Story(Run(rng, clients=3, steps=120, goes_back=fault.goes_back), rng)
    return judged(story.clients, story.stored, may_go_back=fault.goes_back) if fault.plant(story) else None


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str) -> None:
    """In five runs of those that have a place for it: by its class, with lines of the record that show it."""
    wanted, found = FAULTS[name].found, 0
    for seed in range(400):
        verdict = planted(name, seed)
        if verdict is None:
            continue
        assert wanted in verdict.found, f"seed {seed}: {verdict.text}"
        assert 1 <= len(verdict.found[wanted].references) <= 3
        found += 1
        if found == 5:
            return
    pytest.fail(f"only {found} runs have a place for it")


@settings(max_examples=40)
@given(SEEDS, st.sampled_from([*FAULTS]))
def test_faults_are_found_in_any_run(seed: int, name: str) -> None:
    """A fault planted into a run of any seed is found under its own class."""
    verdict = planted(name, seed)
    assume(verdict is not None)
    assert verdict is not None
    assert FAULTS[name].found in verdict.found, verdict.text


def test_every_class_is_planted() -> None:
    """There is a planted fault for every class that the checker knows."""
    assert {fault.found for fault in FAULTS.values()} | {REWOUND} == set(CLASSES)


def test_a_history_that_went_back_is_wrong_unless_it_may() -> None:
    """The same record: with the option nothing is wrong with it, without the loss is found."""
    found: set[str] = set()
    for seed in range(60):
        run = Run(random.Random(seed), steps=120, goes_back=True)
        assert not judged(run.events, run.stored, may_go_back=True).found
        found |= judged(run.events, run.stored).found.keys()
        if {REWOUND, "missing"} <= found:
            return
    pytest.fail(f"only {found}")


def test_it_needs_nothing_but_the_record() -> None:
    """Of ours it imports nothing but itself, and of others msgspec."""
    code = "import sys, loadtest.history_checker.command; print(*sys.modules)"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    tops = {name.partition(".")[0] for name in listed}
    ours = [name for name in listed if name.startswith(("loadtest.", "server", "handlers", "store"))]
    assert all(name.startswith("loadtest.history_checker") for name in ours), ours
    assert not tops & {"trio", "click", "structlog", "psycopg"}


def test_nothing_of_a_record_controls_the_terminal(tmp_path: Path) -> None:
    """Control characters of a path or of a record are written out."""
    refused = call(tmp_path / "no\x1b[31m\u202esuch")
    assert refused.returncode == 2 and "\\u001b" in refused.stderr and "\\u202e" in refused.stderr
    assert refused.stderr.replace("\n", "").isprintable()


def call(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest.history_checker", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_says_what_is_wrong_and_where(tmp_path: Path) -> None:
    """Exit code 0 and one line; 1 and the lines that prove it; 2 for what is no record."""
    rng = random.Random(3)
    run = Run(rng, steps=200)
    write(tmp_path / "good", run.events, run.stored)
    good = call(tmp_path / "good")
    assert (good.returncode, good.stdout.splitlines()[1:]) == (0, ["one history: nothing is wrong with it"])
    story = Story(run, rng)
    assert FAULTS["an event comes twice"].plant(story)
    write(tmp_path / "bad", story.clients, story.stored)
    bad = call(tmp_path / "bad", "--quiet")
    assert bad.returncode == 1
    assert "BROKEN  repeat (1)" in bad.stdout
    quoted = [line.split(maxsplit=1) for line in bad.stdout.splitlines() if line.startswith("    ")]
    assert len(quoted) == 2
    for name, line in quoted:
        file, _, number = name.rpartition(":")
        assert (tmp_path / "bad" / file).read_text().splitlines()[int(number) - 1] == line
    help_ = call("--help")
    assert help_.returncode == 0
    assert all(name in help_.stdout for name in CLASSES)
    assert CliRunner().invoke(main, ["check", "--help"]).exit_code == 0


BEGUN = b'{"event":"begun","format":%d,"clock":"c"}\n' % records.FORMAT


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "no file"),
        ({"a.jsonl": b""}, "a.jsonl: it is empty"),
        ({"a.jsonl": BEGUN}, "no conversation"),
        ({"a.jsonl": b'{"event":"settled","client":"p","conversation":"t","at":1}\n'}, "a.jsonl:1: the first line"),
        ({"a.jsonl": BEGUN.replace(b"2", b"1")}, "format 1"),
        ({"a.jsonl": BEGUN.replace(b"2", b"9")}, "format 9"),
        ({"a.jsonl": BEGUN + b"{}\n"}, "a.jsonl:2"),
        ({"a.jsonl": BEGUN + b'{"event":"received","client":"p","conversation":"t","at":1}\n'}, "a.jsonl:2"),
        ({"a.jsonl": BEGUN + BEGUN.replace(b'"c"', b'"d"')}, "another clock"),
        (dict.fromkeys(["a.jsonl", "b.jsonl"], BEGUN + b'{"event":"connected","client":"p","at":1}\n'), "another file"),
    ],
)
def test_what_is_no_record_is_refused_by_name(tmp_path: Path, files: dict[str, bytes], says: str) -> None:
    """A record that cannot be read or does not fit the others is refused with its file and line."""
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(RecordError, match=re.escape(says)):
        found = check([tmp_path])
        if not found.conversations:
            raise RecordError("there is no conversation in this record")


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    """A client that was killed while it wrote: all that it had written before counts."""
    run = Run(random.Random(1))
    write(tmp_path, run.events, None)
    path = tmp_path / "0.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    verdict = check([tmp_path])
    assert verdict.record.cut == [path]
    assert any("is not complete" in line for line in verdict.lines())


def test_a_large_record_is_dealt_out(tmp_path: Path) -> None:
    """By conversation, into files: the verdict is the same, and lines are called by where they stand in the record."""
    rng = random.Random(7)
    story = Story(Run(rng, steps=200), rng)
    assert FAULTS["an event comes twice"].plant(story)
    write(tmp_path, story.clients, story.stored)
    whole, dealt = Record([tmp_path]), Record([tmp_path])
    assert dict(dealt.conversations(part=1000)) == dict(whole.conversations())


def test_a_jump_of_the_numbers_is_passed_over_at_once() -> None:
    """What is asked of a gap follows what is known of it, and not how long it is."""
    order, findings = Order(1), Findings()
    for state in (State("m1", 1, 1), State("m1", 1, 10**12), State("m2", 7, 7)):
        order.add(0, state, findings)
    assert order.lost(2, 10**12 - 1) == 7
    assert order.lost(8, 10**12) == 10**12
    assert order.lost(8, 10**12 - 1) is None


def test_times_of_two_clocks_are_not_compared(tmp_path: Path) -> None:
    """A call that one file has later than what another one knows of may be an earlier one."""
    first, second = (records.Begun(format=records.FORMAT, clock=clock) for clock in ("one", "other"))
    early = State("m1", 1, 1, key="k1")
    later = State("m2", 2, 2, key="k2")
    made = {"conversation": "t", "call": 1, "content": 0}
    one = [records.Sent(client="p1", at=900, key="k1", **made)]  # type: ignore[arg-type]  # fields of all
    other = [
        records.Sent(client="p2", at=100, key="k2", **made),  # type: ignore[arg-type]
        records.Acknowledged(client="p2", conversation="t", at=200, call=1, message=later),
    ]
    stored = [records.Stored(conversation="t", messages=(early, later))]
    for begun, found in ((first, {"real_time"}), (second, set())):
        for name, events in {"1": [first, *one], "2": [begun, *other, *stored]}.items():
            (tmp_path / f"{name}.jsonl").write_bytes(b"".join(records.encode(event) + b"\n" for event in events))
        assert check([tmp_path]).first.keys() == found


def test_a_recording_is_a_record(tmp_path: Path) -> None:
    """Written while a run goes on, in pieces of bounded size."""
    run = Run(random.Random(9), steps=3000)
    with Recording(tmp_path / "new" / "0.jsonl") as recording:
        for events in run.events:
            for event in events:
                recording.write(event)
            assert len(recording._buffer) <= BUFFER
    verdict = check([tmp_path / "new"])
    assert verdict.holds
    assert verdict.record.events == 1 + sum(len(events) for events in run.events)
