"""The reader role, the schemas, and who may do what: tenants, keys, sessions."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import create_reader_role, create_schema, secure_tenant_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_reader_role()
    for schema in ("auth", "log", "ingest", "conversation", "metrics"):
        create_schema(schema)

    # A tenant begins to exist with its first key.
    op.execute(
        """
        CREATE TABLE auth.tenant (
            tenant_id text PRIMARY KEY CHECK (tenant_id <> '' AND length(tenant_id) <= 100),
            created_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    # Only SHA-256 of a key is kept: a key has 256 random bits, so there is nothing to guess and nothing to salt.
    op.execute(
        """
        CREATE TABLE auth.api_key (
            tenant_id text NOT NULL REFERENCES auth.tenant,
            key_id uuid NOT NULL DEFAULT gen_random_uuid(),
            key_hash bytea NOT NULL UNIQUE CHECK (length(key_hash) = 32),
            scopes text[] NOT NULL CHECK (cardinality(scopes) > 0),
            label text,
            created_at timestamptz NOT NULL DEFAULT now(),
            expires_at timestamptz,
            revoked_at timestamptz,
            PRIMARY KEY (tenant_id, key_id)
        )
        """
    )
    # A page's cookie: it lives no longer than the key that made it.
    op.execute(
        """
        CREATE TABLE auth.session (
            tenant_id text NOT NULL,
            key_id uuid NOT NULL,
            session_hash bytea NOT NULL PRIMARY KEY CHECK (length(session_hash) = 32),
            created_at timestamptz NOT NULL DEFAULT now(),
            expires_at timestamptz NOT NULL,
            FOREIGN KEY (tenant_id, key_id) REFERENCES auth.api_key ON DELETE CASCADE
        )
        """
    )
    op.execute("CREATE INDEX session_expiry ON auth.session (expires_at)")
    for table in ("auth.tenant", "auth.api_key", "auth.session"):
        secure_tenant_table(table)
    # Hashes are nobody's business but the authenticator's, which is the writer.
    op.execute("REVOKE SELECT ON auth.api_key, auth.session FROM threadline_reader")
