"""Several real instances on real services, with load, while things break: P1 to P7 (docs/design.md 2 and 7)."""
