"""ingest tables."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS ingest")


def downgrade() -> None:
    raise NotImplementedError("Threadline migrates forward only; restore a backup to go back")
