"""What the files of a user take, from an index.

Revision ID: 0008
"""

from importlib import resources

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute(
        resources.files(__package__ or "store.postgres.migrations.versions")
        .joinpath("v0008_owned_files.sql")
        .read_text()
    )
