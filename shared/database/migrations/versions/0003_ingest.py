"""ingest tables: data too large for a record, what is accepted and not yet taken, channel accounts and their tokens."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import secure_tenant_table

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = (
    # Data of events above 256 KiB; the record in the log names it. Erasure finds it by source and event.
    """
    CREATE TABLE ingest.blob (
        tenant_id text NOT NULL,
        blob_id uuid NOT NULL,
        source text NOT NULL,
        event_id text NOT NULL,
        payload bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, blob_id)
    )""",
    "CREATE INDEX blob_event ON ingest.blob (tenant_id, source, event_id)",
    # Accepted more than a second ago and not yet taken from the log; empty while the consumer keeps up.
    """
    CREATE TABLE ingest.accepted (
        tenant_id text NOT NULL,
        digest bytea NOT NULL CHECK (length(digest) = 16),
        partition integer NOT NULL,
        "offset" bigint NOT NULL,
        PRIMARY KEY (tenant_id, digest)
    )""",
    'CREATE INDEX accepted_place ON ingest.accepted (partition, "offset")',
    # One channel account of a tenant at a provider. `sealed` holds its secrets and options, encrypted, since a
    # handshake's token is an option; `token` is the part of its URL that nobody can guess.
    """
    CREATE TABLE ingest.channel_account (
        tenant_id text NOT NULL,
        provider text NOT NULL,
        account text NOT NULL,
        token text NOT NULL UNIQUE,
        sealed bytea NOT NULL,
        public_url text,
        own_addresses text[] NOT NULL DEFAULT '{}',
        default_region text,
        created_at timestamptz NOT NULL DEFAULT now(),
        changed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, provider, account)
    )""",
    # Tokens that a provider may use once (Mailgun): remembered with the events that they came with.
    """
    CREATE TABLE ingest.replay_token (
        tenant_id text NOT NULL,
        provider text NOT NULL,
        account text NOT NULL,
        digest bytea NOT NULL CHECK (length(digest) = 32),
        expires_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, provider, account, digest)
    )""",
    "CREATE INDEX replay_token_expiry ON ingest.replay_token (expires_at)",
)


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS ingest")
    for statement in TABLES:
        op.execute(statement)
    for table in ("blob", "accepted", "channel_account", "replay_token"):
        secure_tenant_table(f"ingest.{table}")
    # Secrets, even sealed, and URL tokens are for the writer alone.
    op.execute("REVOKE SELECT ON ingest.channel_account, ingest.replay_token FROM threadline_reader")
