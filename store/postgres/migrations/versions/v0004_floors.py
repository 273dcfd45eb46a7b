"""How far back the history of a conversation goes.

Revision ID: 0004
"""

from importlib import resources

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute(
        resources.files(__package__ or "store.postgres.migrations.versions").joinpath("v0004_floors.sql").read_text()
    )
