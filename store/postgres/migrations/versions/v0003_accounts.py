"""Sign-in sessions, pictures, and requests that may come twice.

Revision ID: 0003
"""

from importlib import resources

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(
        resources.files(__package__ or "store.postgres.migrations.versions").joinpath("v0003_accounts.sql").read_text()
    )
