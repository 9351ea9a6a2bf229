"""Tenants apart: no table shows a reader a row of another's, and none at all to one without a tenant."""

from __future__ import annotations

import random
from contextlib import suppress

import asyncpg

from services.metrics.consumer import MetricsConsumer
from shared.database.engine import tenant_reader
from tests.histories import a_history
from tests.integration.conversation.test_histories import put

# Whatever has a tenant, found in the catalogue: a table made tomorrow is looked at too.
TABLES = """
SELECT c.oid::regclass::text AS name, c.relrowsecurity AND EXISTS (
           SELECT FROM pg_policy p WHERE p.polrelid = c.oid
           AND pg_get_expr(p.polqual, p.polrelid) LIKE '%threadline.tenant%') AS secured
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
WHERE n.nspname IN ('auth', 'log', 'ingest', 'conversation', 'metrics', 'privacy') AND c.relkind IN ('r', 'p')
    AND NOT c.relispartition ORDER BY 1
"""


async def rows_seen(pool: asyncpg.Pool, table: str, tenant: str) -> int:
    with suppress(asyncpg.InsufficientPrivilegeError):
        async with tenant_reader(pool, tenant) as connection:
            return int(await connection.fetchval(f"SELECT count(tenant_id) FROM {table}"))
    return 0


async def test_no_table_shows_a_row_to_another_tenant_or_to_none(pool: asyncpg.Pool) -> None:
    outcome = await put(pool, "acme", a_history(random.Random(3), "acme", 60))
    async with pool.acquire() as connection, connection.transaction():
        await MetricsConsumer().apply(connection, outcome.records)
    tables = await pool.fetch(TABLES)
    assert [row["name"] for row in tables if not row["secured"]] == []
    filled = 0
    for row in tables:
        filled += bool(await rows_seen(pool, row["name"], "acme"))
        for tenant in ("", "globex", "acme' OR true --", "%"):
            assert await rows_seen(pool, row["name"], tenant) == 0, (row["name"], tenant)
    assert filled > 12
