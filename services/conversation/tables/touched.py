"""What changes of a tenant touched while something of it was set aside (`touched`), by their version."""

from __future__ import annotations

import asyncpg

PUT = """
INSERT INTO conversation.touched (tenant_id, version, names) VALUES ($1, $2, $3)
ON CONFLICT (tenant_id, version) DO UPDATE SET names = NULL
"""

SINCE = "SELECT names FROM conversation.touched WHERE tenant_id = $1 AND version > $2 ORDER BY names IS NOT NULL"

ANY = "SELECT EXISTS (SELECT FROM conversation.touched WHERE tenant_id = $1)"

CLEAR = "DELETE FROM conversation.touched WHERE tenant_id = $1"

KEPT_FROM = "UPDATE conversation.tenant_state SET touched_since = $2 WHERE tenant_id = $1"


async def put(connection: asyncpg.Connection, tenant: str, version: int, names: bytes | None) -> None:
    """Keep what a change touched; None: perhaps anything."""
    await connection.execute(PUT, tenant, version, names)


async def any_of(connection: asyncpg.Connection | asyncpg.Pool, tenant: str) -> bool:
    """Tell whether anything is kept of what changes of a tenant touched."""
    return bool(await connection.fetchval(ANY, tenant))


async def since(connection: asyncpg.Connection, tenant: str, version: int) -> list[bytes | None]:
    """Return what each change behind `version` touched."""
    return [row[0] for row in await connection.fetch(SINCE, tenant, version)]


async def clear(connection: asyncpg.Connection, tenant: str, version: int) -> None:
    """Forget what was touched up to this very change, of which the version is given: nobody asks from before it."""
    await connection.execute(CLEAR, tenant)
    await connection.execute(KEPT_FROM, tenant, version)
