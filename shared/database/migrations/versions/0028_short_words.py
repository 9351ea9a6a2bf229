"""customers: what is too short for the index of parts of words is looked for where a name or a handle begins."""

from __future__ import annotations

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

# As before, and for a pattern without % in front only where a word of a name or a handle begins: the index of parts
# knows two letters there, and inside a word it knows none below three, so that all of a tenant was read for them.
FIND = r"""
CREATE OR REPLACE FUNCTION conversation.find_customers(
    wanted text, before_at timestamptz, before_id uuid, most integer)
RETURNS TABLE (found_id uuid, seen_at timestamptz) LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant constant text := nullif(current_setting('threadline.tenant', true), '');
    walked constant integer := 2000;
    in_words constant text := CASE WHEN left(wanted, 1) <> '%' THEN '% ' || wanted END;
    in_node constant text := CASE WHEN left(wanted, 1) <> '%' THEN '%:' || wanted ELSE wanted END;
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
    WHERE (wanted IS NULL
            OR w.name ILIKE wanted OR w.name ILIKE in_words OR w.shown ILIKE wanted OR w.node ILIKE in_node)
        AND NOT EXISTS (
            SELECT FROM conversation.leaf o
            WHERE o.tenant_id = tenant AND o.customer_id = w.customer_id
                AND (o.last_seen_at, o.leaf_id) > (w.last_seen_at, w.leaf_id) AND o.node NOT LIKE 'anonymous:%'
                AND (wanted IS NULL
                    OR o.name ILIKE wanted OR o.name ILIKE in_words OR o.shown ILIKE wanted OR o.node ILIKE in_node))
    ORDER BY w.seen_hour DESC, w.last_seen_at DESC, w.customer_id DESC LIMIT most;
    GET DIAGNOSTICS told = ROW_COUNT;
    IF told >= most THEN
        RETURN;
    END IF;
    -- What was found stays, being the last seen of all that fit; what follows begins behind it.
    RETURN QUERY EXECUTE $all$
    SELECT l.customer_id, max(l.last_seen_at) AS seen_at FROM conversation.leaf l
    WHERE l.tenant_id = $1 AND l.last_seen_at IS NOT NULL AND l.node NOT LIKE 'anonymous:%'
        AND ($2 IS NULL OR l.name ILIKE $2 OR l.name ILIKE $7 OR l.shown ILIKE $2 OR l.node ILIKE $8)
    GROUP BY l.customer_id HAVING ($3 IS NULL OR (max(l.last_seen_at), l.customer_id) < ($3, $4))
    ORDER BY seen_at DESC, l.customer_id DESC OFFSET $6 LIMIT $5 - $6
    $all$ USING tenant, wanted, before_at, before_id, most, told, in_words, in_node;
END $$
"""


def upgrade() -> None:
    op.execute(FIND)
