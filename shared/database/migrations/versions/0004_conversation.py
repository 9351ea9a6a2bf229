"""conversation tables: entries, leaves, evidence, conversations and what binds to them."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import READER_ROLE, secure_tenant_table

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = (
    # One row per tenant: its identity policy and the counter that versions what is not an entry.
    """
    CREATE TABLE conversation.tenant_state (
        tenant_id text PRIMARY KEY,
        policy jsonb,
        policy_version integer NOT NULL DEFAULT 0,
        version bigint NOT NULL DEFAULT 0,
        position bigint NOT NULL DEFAULT 0
    )""",
    # A handle or a session. Entries point at leaves and never move; leaf → customer is flat.
    """
    CREATE TABLE conversation.leaf (
        tenant_id text NOT NULL,
        leaf_id uuid NOT NULL,
        seq bigint GENERATED ALWAYS AS IDENTITY,
        node text NOT NULL,
        shown text,
        verified boolean NOT NULL DEFAULT false,
        component_id uuid NOT NULL,
        customer_id uuid NOT NULL,
        was_customer boolean NOT NULL DEFAULT false,
        shared boolean NOT NULL DEFAULT false,
        linked_at timestamptz,
        last_entry_at timestamptz,
        first_seen_at timestamptz,
        last_seen_at timestamptz,
        name text,
        named_at timestamptz,
        attributes jsonb NOT NULL DEFAULT '{}',
        channels text[] NOT NULL DEFAULT '{}',
        PRIMARY KEY (tenant_id, leaf_id),
        UNIQUE (tenant_id, node)
    )""",
    "CREATE INDEX leaf_customer ON conversation.leaf (tenant_id, customer_id)",
    "CREATE INDEX leaf_component ON conversation.leaf (tenant_id, component_id)",
    # For each pair of nodes the earliest evidence, and the latest decision of an agent.
    """
    CREATE TABLE conversation.link (
        tenant_id text NOT NULL,
        a text NOT NULL,
        b text NOT NULL,
        occurred_at timestamptz NOT NULL,
        source text NOT NULL,
        event_id text NOT NULL,
        rule text NOT NULL,
        manual boolean NOT NULL,
        PRIMARY KEY (tenant_id, a, b, manual)
    )""",
    "CREATE INDEX link_b ON conversation.link (tenant_id, b)",
    # A weak handle (visitor) seen beside an owner: found by it, never linked by it.
    """
    CREATE TABLE conversation.sighting (
        tenant_id text NOT NULL,
        node text NOT NULL,
        leaf_id uuid NOT NULL,
        shown text NOT NULL,
        verified boolean NOT NULL,
        first_seen_at timestamptz NOT NULL,
        last_seen_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, node, leaf_id)
    )""",
    "CREATE INDEX sighting_leaf ON conversation.sighting (tenant_id, leaf_id)",
    """
    CREATE TABLE conversation.entry (
        tenant_id text NOT NULL,
        entry_id uuid NOT NULL,
        occurred_at timestamptz NOT NULL,
        received_at timestamptz NOT NULL,
        recorded_at timestamptz NOT NULL,
        leaf_id uuid NOT NULL,
        conversation_id uuid,
        cause_id uuid,
        version integer NOT NULL DEFAULT 1,
        automatic boolean NOT NULL,
        by_conversation boolean NOT NULL,
        source text NOT NULL,
        event_id text NOT NULL,
        type text NOT NULL,
        channel text,
        contact_id text,
        region text,
        rule text NOT NULL,
        stitch_key text,
        digest bytea NOT NULL,
        new_text text,
        quoted_text text,
        html text,
        data jsonb NOT NULL,
        PRIMARY KEY (tenant_id, entry_id)
    )""",
    "CREATE INDEX entry_leaf ON conversation.entry (tenant_id, leaf_id, occurred_at)",
    "CREATE INDEX entry_conversation ON conversation.entry (tenant_id, conversation_id, occurred_at)",
    # Calls open a conversation where they queued, once answered: asked by contact.
    """
    CREATE INDEX entry_call ON conversation.entry (tenant_id, contact_id)
    WHERE type IN ('threadline.call.queued', 'threadline.call.answered')""",
    # What a key means from an instant on; conversation_id null: named by an entry that was placed nowhere.
    """
    CREATE TABLE conversation.binding (
        tenant_id text NOT NULL,
        key text NOT NULL,
        occurred_at timestamptz NOT NULL,
        entry_id uuid NOT NULL,
        conversation_id uuid,
        source text NOT NULL,
        event_id text NOT NULL,
        PRIMARY KEY (tenant_id, key, occurred_at, entry_id)
    )""",
    "CREATE INDEX binding_entry ON conversation.binding (tenant_id, entry_id)",
    "CREATE INDEX binding_conversation ON conversation.binding (tenant_id, conversation_id)",
    """
    CREATE TABLE conversation.conversation (
        tenant_id text NOT NULL,
        conversation_id uuid NOT NULL,
        canonical_id uuid NOT NULL,
        merged_into uuid,
        merged_at timestamptz,
        merged_source text,
        merged_event_id text,
        opened_at timestamptz NOT NULL,
        opened_source text NOT NULL,
        opened_event_id text NOT NULL,
        owner_leaf_id uuid,
        last_entry_at timestamptz NOT NULL,
        last_activity_at timestamptz,
        resolved_at timestamptz,
        tickets text[] NOT NULL,
        follow_up_of uuid,
        last_channel text,
        escalation_posted_to text,
        channels text[] NOT NULL,
        assignee text,
        team text,
        topic text,
        waiting_since timestamptz,
        entries integer NOT NULL,
        PRIMARY KEY (tenant_id, conversation_id)
    )""",
    "CREATE INDEX conversation_canonical ON conversation.conversation (tenant_id, canonical_id)",
    "CREATE INDEX conversation_recent ON conversation.conversation (tenant_id, last_activity_at)",
    # Who has an entry in which conversation.
    """
    CREATE TABLE conversation.participation (
        tenant_id text NOT NULL,
        leaf_id uuid NOT NULL,
        conversation_id uuid NOT NULL,
        PRIMARY KEY (tenant_id, leaf_id, conversation_id)
    )""",
    "CREATE INDEX participation_conversation ON conversation.participation (tenant_id, conversation_id)",
    # What changed on timelines, numbered without gaps in commit order per tenant: streams resume from a position.
    """
    CREATE TABLE conversation.change (
        tenant_id text NOT NULL,
        position bigint NOT NULL,
        entry_id uuid NOT NULL,
        leaf_id uuid NOT NULL,
        conversation_id uuid,
        kind "char" NOT NULL,
        changed_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, position)
    )""",
    "CREATE INDEX change_age ON conversation.change (changed_at)",
    # Words of entries, written behind the stream of changes so that no event waits for it.
    """
    CREATE TABLE conversation.search (
        tenant_id text NOT NULL,
        entry_id uuid NOT NULL,
        document tsvector NOT NULL,
        PRIMARY KEY (tenant_id, entry_id)
    )""",
    "CREATE INDEX search_document ON conversation.search USING gin (document)",
    """
    CREATE TABLE conversation.searchable (
        tenant_id text PRIMARY KEY,
        position bigint NOT NULL DEFAULT 0
    )""",
    # Under row-level security the planner would not use the index for @@, so this runs as the owner and filters by
    # the tenant that the reader's transaction has set: nobody can ask for another's.
    """
    CREATE FUNCTION conversation.find_entries(
        wanted text, in_channels text[], of_types text[], from_at timestamptz, to_at timestamptz, of_customer uuid,
        of_conversation uuid, most integer, beyond integer)
    RETURNS TABLE (entry_id uuid, score real) LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
        SELECT s.entry_id, ts_rank_cd(s.document, websearch_to_tsquery('simple', wanted)) AS score
        FROM conversation.search s
        JOIN conversation.entry e ON e.tenant_id = s.tenant_id AND e.entry_id = s.entry_id
        JOIN conversation.leaf l ON l.tenant_id = e.tenant_id AND l.leaf_id = e.leaf_id
        LEFT JOIN conversation.conversation c
            ON c.tenant_id = e.tenant_id AND c.conversation_id = e.conversation_id
        WHERE s.tenant_id = nullif(current_setting('threadline.tenant', true), '')
            AND s.document @@ websearch_to_tsquery('simple', wanted)
            AND (in_channels IS NULL OR e.channel = ANY (in_channels))
            AND (of_types IS NULL OR e.type = ANY (of_types))
            AND (from_at IS NULL OR e.occurred_at >= from_at)
            AND (to_at IS NULL OR e.occurred_at < to_at)
            AND (of_customer IS NULL OR l.customer_id = of_customer)
            AND (of_conversation IS NULL OR c.canonical_id = of_conversation)
        ORDER BY score DESC, e.occurred_at DESC, s.entry_id LIMIT most OFFSET beyond
    $$""",
    # Other bytes under an id that was taken: the first stays, this is kept beside it.
    """
    CREATE TABLE conversation.conflict (
        tenant_id text NOT NULL,
        entry_id uuid NOT NULL,
        digest bytea NOT NULL,
        received_at timestamptz NOT NULL,
        occurred_at timestamptz NOT NULL,
        type text NOT NULL,
        data jsonb NOT NULL,
        PRIMARY KEY (tenant_id, entry_id, digest)
    )""",
)

SECURED = (
    "tenant_state",
    "leaf",
    "link",
    "sighting",
    "entry",
    "binding",
    "conversation",
    "participation",
    "conflict",
    "change",
    "search",
    "searchable",
)


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS conversation")
    for statement in TABLES:
        op.execute(statement)
    for table in SECURED:
        secure_tenant_table(f"conversation.{table}")
    find = "conversation.find_entries(text, text[], text[], timestamptz, timestamptz, uuid, uuid, integer, integer)"
    op.execute(f"REVOKE ALL ON FUNCTION {find} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {find} TO {READER_ROLE}")
