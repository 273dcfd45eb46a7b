"""What a bench has measured, round by round, and what follows from it: medians, ratios, verdicts.

Owns the JSON. Ratios are taken within each round, then their median: what slows the machine down for a round slows
both sides of a ratio. A bench in which a reference moved by more than `STEADY` was disturbed: it says nothing.
"""

import statistics
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from loadtest.bench.rows import BY_KEY, REFERENCES, Budget, Row
from loadtest.results import Machine

STEADY = 0.15  # of the median, between the lowest and the highest of a reference
JUDGED = 3  # rounds that it takes to see whether anything moved


class MeasuredError(Exception):
    """A file is no bench; the message says which and why."""


class Measured(msgspec.Struct, frozen=True, rename="camel"):
    """One bench, as it is written as JSON."""

    at: datetime
    machine: Machine
    versions: dict[str, str]
    seconds: float  # of each measurement
    event_bytes: int  # of an event, in Parley and in the references
    rounds: list[dict[str, float]] = []  # by key of a row
    left_out: dict[str, str] = {}  # references that cannot be had, and why
    failed: dict[str, str] = {}  # stages that broke off, and why
    format: int = 1

    def values(self, key: str) -> list[float]:
        return [found[key] for found in self.rounds if key in found]

    def median(self, key: str) -> float | None:
        values = self.values(key)
        return statistics.median(values) if values else None

    def ratio(self, key: str, budget: Budget) -> float | None:
        """The median over the rounds."""
        ratios = [budget.ratio(found[key], found) for found in self.rounds if key in found]
        known = [ratio for ratio in ratios if ratio is not None]
        return statistics.median(known) if known else None

    def times(self, key: str, reference: str) -> float | None:
        """How many times the reference it is."""
        return self.ratio(key, Budget(1.0, reference))

    def moved(self) -> dict[str, float]:
        """The references that moved too far, and how far, as a share of the median."""
        shares = {key: spread(self.values(key)) for key in REFERENCES}
        return {key: share for key, share in shares.items() if share > STEADY}

    def verdicts(self) -> list["Verdict"]:
        """One for each budget of each row that was measured."""
        return [
            Verdict(BY_KEY[key], budget, ratio)
            for key in BY_KEY
            for budget in BY_KEY[key].budgets
            if (ratio := self.ratio(key, budget)) is not None
        ]

    @property
    def missed(self) -> list["Verdict"]:
        return [verdict for verdict in self.verdicts() if not verdict.holds]


class Verdict(NamedTuple):
    row: Row
    budget: Budget
    ratio: float

    @property
    def holds(self) -> bool:
        return self.budget.holds(self.ratio)


def spread(values: list[float]) -> float:
    """From the lowest to the highest, as a share of the median."""
    middle = statistics.median(values) if values else 0.0
    return (max(values) - min(values)) / middle if middle else 0.0


def write(found: Measured, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


def read(path: Path) -> Measured:
    """Raises MeasuredError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Measured)
    except OSError as error:
        raise MeasuredError(f"{path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise MeasuredError(f"{path}: {error}") from None
