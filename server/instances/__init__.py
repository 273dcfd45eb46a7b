"""This instance among the others: its registration in Redis, its inbox, and what it sends to theirs."""
