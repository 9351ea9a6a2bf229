"""touched: what changes of a tenant had to do with while something of it was set aside."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import secure_tenant_table

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

# By the version of the change: 64 bits for each name (services/conversation/touched.py), null where it may be anything.
TOUCHED = """
CREATE TABLE conversation.touched (
    tenant_id text NOT NULL,
    version bigint NOT NULL,
    names bytea,
    PRIMARY KEY (tenant_id, version)
)
"""

# The version from which on all changes are kept there.
STATE = "ALTER TABLE conversation.tenant_state ADD COLUMN touched_since bigint NOT NULL DEFAULT 0"


def upgrade() -> None:
    op.execute(TOUCHED)
    op.execute(STATE)
    secure_tenant_table("conversation.touched")
