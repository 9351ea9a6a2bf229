"""copies of mails: other events with the Message-ID of one that is on a timeline."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import secure_tenant_table

revision = "0012"
down_revision = "0008"
branch_labels = None
depends_on = None

# `copy_id` is the id of the entry that the event would have become, `entry_id` the one that stands for it.
COPY = """
CREATE TABLE conversation.copy (
    tenant_id text NOT NULL,
    copy_id uuid NOT NULL,
    entry_id uuid NOT NULL,
    source text NOT NULL,
    event_id text NOT NULL,
    type text NOT NULL,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    region text,
    digest bytea NOT NULL,
    data jsonb NOT NULL,
    PRIMARY KEY (tenant_id, copy_id)
)
"""


def upgrade() -> None:
    op.execute(COPY)
    op.execute("CREATE INDEX copy_entry ON conversation.copy (tenant_id, entry_id)")
    secure_tenant_table("conversation.copy")
