"""what was known once: where entries, leaves and conversations stood before they moved."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import secure_tenant_table

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# Each row held until the instant `until`, when the thing moved or ceased to be. What an entry says never changes, so it
# stands here only where the entry itself is no more.
TABLES = {
    "past_leaf": """
    CREATE TABLE conversation.past_leaf (
        tenant_id text NOT NULL,
        leaf_id uuid NOT NULL,
        until timestamptz NOT NULL,
        customer_id uuid NOT NULL,
        PRIMARY KEY (tenant_id, leaf_id, until)
    )""",
    "past_conversation": """
    CREATE TABLE conversation.past_conversation (
        tenant_id text NOT NULL,
        conversation_id uuid NOT NULL,
        until timestamptz NOT NULL,
        canonical_id uuid NOT NULL,
        joined_whole boolean NOT NULL,
        PRIMARY KEY (tenant_id, conversation_id, until)
    )""",
    "past_entry": """
    CREATE TABLE conversation.past_entry (
        LIKE conversation.entry,
        until timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, entry_id, until)
    )""",
}
SAYS = ("new_text", "quoted_text", "html", "data")
INDEXES = (
    "CREATE INDEX past_leaf_customer ON conversation.past_leaf (tenant_id, customer_id)",
    "CREATE INDEX past_conversation_canonical ON conversation.past_conversation (tenant_id, canonical_id)",
    "CREATE INDEX past_entry_leaf ON conversation.past_entry (tenant_id, leaf_id)",
    "CREATE INDEX past_entry_conversation ON conversation.past_entry (tenant_id, conversation_id)",
)


def upgrade() -> None:
    for table, statement in TABLES.items():
        op.execute(statement)
        secure_tenant_table(f"conversation.{table}")
    for column in SAYS:
        op.execute(f"ALTER TABLE conversation.past_entry ALTER COLUMN {column} DROP NOT NULL")
    for statement in INDEXES:
        op.execute(statement)
