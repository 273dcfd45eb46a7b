"""The order of a list of conversations, by the database's own count.

Revision ID: 0007
"""

from importlib import resources

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute(
        resources.files(__package__ or "store.postgres.migrations.versions").joinpath("v0007_places.sql").read_text()
    )
