"""Embedded services of `parley dev`: a real PostgreSQL and a real Valkey without any set-up of the system."""
