"""What stands for the functions of `store.postgres` over the tables in memory: a module for each of its nouns."""

from tests.handlers.fakes import (
    accounts,
    blocks,
    conversations,
    files,
    groups,
    idempotency,
    messages,
    moderation,
    reactions,
    reports,
    threads,
    users,
    webhooks,
)

__all__ = [
    "accounts",
    "blocks",
    "conversations",
    "files",
    "groups",
    "idempotency",
    "messages",
    "moderation",
    "reactions",
    "reports",
    "threads",
    "users",
    "webhooks",
]
