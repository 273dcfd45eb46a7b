"""When each member joined, in the conversation's own order.

Revision ID: 0006
"""

from importlib import resources

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute(
        resources.files(__package__ or "store.postgres.migrations.versions").joinpath("v0006_joined.sql").read_text()
    )
