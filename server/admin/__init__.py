"""The admin interface of an instance: its listener, and the snapshots and actions for operators."""
