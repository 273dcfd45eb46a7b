"""This instance among the others: membership, subscriptions, inboxes, and clearing up after dead instances."""
