"""What every migration that makes a tenant table needs."""

from __future__ import annotations

from alembic import op

READER_ROLE = "threadline_reader"
"""The role the APIs read under: row-level security applies to it, not to the writer that owns the tables."""


def secure_tenant_table(table: str) -> None:
    """Put `table` (with its schema, its first column tenant_id) under row-level security and let the reader read it.

    Without a tenant set for the transaction the reader sees no row.
    """
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY tenant ON {table} TO {READER_ROLE} "
        "USING (tenant_id = nullif(current_setting('threadline.tenant', true), ''))"
    )
    op.execute(f"GRANT SELECT ON {table} TO {READER_ROLE}")
