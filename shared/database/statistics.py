"""Statistics for a database that is young: PostgreSQL's own come up to a minute late, and until then plans are guesses.

A plan made for an empty table is kept by its connection until the table is analysed. At 500 events a second, tables
without statistics made each look-up a walk over all rows, and the timeline fell behind by seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import structlog

from shared.database.retrying import tried_again

LOOK_EVERY_S = 1.0

# A few dozen rows, or four times what the last look counted: a table is analysed a dozen times on its way to millions.
# From then on autovacuum, which goes by changes, is soon enough.
GROWN = """
SELECT format('%I.%I', s.schemaname, s.relname)
FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
WHERE s.schemaname = ANY($1::text[]) AND s.n_live_tup > 50 + 3 * greatest(c.reltuples, 0)
ORDER BY 1
"""

log = structlog.get_logger("threadline.database")


async def analyse_grown(pool: asyncpg.Pool, schemas: Sequence[str]) -> list[str]:
    """Analyse the tables of these schemas that have outgrown their statistics; return their names."""
    async with pool.acquire() as connection:
        tables = [row[0] for row in await connection.fetch(GROWN, schemas)]
        for table in tables:
            # Another process may be at it: then it need not be done twice.
            await connection.execute(f"ANALYZE (SKIP_LOCKED) {table}")
    return tables


async def analyse_for_ever(pool: asyncpg.Pool, schemas: Sequence[str]) -> None:
    """Do so again and again, for the life of the process. A database that is away is tried again."""
    while True:
        with tried_again(log, "statistics are taken later"):
            await analyse_grown(pool, schemas)
        await asyncio.sleep(LOOK_EVERY_S)
