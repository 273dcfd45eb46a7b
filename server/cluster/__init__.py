"""This instance among the others: membership, subscriptions, inboxes, and what the dead leave behind."""
