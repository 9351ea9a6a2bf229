"""conversation tables."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS conversation")


def downgrade() -> None:
    raise NotImplementedError("Threadline migrates forward only; restore a backup to go back")
