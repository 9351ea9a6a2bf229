"""leaves: indexes by name and by mailbox, for those who may be the same person: a tenant was read for each answer."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import READER_ROLE

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

# Hashes: names are of any length, and a row of an index is not.
INDEXES = (
    """
    CREATE INDEX leaf_named ON conversation.leaf (tenant_id, hashtextextended(lower(name), 0))
    WHERE name IS NOT NULL""",
    """
    CREATE INDEX leaf_mailbox ON conversation.leaf (tenant_id, hashtextextended(split_part(node, '@', 1), 0))
    WHERE node LIKE 'email:%'""",
)

# As the owner and by the tenant that the reader's transaction has set: row security would keep lower() from the index.
# Of a name that very many have some are told. OFFSET 0 keeps the look-ups nested.
ALIKE = r"""
CREATE FUNCTION conversation.alike(of_customer uuid, most integer)
RETURNS TABLE (other_id uuid, reason text) LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    WITH mine AS MATERIALIZED (
        SELECT tenant_id, lower(name) AS named,
               CASE WHEN node LIKE 'email:%' THEN split_part(node, '@', 1) END AS mailbox
        FROM conversation.leaf
        WHERE tenant_id = nullif(current_setting('threadline.tenant', true), '') AND customer_id = of_customer)
    (SELECT DISTINCT o.customer_id, 'same_name' FROM (SELECT DISTINCT tenant_id, named FROM mine) AS m,
     LATERAL (SELECT customer_id FROM conversation.leaf l
              WHERE l.tenant_id = m.tenant_id AND l.name IS NOT NULL AND lower(l.name) = m.named
                  AND hashtextextended(lower(l.name), 0) = hashtextextended(m.named, 0)
                  AND l.customer_id <> of_customer LIMIT 1000) AS o
     ORDER BY 1 LIMIT most)
    UNION ALL
    -- Short mailbox names (info, sales) are everybody's.
    (SELECT DISTINCT o.customer_id, 'same_mailbox_name' FROM (
         SELECT DISTINCT tenant_id, mailbox FROM mine WHERE length(mailbox) >= 12) AS m,
     LATERAL (SELECT customer_id FROM conversation.leaf l
              WHERE l.tenant_id = m.tenant_id AND l.node LIKE 'email:%' AND split_part(l.node, '@', 1) = m.mailbox
                  AND hashtextextended(split_part(l.node, '@', 1), 0) = hashtextextended(m.mailbox, 0)
                  AND l.customer_id <> of_customer LIMIT 1000) AS o
     ORDER BY 1 LIMIT most)
$$
"""
SIGNATURE = "conversation.alike(uuid, integer)"


def upgrade() -> None:
    for statement in (*INDEXES, ALIKE):
        op.execute(statement)
    op.execute(f"REVOKE ALL ON FUNCTION {SIGNATURE} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {SIGNATURE} TO {READER_ROLE}")
