"""participations: until which week their conversation was active, so that looking for what is open skips a lifetime."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# The default is behind every week: what is not known is looked at.
COLUMN = "ALTER TABLE conversation.participation ADD COLUMN active_week integer NOT NULL DEFAULT 2147483647"

FILL = """
UPDATE conversation.participation p SET active_week = floor(extract(epoch FROM k.last_entry_at) / 604800)
FROM conversation.conversation c
JOIN conversation.conversation k ON k.tenant_id = c.tenant_id AND k.conversation_id = c.canonical_id
WHERE c.tenant_id = p.tenant_id AND c.conversation_id = p.conversation_id
"""

INDEX = "CREATE INDEX participation_active ON conversation.participation (tenant_id, leaf_id, active_week)"


def upgrade() -> None:
    for statement in (COLUMN, FILL, INDEX):
        op.execute(statement)
