"""Endpoints of tenants: what they want to hear, and their rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from services.conversation.webhooks import signing
from services.conversation.webhooks.deliveries import EVERYTHING_NOW, replay
from services.conversation.webhooks.events import Wanted
from services.conversation.webhooks.signing import Secret
from shared.clock import Clock
from shared.database.engine import transaction, translated
from shared.log.database import Connection
from shared.sealing import Sealer

OVERLAP_S = 86_400
"""How long a former secret signs beside the new one, where nobody says otherwise."""
MAX_OVERLAP_S = 30 * 86_400

LISTENERS = """
SELECT tenant_id, endpoint_id, event_types, channels, sources, max_age_s, created_at
FROM conversation.webhook_endpoint ORDER BY tenant_id, endpoint_id
"""

_COLUMNS = """p.endpoint_id, p.name, p.url, p.event_types, p.channels, p.sources, p.max_age_s, p.sealed, p.enabled,
    p.disabled_reason, p.failures, p.paused_until, p.last_error, p.created_at, p.changed_at"""

# The counts of what waits are bounded: nobody reads more than "many", and an endpoint that was away for days has many.
COUNTED_AT_MOST = 10_000
SHOWN = f"""
SELECT {_COLUMNS},
    (SELECT count(*) FROM (SELECT FROM conversation.webhook_delivery d WHERE d.tenant_id = p.tenant_id
        AND d.endpoint_id = p.endpoint_id AND d.state = 'p' LIMIT {COUNTED_AT_MOST}) AS counted) AS pending,
    (SELECT count(*) FROM (SELECT FROM conversation.webhook_delivery d WHERE d.tenant_id = p.tenant_id
        AND d.endpoint_id = p.endpoint_id AND d.state = 'x' LIMIT {COUNTED_AT_MOST}) AS counted) AS dead
FROM conversation.webhook_endpoint p WHERE p.tenant_id = $1
"""  # noqa: S608

LOCK = f"""
SELECT {_COLUMNS} FROM conversation.webhook_endpoint p WHERE tenant_id = $1 AND name = $2 FOR NO KEY UPDATE
"""  # noqa: S608

ADD = """
INSERT INTO conversation.webhook_endpoint
    (tenant_id, name, url, event_types, channels, sources, max_age_s, enabled, sealed)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant_id, name) DO NOTHING RETURNING endpoint_id
"""

# What was changed is tried at once: whoever moved or repaired a receiver says so with this.
CHANGE = """
UPDATE conversation.webhook_endpoint SET
    url = $3, event_types = $4, channels = $5, sources = $6, max_age_s = $7, enabled = $8, sealed = $9,
    disabled_reason = CASE WHEN $8 THEN NULL ELSE coalesce(disabled_reason, 'disabled by an administrator') END,
    failures = 0, paused_until = NULL, changed_at = now()
WHERE tenant_id = $1 AND endpoint_id = $2
"""

RESEAL = """
UPDATE conversation.webhook_endpoint SET sealed = $3, changed_at = now() WHERE tenant_id = $1 AND endpoint_id = $2
"""

DELETE = "DELETE FROM conversation.webhook_endpoint WHERE tenant_id = $1 AND name = $2 RETURNING endpoint_id"

DELIVERIES = """
SELECT d.webhook_id, d.seq, d.state, d.attempts, d.customer_id, d.created_at, d.settled_at, d.last_status, d.last_error,
       e.type, nullif(e.entry_id, e.leaf_id) AS entry_id, l.due_at
FROM conversation.webhook_delivery d
JOIN conversation.webhook_event e ON e.tenant_id = d.tenant_id AND e.webhook_id = d.webhook_id
LEFT JOIN conversation.webhook_lane l ON l.tenant_id = d.tenant_id AND l.endpoint_id = d.endpoint_id
    AND l.customer_id = d.customer_id AND d.state = 'p'
WHERE d.tenant_id = $1 AND d.endpoint_id = $2 AND ($3::"char" IS NULL OR d.state = $3) AND d.seq < $4
AND ($6::text IS NULL OR d.webhook_id = $6)
ORDER BY d.seq DESC LIMIT $5
"""

ATTEMPTS = """
SELECT at, status, error, duration_ms, excerpt FROM conversation.webhook_attempt
WHERE tenant_id = $1 AND endpoint_id = $2 AND webhook_id = $3 ORDER BY seq
"""

DEAD_AMONG = """
SELECT webhook_id FROM conversation.webhook_delivery
WHERE tenant_id = $1 AND endpoint_id = $2 AND state = 'x' AND webhook_id = ANY($3::text[])
"""

NEWEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Listener:
    """What the consumer has to know of an endpoint."""

    tenant: str
    endpoint_id: UUID
    wanted: Wanted
    created_at: datetime


async def listeners(connection: Connection) -> dict[str, list[Listener]]:
    """Return the endpoints of every tenant, also those that are disabled: what they miss waits for them."""
    found: dict[str, list[Listener]] = defaultdict(list)
    for row in await connection.fetch(LISTENERS):
        wanted = Wanted(row["event_types"], row["channels"], row["sources"], row["max_age_s"])
        found[row["tenant_id"]].append(Listener(row["tenant_id"], row["endpoint_id"], wanted, row["created_at"]))
    return dict(found)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint with how it does. `secrets`, newest first, are for signing and never shown."""

    tenant: str
    endpoint_id: UUID
    name: str
    url: str
    wanted: Wanted
    enabled: bool
    disabled_reason: str | None
    failures: int
    paused_until: datetime | None
    last_error: str | None
    created_at: datetime
    changed_at: datetime
    secrets: Sequence[Secret]
    pending: int
    dead: int


@dataclass(frozen=True, slots=True)
class Given:
    """What an endpoint is set up with. Without a secret a new one is made, or the old one stays."""

    url: str
    wanted: Wanted
    enabled: bool = True
    secret: str | None = None


class NoSuchEndpoint(Exception):
    """There is none of that name (or it is another tenant's: nobody can tell which)."""


class NotDead(Exception):
    """Among the ids to replay is one that is no dead letter of this endpoint; the text is that id."""


class Endpoints:
    """The endpoints of all tenants. Every method raises DatabaseUnavailable."""

    def __init__(self, pool: asyncpg.Pool, secret_key: bytes, clock: Clock) -> None:
        self.pool = pool
        self._clock = clock
        self._sealer = Sealer(secret_key, signing.SEALED_FOR)

    async def put(self, tenant: str, name: str, given: Given) -> tuple[Endpoint, str | None]:
        """Store an endpoint, new or changed; return it with the secret that was made for it, if one was."""
        filters = (given.wanted.event_types, given.wanted.channels, given.wanted.sources, given.wanted.max_age_s)
        made: str | None = None
        async with transaction(self.pool) as connection:
            row = await connection.fetchrow(LOCK, tenant, name)
            if row is None:
                new = given.secret or signing.new_secret()
                sealed = self._sealed(tenant, name, [Secret(new)])
                if await connection.fetchval(ADD, tenant, name, given.url, *filters, given.enabled, sealed):
                    made = None if given.secret else new
                else:
                    row = await connection.fetchrow(LOCK, tenant, name)  # somebody else has made it just now
            if row is not None:
                secrets = self._secrets(tenant, name, row)
                if given.secret and given.secret != secrets[0].text:
                    secrets = self._rotated(secrets, given.secret, OVERLAP_S)
                sealed = self._sealed(tenant, name, secrets)
                await connection.execute(CHANGE, tenant, row["endpoint_id"], given.url, *filters, given.enabled, sealed)
                await connection.execute(EVERYTHING_NOW, tenant, row["endpoint_id"])
        return await self.find(tenant, name), made

    async def rotate(self, tenant: str, name: str, secret: str | None, overlap_s: int) -> tuple[str, datetime]:
        """Let a new secret sign, and the former ones beside it for `overlap_s`; return it and when they end.

        Raises NoSuchEndpoint.
        """
        new = secret or signing.new_secret()
        async with transaction(self.pool) as connection:
            row = await connection.fetchrow(LOCK, tenant, name)
            if row is None:
                raise NoSuchEndpoint
            secrets = self._rotated(self._secrets(tenant, name, row), new, overlap_s)
            await connection.execute(RESEAL, tenant, row["endpoint_id"], self._sealed(tenant, name, secrets))
        return new, self._clock.now() + timedelta(seconds=overlap_s)

    async def find(self, tenant: str, name: str) -> Endpoint:
        """Return one endpoint. Raises NoSuchEndpoint."""
        with translated():
            row = await self.pool.fetchrow(f"{SHOWN} AND p.name = $2", tenant, name)
        if row is None:
            raise NoSuchEndpoint
        return self._read(tenant, row)

    async def of(self, tenant: str) -> list[Endpoint]:
        """Return the endpoints of a tenant by name."""
        with translated():
            rows = await self.pool.fetch(f"{SHOWN} ORDER BY p.name", tenant)
        return [self._read(tenant, row) for row in rows]

    async def delete(self, tenant: str, name: str) -> None:
        """Delete an endpoint with all that waits for it. Raises NoSuchEndpoint."""
        with translated():
            if await self.pool.fetchval(DELETE, tenant, name) is None:
                raise NoSuchEndpoint

    async def deliveries(
        self, endpoint: Endpoint, state: str | None, before: int | None, limit: int, webhook_id: str | None = None
    ) -> list[Mapping[str, Any]]:
        """Return deliveries, newest first, older than the sequence number `before`."""
        with translated():
            rows: list[Mapping[str, Any]] = await self.pool.fetch(
                DELIVERIES, endpoint.tenant, endpoint.endpoint_id, state.encode() if state else None,
                NEWEST if before is None else before, limit, webhook_id,
            )  # fmt: skip
        return rows

    async def attempts(self, endpoint: Endpoint, webhook_id: str) -> list[Mapping[str, Any]]:
        """Return the attempts of a delivery, oldest first."""
        with translated():
            rows: list[Mapping[str, Any]] = await self.pool.fetch(
                ATTEMPTS, endpoint.tenant, endpoint.endpoint_id, webhook_id
            )
        return rows

    async def replay(self, endpoint: Endpoint, ids: Sequence[str] | None, since: datetime | None) -> int:
        """Send dead letters again, those of `ids` or those that died since then; return how many. Raises NotDead."""
        async with transaction(self.pool) as connection:
            if ids is not None:
                rows = await connection.fetch(DEAD_AMONG, endpoint.tenant, endpoint.endpoint_id, list(ids))
                missing = [one for one in ids if one not in {row["webhook_id"] for row in rows}]
                if missing:
                    raise NotDead(missing[0])
            return await replay(connection, endpoint.tenant, endpoint.endpoint_id, ids, since)

    def secrets_of(self, tenant: str, name: str, sealed: bytes) -> list[Secret]:
        """Return the secrets in a row. Raises SetupError where another key sealed them."""
        return signing.unseal(self._sealer, _owner(tenant, name), sealed)

    def _secrets(self, tenant: str, name: str, row: Mapping[str, Any]) -> list[Secret]:
        return self.secrets_of(tenant, name, row["sealed"])

    def _sealed(self, tenant: str, name: str, secrets: Sequence[Secret]) -> bytes:
        return signing.seal(self._sealer, _owner(tenant, name), secrets)

    def _rotated(self, secrets: Sequence[Secret], new: str, overlap_s: int) -> list[Secret]:
        now = self._clock.now()
        return signing.rotated(secrets, new, now, now + timedelta(seconds=overlap_s))

    def _read(self, tenant: str, row: Mapping[str, Any]) -> Endpoint:
        return Endpoint(
            tenant, row["endpoint_id"], row["name"], row["url"],
            Wanted(row["event_types"], row["channels"], row["sources"], row["max_age_s"]),
            row["enabled"], row["disabled_reason"], row["failures"], row["paused_until"], row["last_error"],
            row["created_at"], row["changed_at"], self._secrets(tenant, row["name"], row), row["pending"], row["dead"],
        )  # fmt: skip


def _owner(tenant: str, name: str) -> str:
    return f"{tenant}/webhook endpoint/{name}"
