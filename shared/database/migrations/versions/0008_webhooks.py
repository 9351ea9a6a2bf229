"""webhook tables: endpoints outside, what is told to them, and how far that has come."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import secure_tenant_table

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLES = (
    # `sealed` holds the secrets, encrypted. `failures` counts attempts in a row that failed, of whatever customers.
    """
    CREATE TABLE conversation.webhook_endpoint (
        tenant_id text NOT NULL,
        endpoint_id uuid NOT NULL DEFAULT gen_random_uuid(),
        name text NOT NULL,
        url text NOT NULL,
        event_types text[],
        channels text[],
        sources text[],
        max_age_s integer,
        sealed bytea NOT NULL,
        enabled boolean NOT NULL,
        disabled_reason text,
        failures integer NOT NULL DEFAULT 0,
        paused_until timestamptz,
        last_error text,
        created_at timestamptz NOT NULL DEFAULT now(),
        changed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, endpoint_id),
        UNIQUE (tenant_id, name)
    )""",
    # What is told, once for all endpoints that want it. `body` is about a person: erasure deletes by entry_id, and with
    # the event go its deliveries and their attempts.
    """
    CREATE TABLE conversation.webhook_event (
        tenant_id text NOT NULL,
        webhook_id text NOT NULL,
        leaf_id uuid NOT NULL,
        entry_id uuid NOT NULL,
        type text NOT NULL,
        body bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, webhook_id)
    )""",
    "CREATE INDEX webhook_event_leaf ON conversation.webhook_event (tenant_id, leaf_id)",
    "CREATE INDEX webhook_event_entry ON conversation.webhook_event (tenant_id, entry_id)",
    "CREATE INDEX webhook_event_age ON conversation.webhook_event (created_at)",
    # One event for one endpoint. state: p(ending), d(elivered), x (dead letter). `seq` is the order in which one
    # customer's are sent; `leased_until` is set while a process has it in hand.
    """
    CREATE TABLE conversation.webhook_delivery (
        tenant_id text NOT NULL,
        endpoint_id uuid NOT NULL,
        webhook_id text NOT NULL,
        seq bigint GENERATED ALWAYS AS IDENTITY,
        customer_id uuid NOT NULL,
        state "char" NOT NULL DEFAULT 'p',
        attempts integer NOT NULL DEFAULT 0,
        leased_until timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        settled_at timestamptz,
        last_status integer,
        last_error text,
        PRIMARY KEY (tenant_id, endpoint_id, webhook_id),
        FOREIGN KEY (tenant_id, endpoint_id) REFERENCES conversation.webhook_endpoint ON DELETE CASCADE,
        FOREIGN KEY (tenant_id, webhook_id) REFERENCES conversation.webhook_event ON DELETE CASCADE
    )""",
    """
    CREATE INDEX webhook_delivery_next ON conversation.webhook_delivery (tenant_id, endpoint_id, customer_id, seq)
    WHERE state = 'p'""",
    "CREATE INDEX webhook_delivery_event ON conversation.webhook_delivery (tenant_id, webhook_id)",
    "CREATE INDEX webhook_delivery_list ON conversation.webhook_delivery (tenant_id, endpoint_id, state, seq)",
    # The pending deliveries of one customer at one endpoint: a lane, of which only the first is ever sent.
    """
    CREATE TABLE conversation.webhook_lane (
        tenant_id text NOT NULL,
        endpoint_id uuid NOT NULL,
        customer_id uuid NOT NULL,
        due_at timestamptz NOT NULL,
        lease uuid,
        leased_until timestamptz,
        PRIMARY KEY (tenant_id, endpoint_id, customer_id),
        FOREIGN KEY (tenant_id, endpoint_id) REFERENCES conversation.webhook_endpoint ON DELETE CASCADE
    )""",
    "CREATE INDEX webhook_lane_due ON conversation.webhook_lane (tenant_id, endpoint_id, due_at)",
    # `excerpt` is what the receiver answered, which may quote what it was told.
    """
    CREATE TABLE conversation.webhook_attempt (
        tenant_id text NOT NULL,
        endpoint_id uuid NOT NULL,
        webhook_id text NOT NULL,
        seq bigint GENERATED ALWAYS AS IDENTITY,
        at timestamptz NOT NULL DEFAULT now(),
        status integer,
        error text,
        duration_ms integer NOT NULL,
        excerpt text NOT NULL,
        PRIMARY KEY (tenant_id, endpoint_id, webhook_id, seq),
        FOREIGN KEY (tenant_id, endpoint_id, webhook_id) REFERENCES conversation.webhook_delivery ON DELETE CASCADE
    )""",
)

SECURED = ("webhook_endpoint", "webhook_event", "webhook_delivery", "webhook_lane", "webhook_attempt")


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
    for table in SECURED:
        secure_tenant_table(f"conversation.{table}")
    # Secrets, even sealed, are for the writer alone.
    op.execute("REVOKE SELECT ON conversation.webhook_endpoint FROM threadline_reader")
