"""search: hits are ranked before their entries are looked up, so that a common word costs a page of entries."""

from __future__ import annotations

from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

# As before for what is asked of one customer or conversation: who few entries belong to is found first. Anything else
# is told by the index itself, down to the order of its hits, so that only those are looked up that a page holds, and
# what an entry has to have beside the words. An entry may be gone while its words are still there.
FIND = """
CREATE OR REPLACE FUNCTION conversation.find_entries(
    wanted text, in_channels text[], of_types text[], from_at timestamptz, to_at timestamptz, of_customer uuid,
    of_conversation uuid, most integer, beyond integer)
RETURNS TABLE (entry_id uuid, score real) LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant constant text := nullif(current_setting('threadline.tenant', true), '');
    words constant tsquery := websearch_to_tsquery('simple', wanted);
    ranked constant integer := 5000;
    newest text := '';
    met integer;
BEGIN
    IF of_customer IS NOT NULL OR of_conversation IS NOT NULL THEN
        RETURN QUERY EXECUTE 'SELECT s.entry_id, ts_rank_cd(s.document, $2) AS score
            FROM conversation.search s
            JOIN conversation.entry e ON e.tenant_id = s.tenant_id AND e.entry_id = s.entry_id
            JOIN conversation.leaf l ON l.tenant_id = e.tenant_id AND l.leaf_id = e.leaf_id
            LEFT JOIN conversation.conversation c
                ON c.tenant_id = e.tenant_id AND c.conversation_id = e.conversation_id
            WHERE s.tenant_id = $1 AND s.document @@ $2
                AND ($3 IS NULL OR e.channel = ANY ($3))
                AND ($4 IS NULL OR e.type = ANY ($4))
                AND ($5 IS NULL OR e.occurred_at >= $5)
                AND ($6 IS NULL OR e.occurred_at < $6)
                AND ($7 IS NULL OR l.customer_id = $7)
                AND ($8 IS NULL OR c.canonical_id = $8)
            ORDER BY score DESC, e.occurred_at DESC, s.entry_id LIMIT $9 OFFSET $10'
        USING tenant, words, in_channels, of_types, from_at, to_at, of_customer, of_conversation, most, beyond;
        RETURN;
    END IF;
    EXECUTE 'SELECT count(*) FROM (
        SELECT FROM conversation.search s WHERE s.tenant_id = $1 AND s.document @@ $2 LIMIT $3) AS h'
    INTO met USING tenant, words, ranked + 1;
    IF met > ranked THEN
        newest := 'ORDER BY s.occurred_at DESC, s.entry_id LIMIT ' || ranked;
    END IF;
    RETURN QUERY EXECUTE 'SELECT h.entry_id, h.score FROM (
            SELECT s.entry_id, s.occurred_at, ts_rank_cd(s.document, $2) AS score FROM (
                SELECT * FROM conversation.search s WHERE s.tenant_id = $1 AND s.document @@ $2
                    AND ($5 IS NULL OR s.occurred_at >= $5) AND ($6 IS NULL OR s.occurred_at < $6)
                ' || newest || ') AS s
            ORDER BY score DESC, s.occurred_at DESC, s.entry_id) AS h,
        LATERAL (SELECT FROM conversation.entry e WHERE e.tenant_id = $1 AND e.entry_id = h.entry_id
            AND ($3 IS NULL OR e.channel = ANY ($3)) AND ($4 IS NULL OR e.type = ANY ($4)) OFFSET 0) AS e
        ORDER BY h.score DESC, h.occurred_at DESC, h.entry_id LIMIT $7 OFFSET $8'
    USING tenant, words, in_channels, of_types, from_at, to_at, most, beyond;
END $$
"""


def upgrade() -> None:
    op.execute(FIND)
