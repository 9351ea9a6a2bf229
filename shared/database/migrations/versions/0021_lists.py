"""lists: indexes in the order of lists of conversations and customers, and customers found by part of a name."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import READER_ROLE

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# Nothing asks for conversations by their last activity over a tenant.
CONVERSATIONS = (
    "DROP INDEX conversation.conversation_recent",
    """
    CREATE INDEX conversation_latest ON conversation.conversation (tenant_id, last_entry_at, conversation_id)
    WHERE canonical_id = conversation_id""",
    """
    CREATE INDEX conversation_open ON conversation.conversation (tenant_id, last_entry_at, conversation_id)
    WHERE canonical_id = conversation_id AND resolved_at IS NULL""",
    """
    CREATE INDEX conversation_assignee
    ON conversation.conversation (tenant_id, assignee, last_entry_at, conversation_id)
    WHERE canonical_id = conversation_id AND assignee IS NOT NULL""",
)

# An index on last_seen_at itself would change with every message, and all others of the row with it; the hour of it
# stays what it was for most. What belongs to nobody is no customer to be found.
LEAVES = (
    """
    ALTER TABLE conversation.leaf ADD COLUMN seen_hour integer
    GENERATED ALWAYS AS (floor(extract(epoch FROM last_seen_at AT TIME ZONE 'UTC') / 3600)::integer) STORED""",
    """
    CREATE INDEX leaf_seen ON conversation.leaf (tenant_id, seen_hour)
    WHERE last_seen_at IS NOT NULL AND node NOT LIKE 'anonymous:%'""",
    # pg_trgm comes with PostgreSQL, but not every server has it installed; without it the same is found, only later.
    """
    DO $$
    BEGIN
        CREATE EXTENSION IF NOT EXISTS pg_trgm;
        CREATE INDEX leaf_words ON conversation.leaf
            USING gin (name gin_trgm_ops, shown gin_trgm_ops, node gin_trgm_ops);
    EXCEPTION WHEN undefined_file OR insufficient_privilege OR feature_not_supported OR undefined_object THEN
        RAISE NOTICE 'pg_trgm is not here: customers are found by parts of names without an index';
    END $$""",
)

# As the owner and by the tenant that the reader's transaction has set: row security would keep ILIKE from the index.
# Most of what people look for is among the last seen: the latest are walked first, and only where too few of them fit
# are all asked, with a plan for this very pattern.
FIND = r"""
CREATE FUNCTION conversation.find_customers(wanted text, before_at timestamptz, before_id uuid, most integer)
RETURNS TABLE (found_id uuid, seen_at timestamptz) LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant constant text := nullif(current_setting('threadline.tenant', true), '');
    walked constant integer := 2000;
    told integer;
BEGIN
    RETURN QUERY
    SELECT w.customer_id, w.last_seen_at FROM (
        SELECT l.leaf_id, l.customer_id, l.seen_hour, l.last_seen_at, l.name, l.shown, l.node FROM conversation.leaf l
        WHERE l.tenant_id = tenant AND l.last_seen_at IS NOT NULL AND l.node NOT LIKE 'anonymous:%'
            AND l.seen_hour <= coalesce(
                floor(extract(epoch FROM before_at AT TIME ZONE 'UTC') / 3600)::integer, 2147483647)
            AND (before_at IS NULL OR (l.last_seen_at, l.customer_id) < (before_at, before_id))
        ORDER BY l.seen_hour DESC, l.last_seen_at DESC, l.customer_id DESC LIMIT walked) AS w
    WHERE (wanted IS NULL OR w.name ILIKE wanted OR w.shown ILIKE wanted OR w.node ILIKE wanted)
        AND NOT EXISTS (
            SELECT FROM conversation.leaf o
            WHERE o.tenant_id = tenant AND o.customer_id = w.customer_id
                AND (o.last_seen_at, o.leaf_id) > (w.last_seen_at, w.leaf_id) AND o.node NOT LIKE 'anonymous:%'
                AND (wanted IS NULL OR o.name ILIKE wanted OR o.shown ILIKE wanted OR o.node ILIKE wanted))
    ORDER BY w.seen_hour DESC, w.last_seen_at DESC, w.customer_id DESC LIMIT most;
    GET DIAGNOSTICS told = ROW_COUNT;
    IF told >= most THEN
        RETURN;
    END IF;
    -- What was found stays, being the last seen of all that fit; what follows begins behind it.
    RETURN QUERY EXECUTE $all$
    SELECT l.customer_id, max(l.last_seen_at) AS seen_at FROM conversation.leaf l
    WHERE l.tenant_id = $1 AND l.last_seen_at IS NOT NULL AND l.node NOT LIKE 'anonymous:%'
        AND ($2 IS NULL OR l.name ILIKE $2 OR l.shown ILIKE $2 OR l.node ILIKE $2)
    GROUP BY l.customer_id HAVING ($3 IS NULL OR (max(l.last_seen_at), l.customer_id) < ($3, $4))
    ORDER BY seen_at DESC, l.customer_id DESC OFFSET $6 LIMIT $5 - $6
    $all$ USING tenant, wanted, before_at, before_id, most, told;
END $$
"""
SIGNATURE = "conversation.find_customers(text, timestamptz, uuid, integer)"


def upgrade() -> None:
    for statement in (*CONVERSATIONS, *LEAVES, FIND):
        op.execute(statement)
    op.execute(f"REVOKE ALL ON FUNCTION {SIGNATURE} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {SIGNATURE} TO {READER_ROLE}")
