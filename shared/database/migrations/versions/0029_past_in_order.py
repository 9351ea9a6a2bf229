"""what was known once: entries that moved, in the order of a timeline, so that a page of the past reads a page."""

from __future__ import annotations

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

INDEXES = (
    "CREATE INDEX past_entry_of_leaf ON conversation.past_entry (tenant_id, leaf_id, occurred_at)",
    "CREATE INDEX past_entry_of_conversation ON conversation.past_entry (tenant_id, conversation_id, occurred_at)",
    "DROP INDEX conversation.past_entry_leaf",
    "DROP INDEX conversation.past_entry_conversation",
)


def upgrade() -> None:
    for statement in INDEXES:
        op.execute(statement)
