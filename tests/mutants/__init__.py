"""Faults that the tests have to catch. Data in `faults.toml`; `python -m tests.mutants` plants them one by one."""
