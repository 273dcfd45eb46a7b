"""Deliver committed changes, and ephemeral events, to the connections that should receive them."""
