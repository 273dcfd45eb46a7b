"""What a run did, what that took, and what the model of `loadtest capacity` says that it takes.

Owns the arithmetic. The model knows what each kind of work costs; how much of a whole day it leaves out is seen in the
run of one process, by which factor every role is corrected. What a process takes for being there, without a client, is
known besides, and is no matter of work. What is then said of several processes is a forecast, and its error is that of
the model where processes talk to each other.
"""

from typing import NamedTuple

import msgspec

from loadtest import results
from loadtest.capacity.population import Cost, Costs
from loadtest.compare.measures import peak
from loadtest.report.charts import spent
from loadtest.results import MS, Result
from loadtest.virtual_user import EDIT, HISTORY, RECEIPT, SEND

MIB, KIB = 2**20, 2**10
ROLES = ("server", "database", "redis")


class Work(msgspec.Struct, frozen=True, rename="camel"):
    """What was done within the measured part of a run."""

    seconds: float
    connections: int
    connects: int
    messages: int  # sent or edited, and acknowledged
    deliveries: int
    receipts: int
    pages: int  # of history


class Load(msgspec.Struct, frozen=True, rename="camel"):
    """Cores that were busy, on average over the run; and memory."""

    server: float  # all processes together
    database: float
    redis: float
    memory_mib: float  # of all server processes, at its highest


class Rehearsed(msgspec.Struct, frozen=True, rename="camel"):
    """One run."""

    processes: int
    work: Work
    load: Load
    p50_ms: dict[str, float]  # by operation
    p99_ms: dict[str, float]
    breached: dict[str, int]  # promises
    uncounted: str = ""


def rehearsed(result: Result, processes: int, connections: int) -> Rehearsed:
    shown = [name for name in (SEND, "deliver", EDIT, RECEIPT, HISTORY) if name in result.histograms]
    return Rehearsed(
        processes=processes,
        work=work_of(result, connections),
        load=load_of(result),
        p50_ms={name: round(result.histogram(name).percentile(50) * MS, 2) for name in shown},
        p99_ms={name: round(result.histogram(name).percentile(99) * MS, 2) for name in shown},
        breached=result.oracle.breached,
    )


def work_of(result: Result, connections: int) -> Work:
    def times(operation: str) -> int:
        return result.histogram(operation).count if operation in result.histograms else 0

    return Work(
        seconds=sum(sample.seconds for sample in result.measured()),
        connections=connections,
        connects=result.total(results.CONNECTS),
        messages=result.total(results.ACKNOWLEDGED) + times(EDIT),
        deliveries=result.total(results.DELIVERED),
        receipts=times(RECEIPT),
        pages=times(HISTORY),
    )


def load_of(result: Result) -> Load:
    seconds = sum(sample.seconds for sample in result.measured()) or 1.0
    used = {
        role: sum(spent(process, result) for process in result.processes if process.role == role) / seconds
        for role in ROLES
    }
    servers = [process for process in result.processes if process.role == "server" and process.samples]
    return Load(**used, memory_mib=peak(servers) / MIB if servers else 0.0)


# -- the model ----------------------------------------------------------------------------------


def modelled(costs: Costs, base: Cost, work: Work, processes: int, group: int) -> Load:
    """Of the same work; `base`: cores that are busy for each process without a client; `group`: members of a group, all
    others are conversations of two."""
    parts = [
        (work.connections * work.seconds, costs.idle_second),
        (work.connects, costs.connect),
        (work.messages, costs.message),
        (crossings(work, processes, group), costs.across),
        (max(work.deliveries - 2 * work.messages, 0), costs.delivery),
        (work.receipts, costs.receipt),
        (work.pages, costs.history),
    ]
    whole = base.times(processes)
    for times, cost in parts:
        whole = whole.plus(cost.times(times / 1e6 / work.seconds))
    memory = processes * costs.process_mib + work.connections * costs.connection_kib / KIB
    return Load(whole.server, whole.database, whole.redis, memory)


def crossings(work: Work, processes: int, group: int) -> float:
    """How often a message goes to another process. Connections are dealt out at random; how many of the messages are a
    group's follows from how many deliveries there are to one."""
    if not work.messages or processes < 2:
        return 0.0
    mean = min(max(work.deliveries / work.messages, 2.0), float(group))
    of_groups = (mean - 2) / (group - 2) if group > 2 else 0.0
    return work.messages * (of_groups * others(group, processes) + (1 - of_groups) * others(2, processes))


def others(members: int, processes: int) -> float:
    """In how many processes besides the sender's the other members are, on average."""
    return (processes - 1) * (1 - (1 - 1 / processes) ** (members - 1))


def corrected(costs: Costs, base: Cost, full: Rehearsed, group: int) -> Costs:
    """The costs, so that the model says of the run of one process what that took."""
    said, there = modelled(costs, base, full.work, full.processes, group), base.times(full.processes)
    factors = {
        role: _factor(getattr(full.load, role) - getattr(there, role), getattr(said, role) - getattr(there, role))
        for role in ROLES
    }

    def times(cost: Cost) -> Cost:
        return Cost(*(getattr(cost, role) * factors[role] for role in ROLES))

    kinds = {
        field.name: times(getattr(costs, field.name))
        for field in msgspec.structs.fields(Costs)
        if isinstance(getattr(costs, field.name), Cost)
    }
    above = full.load.memory_mib - full.processes * costs.process_mib
    size = max(above, 0.0) * KIB / full.work.connections
    return msgspec.structs.replace(costs, **kinds, connection_kib=size)


def _factor(measured: float, said: float) -> float:
    return max(measured, 0.0) / said if said else 1.0


class Line(NamedTuple):
    """One figure of one run."""

    what: str
    measured: float
    forecast: float

    @property
    def error(self) -> float | None:
        """Of the forecast: 0.1 is 10 % too much."""
        return self.forecast / self.measured - 1 if self.measured else None


NAMES = {
    "server": "server, cores",
    "database": "PostgreSQL, cores",
    "redis": "Redis, cores",
    "memory_mib": "memory, MiB",
}


def lines(costs: Costs, base: Cost, run: Rehearsed, group: int) -> list[Line]:
    """What the model says of a run with these costs, beside what it took."""
    said = modelled(costs, base, run.work, run.processes, group)
    return [Line(name, getattr(run.load, field), getattr(said, field)) for field, name in NAMES.items()]
