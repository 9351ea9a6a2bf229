"""lane: events whose decision is large are set aside, and decided beside the stream."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import secure_tenant_table

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

# `event` is the event whole; `key`, `partition` and `offset` are those of the record that carried it.
ASIDE = """
CREATE TABLE conversation.aside (
    tenant_id text NOT NULL,
    entry_id uuid NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    source text NOT NULL,
    event_id text NOT NULL,
    digest bytea NOT NULL,
    event bytea NOT NULL,
    key bytea,
    partition integer,
    "offset" bigint,
    set_aside_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, entry_id)
)
"""

# How many events are set aside: whoever locks the tenant hears it.
STATE = "ALTER TABLE conversation.tenant_state ADD COLUMN aside integer NOT NULL DEFAULT 0"


def upgrade() -> None:
    op.execute(ASIDE)
    op.execute(STATE)
    secure_tenant_table("conversation.aside")
