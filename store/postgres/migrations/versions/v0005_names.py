"""Names as they are compared: folded by our own code.

Revision ID: 0005
"""

from importlib import resources

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute(
        resources.files(__package__ or "store.postgres.migrations.versions").joinpath("v0005_names.sql").read_text()
    )
