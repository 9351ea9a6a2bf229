"""base tables."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS base")


def downgrade() -> None:
    raise NotImplementedError("Threadline migrates forward only; restore a backup to go back")
