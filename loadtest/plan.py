"""Messages between the coordinator and its workers: one JSON object a line, over the worker's standard streams.

Owns these messages. A worker gets its plan first, then orders; it answers with reports.
"""

from typing import Any

import msgspec

from loadtest import results


class Person(msgspec.Struct, frozen=True):
    """A user of the system under test. `number` is their number among all users of the run."""

    number: int
    id: str
    token: str


class Conversation(msgspec.Struct, frozen=True):
    """`members` are people's numbers, the owner first. `head` is where those begin who attach for the first time: what
    is up to it was before the run."""

    id: str
    members: tuple[int, ...]
    head: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker needs. `people` are its own; `conversations` those in which one of them is."""

    run: str
    scenario: str
    parameters: dict[str, Any]
    seed: int
    url: str
    client: str
    worker: int
    workers: int
    part: int  # its number among all workers of all shards
    parts: int
    actors: tuple[int, ...]  # those who act, of all workers of this shard
    people: tuple[Person, ...]
    conversations: tuple[Conversation, ...]
    ids: tuple[str, ...]  # of everybody, by number
    admin: str = ""  # a token of an administrator of the service, where the signing key is known
    record: str = ""  # the directory of the record for the history checker; none without


# -- orders ---------------------------------------------------------------------------------------


class _Order(msgspec.Struct, frozen=True, tag=True):
    pass


class Connect(_Order, frozen=True):
    """Everybody whom the scenario wants online at the start."""


class Begin(_Order, frozen=True):
    """The run starts at this time of the machine's monotonic clock."""

    at: float


class Play(_Order, frozen=True):
    """Do this worker's share of the phase."""

    phase: results.Phase


class Cut(_Order, frozen=True):
    """Cut this part of the connections now."""

    part: float


class Stop(_Order, frozen=True):
    """End the load now, before its time. Phases under way are not answered any more."""


class Settle(_Order, frozen=True):
    """Nothing more is due: wait until everything under way has ended."""

    patience: float


class Audit(_Order, frozen=True):
    """Compare what was seen with what is stored, then report and end."""

    patience: float


Order = Connect | Begin | Play | Cut | Stop | Settle | Audit


# -- reports --------------------------------------------------------------------------------------


class _Report(msgspec.Struct, frozen=True, tag=True):
    pass


class Connected(_Report, frozen=True):
    """How many are online, of how many that should be."""

    online: int
    wanted: int


class Beat(_Report, frozen=True):
    """One second of the run."""

    sample: results.Sample
    breaches: int


class Played(_Report, frozen=True):
    """A phase has ended, and what was due in it has too, or has had a second more. Histograms by operation."""

    phase: str
    histograms: dict[str, str]
    under_way: int


class Stopped(_Report, frozen=True):
    pass


class Settled(_Report, frozen=True):
    under_way: int  # calls that were not answered


class Ended(_Report, frozen=True):
    part: results.Result


Report = Connected | Beat | Played | Stopped | Settled | Ended
