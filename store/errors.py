"""What can go wrong in the store, sorted by who is at fault. Owns the classes, touches nothing.

The server maps them to wire codes in one place (`handlers.errors`).
"""


class StoreError(Exception):
    """Base of every error that the store raises on purpose."""


class Unavailable(StoreError):
    """A service is out of reach, too slow or too busy: nothing is known to have happened; try again.

    PostgreSQL, unless it is one of the classes below.
    """


class NoRoom(Unavailable):
    """PostgreSQL's disk is full: nothing was done."""


class Damaged(Unavailable):
    """PostgreSQL found damage in what it has stored. Perhaps only in what this was about: others may be served."""


class RedisUnavailable(Unavailable):
    """Redis is."""


class ObjectsUnavailable(Unavailable):
    """The store of files is out of reach."""


class ObjectsFull(ObjectsUnavailable):
    """The store of files has no room: nothing is kept of what was written."""


class Overloaded(StoreError):
    """More work is queued than will be done in time: this was refused before anything was done; try again."""


class Unfit(Unavailable):
    """A service that answers, but cannot be used as it is set up: an operator has to change it; see the text."""


class WrongSchema(Unfit):
    """The schema is not there, older than this code needs, or newer than it knows: somebody has to migrate it."""


class NoRights(Unfit):
    """The role that PostgreSQL has let in may not do what is needed: somebody has to grant it, or name another role."""


class RedisUnfit(RedisUnavailable, Unfit):
    """Redis answers, and refuses what we need of it."""
