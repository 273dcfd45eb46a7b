"""Webhooks: applications are sent what happens (docs/webhooks.md)."""
