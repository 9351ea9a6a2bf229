"""conversation: how far long conversations had come, so that a late event has them told again from there on."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import secure_tenant_table

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

# Those that are there get theirs when next they are told from their beginning.
CHECKPOINT = """
CREATE TABLE conversation.checkpoint (
    LIKE conversation.conversation,
    at timestamptz NOT NULL,
    participants uuid[] NOT NULL,
    PRIMARY KEY (tenant_id, conversation_id, at)
)
"""


def upgrade() -> None:
    op.execute(CHECKPOINT)
    secure_tenant_table("conversation.checkpoint")
