"""changes of the identity policy: who made them, when, and whom they regrouped; an index to a customer's surveys."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import secure_tenant_table

revision = "0018"
down_revision = "0014"
branch_labels = None
depends_on = None

# `settings` are names alone: what a policy says of handles is somebody's, and an erasure could not find it here.
TABLES = {
    "policy_change": """
    CREATE TABLE conversation.policy_change (
        tenant_id text NOT NULL,
        policy_version integer NOT NULL,
        changed_at timestamptz NOT NULL,
        actor text,
        settings text[] NOT NULL,
        PRIMARY KEY (tenant_id, policy_version)
    )""",
    # All leaves of the customers that a change took apart or put together, those included that stayed where they were.
    "policy_regrouping": """
    CREATE TABLE conversation.policy_regrouping (
        tenant_id text NOT NULL,
        leaf_id uuid NOT NULL,
        policy_version integer NOT NULL,
        was uuid NOT NULL,
        became uuid NOT NULL,
        PRIMARY KEY (tenant_id, leaf_id, policy_version)
    )""",
}
INDEXES = (
    "CREATE INDEX policy_regrouping_was ON conversation.policy_regrouping (tenant_id, policy_version, was)",
    "CREATE INDEX policy_regrouping_became ON conversation.policy_regrouping (tenant_id, policy_version, became)",
    "CREATE INDEX entry_survey ON conversation.entry (tenant_id, leaf_id, occurred_at) "
    "WHERE type = 'threadline.survey.answered'",
)


def upgrade() -> None:
    for table, statement in TABLES.items():
        op.execute(statement)
        secure_tenant_table(f"conversation.{table}")
    for statement in INDEXES:
        op.execute(statement)
