"""Two instances and the services on hosts of their own, and links that break: P1 to P7 (docs/design.md 2)."""
