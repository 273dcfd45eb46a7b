"""Several real instances on real services, with load, while things break: the promises P1 to P7 (design.md 2, 7)."""
