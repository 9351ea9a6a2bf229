"""What every migration that makes a tenant table needs."""

from __future__ import annotations

from alembic import op

READER_ROLE = "threadline_reader"
"""The role the APIs read under: row-level security applies to it, not to the writer that owns the tables."""


def create_schema(name: str) -> None:
    """Make the schema `name` where it is missing and let the reader use it (its tables are granted one by one)."""
    op.execute(f"CREATE SCHEMA IF NOT EXISTS {name}")
    op.execute(f"GRANT USAGE ON SCHEMA {name} TO {READER_ROLE}")


def create_reader_role() -> None:
    """Make the reader role where it is missing, and let the migrating user, the writer, take it on.

    Roles belong to the whole server, so another database of it may have made the role already, even just now.
    """
    op.execute(
        f"""
        DO $$
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{READER_ROLE}') THEN
                CREATE ROLE {READER_ROLE} NOLOGIN;
            END IF;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
        END $$
        """
    )
    op.execute(
        f"""
        DO $$
        BEGIN
            IF NOT pg_has_role(current_user, '{READER_ROLE}', 'MEMBER') THEN
                GRANT {READER_ROLE} TO CURRENT_USER;
            END IF;
        END $$
        """
    )


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
