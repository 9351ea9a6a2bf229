"""Channel accounts: whose webhook a URL is, and what proves a delivery genuine. Their secrets are sealed at rest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from secrets import token_urlsafe
from time import monotonic
from typing import TYPE_CHECKING, Any

import orjson

from services.ingest.adapters.base import Account
from shared.database.engine import translated
from shared.errors import DatabaseUnavailable
from shared.sealing import Sealer
from shared.visitor_tickets import ticket_key

if TYPE_CHECKING:
    import asyncpg

# An account keeps its token, and so its URL, when its settings change.
PUT = """
INSERT INTO ingest.channel_account
    (tenant_id, provider, account, token, sealed, public_url, own_addresses, default_region)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (tenant_id, provider, account) DO UPDATE SET
    sealed = excluded.sealed, public_url = excluded.public_url, own_addresses = excluded.own_addresses,
    default_region = excluded.default_region, changed_at = now()
RETURNING token
"""

COLUMNS = """tenant_id, provider, account, token, sealed, public_url, own_addresses, default_region,
    created_at, changed_at"""

LIST = f"SELECT {COLUMNS} FROM ingest.channel_account WHERE tenant_id = $1 ORDER BY provider, account"  # noqa: S608

ONE = f"""
SELECT {COLUMNS} FROM ingest.channel_account WHERE tenant_id = $1 AND provider = $2 AND account = $3
"""  # noqa: S608

BY_TOKEN = f"SELECT {COLUMNS} FROM ingest.channel_account WHERE token = $1"  # noqa: S608

DELETE = "DELETE FROM ingest.channel_account WHERE tenant_id = $1 AND provider = $2 AND account = $3 RETURNING token"

FRESH_S = 2.0
"""An account from memory is asked for again after so many seconds: changes and deletions work everywhere by then."""
GRACE_S = 300.0
"""While the database is away an account that was good stays good for so long."""
REMEMBERED = 10_000

SEALED_FOR = "channel secrets"


@dataclass(frozen=True, slots=True)
class Channel:
    """A stored account with what its URL needs."""

    account: Account
    token: str
    created_at: datetime
    changed_at: datetime

    @property
    def path(self) -> str:
        """Return the path of its webhook."""
        return f"/v1/webhooks/{self.account.provider}/{self.token}"


@dataclass(slots=True)
class _Remembered:
    channel: Channel | None
    asked_s: float


class Channels:
    """The accounts of all tenants. Every method raises DatabaseUnavailable where it has to ask and cannot."""

    def __init__(self, pool: asyncpg.Pool, secret_key: bytes) -> None:
        self._pool = pool
        self._sealer = Sealer(secret_key, SEALED_FOR)
        self._ticket_key = ticket_key(secret_key)
        self._memory: OrderedDict[str, _Remembered] = OrderedDict()
        self._asking: set[str] = set()

    async def put(self, account: Account) -> Channel:
        """Store `account`, new or changed, and return it with its URL."""
        sealed = self._sealer.seal(
            orjson.dumps({"secrets": account.secrets, "options": dict(account.options)}), _owner(account)
        )
        with translated():
            token = await self._pool.fetchval(
                PUT,
                account.tenant,
                account.provider,
                account.account,
                token_urlsafe(32),
                sealed,
                account.public_url,
                list(account.own_addresses),
                account.default_region,
            )
        self._memory.pop(token, None)
        channel = await self.find(account.tenant, account.provider, account.account)
        if channel is None:
            raise DatabaseUnavailable("the account was deleted while it was stored")
        return channel

    async def find(self, tenant: str, provider: str, account: str) -> Channel | None:
        """Return one account of a tenant."""
        with translated():
            row = await self._pool.fetchrow(ONE, tenant, provider, account)
        return self._opened(row) if row is not None else None

    async def list(self, tenant: str) -> list[Channel]:
        """Return the accounts of a tenant."""
        with translated():
            rows = await self._pool.fetch(LIST, tenant)
        return [self._opened(row) for row in rows]

    async def delete(self, tenant: str, provider: str, account: str) -> bool:
        """Stop an account; False where there is none. Its URL is never given again."""
        with translated():
            token = await self._pool.fetchval(DELETE, tenant, provider, account)
        if token is not None:
            self._memory.pop(token, None)
        return token is not None

    async def by_token(self, token: str) -> Channel | None:
        """Return the account whose URL has `token`, at most `FRESH_S` old; older only while the database is away."""
        known = self._memory.get(token)
        now_s = monotonic()
        if known is not None and (now_s - known.asked_s < FRESH_S or token in self._asking):
            # Of many deliveries at once one asks again, and the others take what was known.
            return known.channel
        self._asking.add(token)
        try:
            with translated():
                row = await self._pool.fetchrow(BY_TOKEN, token)
        except DatabaseUnavailable:
            if known is not None and known.channel is not None and now_s - known.asked_s < GRACE_S:
                return known.channel
            raise
        finally:
            self._asking.discard(token)
        channel = self._opened(row) if row is not None else None
        self._remember(token, _Remembered(channel, now_s))
        return channel

    def _remember(self, token: str, remembered: _Remembered) -> None:
        self._memory[token] = remembered
        self._memory.move_to_end(token)
        while len(self._memory) > REMEMBERED:
            self._memory.popitem(last=False)

    def _opened(self, row: Mapping[str, Any]) -> Channel:
        owner = f"{row['tenant_id']}/{row['provider']}/{row['account']}"
        inside = orjson.loads(self._sealer.open(row["sealed"], owner))
        account = Account(
            tenant=row["tenant_id"],
            provider=row["provider"],
            account=row["account"],
            secrets=tuple(inside["secrets"]),
            public_url=row["public_url"],
            own_addresses=tuple(row["own_addresses"]),
            default_region=row["default_region"],
            options=inside["options"],
            ticket_key=self._ticket_key,
        )
        return Channel(account, row["token"], row["created_at"], row["changed_at"])


def _owner(account: Account) -> str:
    return f"{account.tenant}/{account.provider}/{account.account}"
