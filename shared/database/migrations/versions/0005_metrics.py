"""metrics tables: the newest version of what KPIs are made of, and their contributions."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import secure_tenant_table

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = (
    # One row per tenant. `token` names the batch that wrote last: what a process remembers holds while it is its own.
    """
    CREATE TABLE metrics.tenant (
        tenant_id text PRIMARY KEY,
        token uuid,
        latest_at timestamptz,
        recorded_at timestamptz,
        late bigint NOT NULL DEFAULT 0,
        reevaluate_after bigint
    )""",
    # The newest version of each entry in compact form (services/metrics/entries.py); `body` is null once it is gone.
    """
    CREATE TABLE metrics.entry (
        tenant_id text NOT NULL,
        entry_id uuid NOT NULL,
        version bigint NOT NULL,
        leaf_id uuid,
        conversation_id uuid,
        part_of text COLLATE "C",
        body bytea,
        PRIMARY KEY (tenant_id, entry_id)
    )""",
    "CREATE INDEX entry_conversation ON metrics.entry (tenant_id, conversation_id) WHERE conversation_id IS NOT NULL",
    "CREATE INDEX entry_leaf ON metrics.entry (tenant_id, leaf_id) WHERE leaf_id IS NOT NULL",
    "CREATE INDEX entry_part_of ON metrics.entry (tenant_id, part_of) WHERE part_of IS NOT NULL",
    """
    CREATE TABLE metrics.leaf (
        tenant_id text NOT NULL,
        leaf_id uuid NOT NULL,
        version bigint NOT NULL,
        customer_id uuid NOT NULL,
        PRIMARY KEY (tenant_id, leaf_id)
    )""",
    "CREATE INDEX leaf_customer ON metrics.leaf (tenant_id, customer_id)",
    """
    CREATE TABLE metrics.conversation (
        tenant_id text NOT NULL,
        conversation_id uuid NOT NULL,
        version bigint NOT NULL,
        canonical_id uuid NOT NULL,
        PRIMARY KEY (tenant_id, conversation_id)
    )""",
    "CREATE INDEX conversation_canonical ON metrics.conversation (tenant_id, canonical_id)",
    # Names written once: contributions carry numbers.
    """
    CREATE TABLE metrics.entity (
        tenant_id text NOT NULL,
        entity_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        kind text NOT NULL,
        key text COLLATE "C" NOT NULL,
        UNIQUE (tenant_id, kind, key)
    )""",
    """
    CREATE TABLE metrics.series (
        tenant_id text NOT NULL,
        series_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text COLLATE "C" NOT NULL,
        UNIQUE (tenant_id, name)
    )""",
    """
    CREATE TABLE metrics.dims (
        tenant_id text NOT NULL,
        dims_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        channel text,
        family text,
        team text,
        agent text,
        segment text,
        language text,
        UNIQUE NULLS NOT DISTINCT (tenant_id, channel, team, agent, segment, language)
    )""",
    # Every change of every contribution, `new − old`, as it was made. Its sums are the KPIs; summed by entity they are
    # the receipts and what the next change is taken from; up to a recorded_at, the KPIs as they stood.
    """
    CREATE TABLE metrics.contribution (
        tenant_id text NOT NULL,
        series_id integer NOT NULL,
        at bigint NOT NULL,
        dims_id integer NOT NULL,
        entity_id bigint NOT NULL,
        n bigint NOT NULL,
        total bigint NOT NULL,
        recorded_at bigint NOT NULL,
        bucket smallint NOT NULL,
        due boolean NOT NULL,
        member text COLLATE "C" NOT NULL
    )""",
    "CREATE INDEX contribution_series ON metrics.contribution (tenant_id, series_id, at)",
    "CREATE INDEX contribution_entity ON metrics.contribution (tenant_id, entity_id)",
    "CREATE INDEX contribution_due ON metrics.contribution (tenant_id, series_id, at) WHERE due",
    # The same sums by hour and channel, without what only counts once it is due: what most questions read. It is kept
    # in the transaction that appends contributions, and `threadline verify` holds it to their sum.
    """
    CREATE TABLE metrics.rollup (
        tenant_id text NOT NULL,
        series_id integer NOT NULL,
        hour integer NOT NULL,
        channel text COLLATE "C" NOT NULL,
        bucket smallint NOT NULL,
        n bigint NOT NULL,
        total numeric NOT NULL,
        PRIMARY KEY (tenant_id, series_id, hour, channel, bucket)
    ) WITH (fillfactor = 80)""",
    # Facts in the order they arrived: never corrected, because a Prometheus counter may not fall.
    """
    CREATE TABLE metrics.arrival (
        tenant_id text NOT NULL,
        kpi text COLLATE "C" NOT NULL,
        channel text COLLATE "C" NOT NULL,
        bucket smallint NOT NULL,
        n bigint NOT NULL,
        total numeric NOT NULL,
        PRIMARY KEY (tenant_id, kpi, channel, bucket)
    )""",
    """
    CREATE TABLE metrics.correction (
        tenant_id text NOT NULL,
        kpi text COLLATE "C" NOT NULL,
        reason text COLLATE "C" NOT NULL,
        n bigint NOT NULL,
        PRIMARY KEY (tenant_id, kpi, reason)
    )""",
    # Opening hours and service level agreements, by version; a version replaces one with the same start.
    """
    CREATE TABLE metrics.schedule (
        tenant_id text NOT NULL,
        valid_from timestamptz NOT NULL,
        body jsonb NOT NULL,
        set_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, valid_from)
    )""",
    """
    CREATE TABLE metrics.sla (
        tenant_id text NOT NULL,
        valid_from timestamptz NOT NULL,
        body jsonb NOT NULL,
        set_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, valid_from)
    )""",
    # What the last drift checks found: one row per checked entity that was wrong is kept until it is right again.
    """
    CREATE TABLE metrics.drift (
        tenant_id text PRIMARY KEY,
        checked_at timestamptz NOT NULL,
        entities_checked bigint NOT NULL,
        entities_wrong bigint NOT NULL,
        detail jsonb NOT NULL
    )""",
)

TENANT_TABLES = (
    "tenant", "entry", "leaf", "conversation", "entity", "series", "dims", "contribution", "rollup", "arrival",
    "correction", "schedule", "sla", "drift",
)  # fmt: skip


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS metrics")
    for table in TABLES:
        op.execute(table)
    op.execute("GRANT USAGE ON SCHEMA metrics TO threadline_reader")
    for name in TENANT_TABLES:
        secure_tenant_table(f"metrics.{name}")
