"""keys of single records, under which the inbound and the quarantine topic are sealed on Kafka."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import secure_tenant_table

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # `sealed` is the key, encrypted under the installation's; empty once it is destroyed.
    op.execute(
        """
        CREATE TABLE privacy.record_key (
            tenant_id text NOT NULL,
            about uuid NOT NULL,
            key_id uuid NOT NULL,
            sealed bytea NOT NULL,
            made_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, about, key_id)
        )"""
    )
    secure_tenant_table("privacy.record_key")
    op.execute("REVOKE SELECT ON privacy.record_key FROM threadline_reader")
    op.execute("CREATE INDEX record_key_made_at ON privacy.record_key USING brin (made_at)")
    # Until when a topic that cannot be rewritten was told things in the plain.
    op.execute("CREATE TABLE log.plain (topic text PRIMARY KEY, plain_at timestamptz NOT NULL)")
    op.execute("ALTER TABLE log.plain ENABLE ROW LEVEL SECURITY")
    # Where there is a log already it was, until now; so was whatever goes to a topic that nobody reads.
    op.execute(
        """
        INSERT INTO log.plain
        SELECT DISTINCT regexp_replace(o.topic, '(inbound|timeline|quarantine)[.]v1$', '') || t.topic, now()
        FROM log."offset" AS o CROSS JOIN unnest(ARRAY['inbound.v1', 'timeline.v1', 'quarantine.v1']) AS t (topic)
        WHERE o.topic LIKE 'kafka:%'"""
    )
