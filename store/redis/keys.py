"""The names of everything Parley keeps in Redis (docs/design.md 6). Owns the names, touches nothing.

No command ever takes keys of two slots, so none carries a hash tag.
"""

from uuid import UUID

INSTANCES = "parley:instances"  # zset of instance ids by the time of their last heartbeat
MOVED = "parley:moved"  # zset of the users whose presence was announced last, by when
INTEREST = "parley:interest:"  # what the names of all `interest` begin with
TIMELINES = "parley:timelines"  # zset of PostgreSQL systems and databases by the highest timeline that was seen
RECEIPTS_GROUP = "cursors"  # the consumer group of every receipts stream


def inbox(instance: str) -> str:
    """Stream: the changes that this instance has to deliver."""
    return f"parley:inbox:{instance}"


def interest(conversation_id: UUID) -> str:
    """Set: the instances with members of this conversation online."""
    return f"{INTEREST}{conversation_id}"


def rooms(instance: str) -> str:
    """Set: the conversations this instance is registered for, read by the instance that reaps it."""
    return f"parley:rooms:{instance}"


def users(instance: str) -> str:
    """Set: the users with sockets on this instance, for the same."""
    return f"parley:users:{instance}"


def sessions(user_id: UUID) -> str:
    """Set: the instances on which this user has sockets."""
    return f"parley:sessions:{user_id}"


def lease(instance: str) -> str:
    """String with a time to live: the instance is alive while it is there."""
    return f"parley:lease:{instance}"


def left(process: str) -> str:
    """String with a time to live: this process has said that it leaves, so it is no death."""
    return f"parley:left:{process}"


def killed(user_id: UUID) -> str:
    """String with a time to live: an operator has ended this user's connections."""
    return f"parley:killed:{user_id}"


def receipts(shard: int) -> str:
    """Stream: cursors on their way to PostgreSQL."""
    return f"parley:receipts:{shard}"


def limit(key: str) -> str:
    """String with a time to live: when this token bucket will be full again, and until when it is promised."""
    return f"parley:bucket:{key}"


def reaping(dead: str) -> str:
    """Claim: another instance reaps this dead one. The word in the key is one that instances of all versions share."""
    return claim("burial", dead)


def claim(purpose: str, token: str) -> str:
    """String with a time to live: this token was used for this purpose."""
    return f"parley:claim:{purpose}:{token}"


def owner(connection_id: str) -> str:
    """String with a time to live: the address of the instance that holds this connection of several requests."""
    return f"parley:owner:{connection_id}"
