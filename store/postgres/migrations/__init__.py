"""The schema's history, run by `store.postgres.migrate`. Owns the tables; one SQL file per revision.

Expand, then contract: old and new servers run side by side during a deploy, so a revision only adds
what the old code can ignore, and a later one removes what no running code uses.
"""
