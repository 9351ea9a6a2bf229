"""search: when each entry happened, so that a word that is in very many is looked for among the newest of them."""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

# Every row changes: the index of words is made anew after that, which costs less than to keep it up meanwhile.
TABLE = (
    "DROP INDEX conversation.search_document",
    "ALTER TABLE conversation.search ADD COLUMN occurred_at timestamptz",
    """
    UPDATE conversation.search s SET occurred_at = e.occurred_at FROM conversation.entry e
    WHERE e.tenant_id = s.tenant_id AND e.entry_id = s.entry_id""",
    "DELETE FROM conversation.search WHERE occurred_at IS NULL",
    "ALTER TABLE conversation.search ALTER COLUMN occurred_at SET NOT NULL",
    "CREATE INDEX search_document ON conversation.search USING gin (document)",
    "CREATE INDEX search_newest ON conversation.search (tenant_id, occurred_at)",
)

# As before, and as before for words that are in few entries or among those of one customer or conversation. To rank
# a million hits takes a minute, so of more than `ranked` the newest alone are ranked. Each statement is planned for
# its very words: a plan that suits a rare one reads everything for a common one.
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
    hits text := 'conversation.search';
    met integer := 0;
BEGIN
    IF of_customer IS NULL AND of_conversation IS NULL THEN
        EXECUTE 'SELECT count(*) FROM (
            SELECT FROM conversation.search s WHERE s.tenant_id = $1 AND s.document @@ $2 LIMIT $3) AS h'
        INTO met USING tenant, words, ranked + 1;
    END IF;
    IF met > ranked THEN
        hits := '(SELECT * FROM conversation.search s WHERE s.tenant_id = $1 AND s.document @@ $2
            AND ($5 IS NULL OR s.occurred_at >= $5) AND ($6 IS NULL OR s.occurred_at < $6)
            ORDER BY s.occurred_at DESC, s.entry_id LIMIT ' || ranked || ')';
    END IF;
    RETURN QUERY EXECUTE 'SELECT s.entry_id, ts_rank_cd(s.document, $2) AS score
        FROM ' || hits || ' s
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
END $$
"""


def upgrade() -> None:
    for statement in (*TABLE, FIND):
        op.execute(statement)
