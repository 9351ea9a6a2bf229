"""keys of the log: one for each leaf, under which what the timeline topic says of it is sealed."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import secure_tenant_table

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # `sealed` is the key, encrypted under the installation's. Whoever is erased loses their rows here.
    op.execute(
        """
        CREATE TABLE privacy.log_key (
            tenant_id text NOT NULL,
            leaf_id uuid NOT NULL,
            sealed bytea NOT NULL,
            PRIMARY KEY (tenant_id, leaf_id)
        )"""
    )
    secure_tenant_table("privacy.log_key")
    # Keys, even sealed, are for the writer alone.
    op.execute("REVOKE SELECT ON privacy.log_key FROM threadline_reader")
