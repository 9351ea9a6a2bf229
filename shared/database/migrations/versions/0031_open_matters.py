"""lists: the index of open conversations without those in which only machines wrote; newsletters are many."""

from __future__ import annotations

from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

STATEMENTS = (
    "DROP INDEX conversation.conversation_open",
    """
    CREATE INDEX conversation_open ON conversation.conversation (tenant_id, last_entry_at, conversation_id)
    WHERE canonical_id = conversation_id AND resolved_at IS NULL AND last_activity_at IS NOT NULL""",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
