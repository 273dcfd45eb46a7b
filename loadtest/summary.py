"""The single numbers that a run comes down to: its knee, what the generator cost, what only its scenario finds.

Owns their calculation from a result, one machine's or the whole of all shards: none of them is a part's own.
"""

from collections.abc import Sequence

import msgspec

from loadtest import results, steps
from loadtest.results import Result
from loadtest.scenarios import SCENARIOS

MESSAGES = (  # counters of hub messages that the generator has written or read
    *(results.SENT, results.ACKNOWLEDGED, results.DELIVERED),
    *("history_items", "status_updates", "presence_updates", "typing_updates"),
)

HIGHER = "the shards did not end at the same step: the knee of all may be higher"


def merge(parts: Sequence[Result]) -> Result:
    """One run out of its shards, with figures of the whole. Raises ResultError."""
    whole = results.merge(parts)
    notes = [*whole.notes, HIGHER] if steps.may_be_higher([part.steps for part in parts]) else whole.notes
    return msgspec.structs.replace(whole, figures=of(whole), notes=notes)


def of(result: Result) -> dict[str, float]:
    found = {"knee_per_second": steps.knee(result.steps)} if result.steps else {}
    found |= _generator_cost(result)
    found |= _own(result)
    return {name: round(value, 3) for name, value in found.items()}


def _own(result: Result) -> dict[str, float]:
    """What the scenario finds; nothing for one that this version plays otherwise, or not any more."""
    kind = SCENARIOS.get(result.scenario)
    if kind is None:
        return {}
    try:
        parameters = msgspec.convert(result.parameters, kind.Parameters)
    except msgspec.ValidationError:
        return {}
    return kind(parameters).figures(result)


def _generator_cost(result: Result) -> dict[str, float]:
    """What the suite itself used: processor time of the busiest worker, and for each message and memory for each
    connection."""
    generators = [one for one in result.processes if one.role == "generator" and len(one.samples) > 1]
    if not generators:
        return {}
    spent = [one.samples[-1].cpu_seconds - one.samples[0].cpu_seconds for one in generators]
    lasted = [one.samples[-1].at - one.samples[0].at for one in generators]
    handled = sum(sample.counters.get(name, 0) for sample in result.samples for name in MESSAGES)
    found = {"generator_load": max(used / long for used, long in zip(spent, lasted, strict=True) if long > 0)}
    if handled:
        found["generator_us_per_message"] = sum(spent) / handled * 1e6
    return found
