"""Alembic's entry point: runs the migrations on the connection that `store.migrate` hands over."""

from alembic import context

if context.is_offline_mode():
    context.configure(url="postgresql+psycopg://")
else:
    context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
