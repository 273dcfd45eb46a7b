"""Several instances: whose connections a batch ends.

Revision ID: 0002
"""

from importlib import resources

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(
        resources.files(__package__ or "store.postgres.migrations.versions").joinpath("v0002_instances.sql").read_text()
    )
