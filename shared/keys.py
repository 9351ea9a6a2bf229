"""API keys: how they look, what they may do, and their rows (schema `auth`)."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from shared.errors import SetupError

if TYPE_CHECKING:
    import asyncpg

SCOPES: dict[str, str] = {
    "events:write": "post events and ask for their status",
    "timeline:read": "read customers, timelines, conversations, search and the stream",
    "timeline:write": "merge, split and join",
    "privacy": "export and erase a customer",
    "kpis:read": "read KPIs, receipts and the scoreboard",
    "metrics:read": "scrape /metrics",
    "admin": "everything, and channels, policy, schedule and SLA",
}
ADMIN = "admin"
DEFAULT_TENANT = "default"
BOOTSTRAP_LABEL = "bootstrap"
FIRST_LABEL = "first key"

TENANT_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
KEY_FORM = re.compile(r"[\x21-\x7e]{32,512}")
"""A key that we make is `tl_` and 43 characters; one that was given (THREADLINE_BOOTSTRAP_KEY) may be any such text."""

# A tenant begins to exist with its first key; a key that is there already stays as it is.
CREATE_TENANT = "INSERT INTO auth.tenant (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING"
CREATE_KEY = """
    INSERT INTO auth.api_key (tenant_id, key_hash, scopes, label, expires_at) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (key_hash) DO NOTHING
    RETURNING key_id
"""
LIST_KEYS = """
    SELECT tenant_id, key_id, scopes, label, created_at, expires_at, revoked_at
    FROM auth.api_key WHERE $1::text IS NULL OR tenant_id = $1 ORDER BY tenant_id, created_at
"""
REVOKE_KEY = """
    UPDATE auth.api_key SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = $1 OR key_hash = $2
    RETURNING key_id
"""
# An earlier bootstrap key stops when another is set.
REVOKE_OTHER_BOOTSTRAPS = """
    UPDATE auth.api_key SET revoked_at = now()
    WHERE label = 'bootstrap' AND key_hash <> $1 AND revoked_at IS NULL
"""
FIND_KEY = """
    SELECT tenant_id, key_id, scopes, expires_at FROM auth.api_key
    WHERE key_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key as it can be listed: never the key itself."""

    tenant: str
    key_id: UUID
    scopes: tuple[str, ...]
    label: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def new_key() -> str:
    """Return a new key: `tl_` and 256 random bits."""
    return "tl_" + secrets.token_urlsafe(32)


def hash_of(secret: str) -> bytes:
    """Return what is stored of a key or a session."""
    return hashlib.sha256(secret.encode()).digest()


def check_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return `scopes` sorted and once each. Raises SetupError naming an unknown one."""
    wanted = sorted({scope.strip() for scope in scopes} - {""})
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown or not wanted:
        raise SetupError(f"unknown scope {unknown[0] if unknown else '(none given)'}; scopes are {', '.join(SCOPES)}")
    return tuple(wanted)


def check_tenant(tenant: str) -> str:
    """Return `tenant`. Raises SetupError where it cannot be a tenant's name."""
    if not TENANT_FORM.fullmatch(tenant):
        raise SetupError("a tenant is 1 to 100 letters, digits, dots, dashes and underscores, a letter or digit first")
    return tenant


async def create_key(
    connection: asyncpg.Connection,
    tenant: str,
    scopes: Sequence[str],
    *,
    label: str | None = None,
    expires_at: datetime | None = None,
    key: str | None = None,
) -> str:
    """Store `key` (a new one where None) for `tenant` and return it. One that is stored already stays as it is.

    Raises SetupError for an unknown scope or an impossible tenant.
    """
    key = key or new_key()
    async with connection.transaction():
        await connection.execute(CREATE_TENANT, check_tenant(tenant))
        await connection.fetchval(CREATE_KEY, tenant, hash_of(key), check_scopes(scopes), label, expires_at)
    return key


async def ensure_bootstrap_key(connection: asyncpg.Connection, key: str) -> None:
    """Make `key` an admin key of the default tenant and revoke bootstrap keys of before."""
    await create_key(connection, DEFAULT_TENANT, [ADMIN], label=BOOTSTRAP_LABEL, key=key)
    await connection.execute(REVOKE_OTHER_BOOTSTRAPS, hash_of(key))


async def list_keys(connection: asyncpg.Connection, tenant: str | None = None) -> list[KeyRow]:
    """Return all keys, or those of `tenant`, in the order they were made."""
    rows = await connection.fetch(LIST_KEYS, tenant)
    return [KeyRow(row[0], row[1], tuple(row[2]), *row[3:]) for row in map(tuple, rows)]


async def revoke_key(connection: asyncpg.Connection, key_or_id: str) -> UUID:
    """Revoke a key, named by its id or by itself, and return its id. Raises SetupError where there is none."""
    try:
        key_id: UUID | None = UUID(key_or_id)
    except ValueError:
        key_id = None
    found: UUID | None = await connection.fetchval(REVOKE_KEY, key_id, hash_of(key_or_id))
    if found is None:
        raise SetupError("there is no such key; `threadline keys list` shows their ids")
    return found


@dataclass(frozen=True, slots=True)
class Found:
    """A key or session that is good now, as the database knows it."""

    tenant: str
    key_id: UUID
    scopes: frozenset[str]
    expires_at: datetime | None


# A session is as good as its key, and no better.
FIND_SESSION = """
    SELECT k.tenant_id, k.key_id, k.scopes, least(s.expires_at, k.expires_at) AS expires_at
    FROM auth.session s JOIN auth.api_key k USING (tenant_id, key_id)
    WHERE s.session_hash = $1 AND s.expires_at > now()
    AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
"""
START_SESSION = """
    WITH swept AS (DELETE FROM auth.session WHERE expires_at < now())
    INSERT INTO auth.session (tenant_id, key_id, session_hash, expires_at) VALUES ($1, $2, $3, now() + $4)
"""
END_SESSION = "DELETE FROM auth.session WHERE session_hash = $1"


async def find(pool: asyncpg.Pool, secret_hash: bytes, *, session: bool = False) -> Found | None:
    """Return whose key (or session) hashes to `secret_hash`, None where it is not good now."""
    row = await pool.fetchrow(FIND_SESSION if session else FIND_KEY, secret_hash)
    return Found(row[0], row[1], frozenset(row[2]), row[3]) if row else None
