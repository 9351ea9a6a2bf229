"""ingest: the bytes of files that came with events, which were thrown away."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import secure_tenant_table

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

# An event's data names each by its URL. Erasure finds them by source and event, as it does ingest.blob.
TABLE = """
CREATE TABLE ingest.attachment (
    tenant_id text NOT NULL,
    attachment_id uuid NOT NULL,
    source text NOT NULL,
    event_id text NOT NULL,
    name text,
    media_type text,
    content bytea NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, attachment_id)
)"""
INDEX = "CREATE INDEX attachment_event ON ingest.attachment (tenant_id, source, event_id)"

# Nothing of a person is to stay in the planner's statistics when the row is gone, and no plan needs it.
STATISTICS = """
ALTER TABLE ingest.attachment ALTER COLUMN content SET STATISTICS 0, ALTER COLUMN name SET STATISTICS 0
"""


def upgrade() -> None:
    for statement in (TABLE, INDEX, STATISTICS):
        op.execute(statement)
    secure_tenant_table("ingest.attachment")
