"""Alembic's entry point: runs the migrations on the connection that `store.postgres.migrate` hands over."""

from alembic import context

if context.is_offline_mode():
    # "named": any other style would double every % of the SQL it prints.
    context.configure(url="postgresql+psycopg://", dialect_opts={"paramstyle": "named"})
else:
    context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
