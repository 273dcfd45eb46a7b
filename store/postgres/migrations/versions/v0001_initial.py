"""The first schema.

Revision ID: 0001
"""

from importlib import resources

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        resources.files(__package__ or "store.postgres.migrations.versions").joinpath("v0001_initial.sql").read_text()
    )
