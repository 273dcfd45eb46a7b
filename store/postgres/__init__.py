"""PostgreSQL: the driver on Trio, the pool, group commit, the schema, and every statement."""
