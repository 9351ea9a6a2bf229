"""renewals: under which policy a leaf and a link were last decided, so that a change can be carried out in slices."""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

STATEMENTS = (
    # The version of the latest policy that may decide otherwise what was there, and of the latest carried out for all.
    "ALTER TABLE conversation.tenant_state ADD COLUMN renewal integer NOT NULL DEFAULT 0, "
    "ADD COLUMN renewed integer NOT NULL DEFAULT 0",
    "ALTER TABLE conversation.leaf ADD COLUMN renewal integer NOT NULL DEFAULT 0",
    "ALTER TABLE conversation.link ADD COLUMN renewal integer NOT NULL DEFAULT 0",
    # By component, so that a slice takes people whole.
    "CREATE INDEX leaf_renewal ON conversation.leaf (tenant_id, renewal, component_id)",
    # Who names a mail that went to several customers is kept from now on, as far as it is known also of before.
    """
    INSERT INTO conversation.binding (tenant_id, key, occurred_at, entry_id, conversation_id, source, event_id)
    SELECT DISTINCT tenant_id, 'bulk:' || left(key, -37), occurred_at, entry_id, NULL::uuid, source, event_id
    FROM conversation.binding WHERE key LIKE 'mail:%|%' ON CONFLICT DO NOTHING
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
