"""What becomes durable together: a delivery's token that counts once, its quarantined parts, and its events.

Most deliveries are events alone and go straight to the log. Of the others many share one transaction: while one is on
its way, those that come meanwhile gather for the next, so that its round trips are paid once for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from services.ingest.adapters.base import Account, Quarantined, RawRequest, ReplayToken
from services.ingest.reading import clean_text, storable_id
from shared.database.engine import transaction
from shared.errors import Retryable
from shared.events import InboundEvent
from shared.log.headers import encode_headers

if TYPE_CHECKING:
    import asyncpg

MOST = 50
"""Deliveries in one transaction."""
TRANSACTIONS = 2
"""Transactions at a time: each holds a connection while it appends, and the append needs one of the same pool."""
MANY = 16
"""So many waiting are worth a second transaction; fewer wait for the first: round trips cost more than they do."""

# A delivery that comes again is kept once.
KEEP = """
INSERT INTO log.quarantine (tenant_id, source, event_id, group_name, reason, value, headers)
SELECT $1, $2, $3, 'ingest', $4, $5, $6
WHERE NOT EXISTS (
    SELECT FROM log.quarantine
    WHERE tenant_id = $1 AND source = $2 AND event_id = $3 AND group_name = 'ingest' AND state = 'held'
)
"""

# Returns the tokens that are new. Of two deliveries at once the second waits here until the first is durable or has
# failed; the order is one for all, so that no two transactions wait for each other.
REMEMBER = """
INSERT INTO ingest.replay_token AS t (tenant_id, provider, account, digest, expires_at)
SELECT given.tenant_id, given.provider, given.account, given.digest,
    $5::timestamptz + make_interval(secs => given.ttl_s)
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $6::float8[])
    AS given (tenant_id, provider, account, digest, ttl_s)
ORDER BY given.tenant_id, given.provider, given.account, given.digest
ON CONFLICT (tenant_id, provider, account, digest) DO UPDATE SET expires_at = excluded.expires_at
    WHERE t.expires_at < $5::timestamptz
RETURNING tenant_id, provider, account, digest
"""

FORGET_EXPIRED = "DELETE FROM ingest.replay_token WHERE expires_at < $1"

# Credentials of the delivery are not kept with what is quarantined; it has been verified.
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})

Events = Sequence[tuple[InboundEvent, bytes]]


@dataclass(eq=False, slots=True)
class _Parcel:
    account: Account
    raw: RawRequest
    events: Events
    quarantined: Sequence[Quarantined]
    token: ReplayToken | None
    kept: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def row(self) -> tuple[str, str, str, bytes] | None:
        """What names the token in the table."""
        if self.token is None:
            return None
        digest = sha256(self.token.value.encode("utf-8", "surrogatepass")).digest()
        return self.account.tenant, self.account.provider, self.account.account, digest


class Keeper:
    """Keeps deliveries that are more than events. `append` makes events durable."""

    def __init__(self, pool: asyncpg.Pool, append: Callable[[Events], Awaitable[None]]) -> None:
        self._pool = pool
        self._append = append
        self._waiting: list[_Parcel] = []
        self._workers = 0
        # The loop holds its tasks weakly.
        self._tasks: set[asyncio.Task[None]] = set()

    async def keep(
        self,
        account: Account,
        raw: RawRequest,
        events: Events,
        quarantined: Sequence[Quarantined],
        token: ReplayToken | None,
    ) -> bool:
        """Return when all of it is durable: True, or False where the token had been seen and nothing was kept.

        Raises LogUnavailable or DatabaseUnavailable; then nothing is remembered, and sending again is safe.
        """
        parcel = _Parcel(account, raw, events, quarantined, token)
        self._waiting.append(parcel)
        if self._is_worth_a_transaction(self._workers):
            self._workers += 1
            task = asyncio.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await parcel.kept

    def _is_worth_a_transaction(self, others: int) -> bool:
        """Tell whether what waits is to go now, beside `others` that are on their way."""
        return len(self._waiting) >= (MANY if others else 1) and others < TRANSACTIONS

    async def _work(self) -> None:
        try:
            while self._is_worth_a_transaction(self._workers - 1):
                batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                await self._deliver(batch)
        finally:
            # Nothing can come between the last look and this. What waits still, another that works takes.
            self._workers -= 1

    async def _deliver(self, batch: Sequence[_Parcel]) -> None:
        try:
            kept = await self._together(batch)
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, Retryable):
                # One of them breaks it, and the others have nothing to do with that.
                for one in batch:
                    await self._deliver([one])
                return
            for one in batch:
                if not one.kept.done():
                    one.kept.set_exception(error)
            return
        for one in batch:
            if not one.kept.done():
                one.kept.set_result(one in kept)

    async def _together(self, batch: Sequence[_Parcel]) -> set[_Parcel]:
        async with transaction(self._pool) as connection:
            kept = await _not_seen(connection, batch)
            for parcel in kept:
                for part in parcel.quarantined:
                    await keep(connection, part, parcel.raw, parcel.account)
            await self._append([event for parcel in kept for event in parcel.events])
        return set(kept)


async def _not_seen(connection: asyncpg.Connection, batch: Sequence[_Parcel]) -> list[_Parcel]:
    """Remember the tokens; return what has none, or the first with one that is new."""
    first: dict[tuple[str, str, str, bytes], tuple[_Parcel, ReplayToken]] = {}
    for parcel in batch:
        if parcel.token is not None and (row := parcel.row) is not None:
            first.setdefault(row, (parcel, parcel.token))
    new: set[_Parcel] = set()
    if first:
        ttls = [float(token.ttl_s) for _, token in first.values()]
        now = max(parcel.raw.received_at for parcel in batch)
        columns = [list(column) for column in zip(*first, strict=True)]
        rows = await connection.fetch(REMEMBER, *columns, now, ttls)
        new = {first[tuple(row)][0] for row in rows}
    return [parcel for parcel in batch if parcel.token is None or parcel in new]


async def keep(connection: asyncpg.Connection, part: Quarantined, raw: RawRequest, account: Account) -> None:
    """Put one part of a delivery into quarantine with the whole request, once, inside the caller's transaction."""
    headers = tuple(
        (name, value.encode("latin-1", "replace"))
        for name, value in ((":method", raw.method), (":query", raw.query), *raw.headers.items())
        if name not in _CREDENTIALS
    )
    await connection.execute(
        KEEP,
        account.tenant,
        account.source,
        storable_id(clean_text(part.dedupe_key)),
        clean_text(part.reason),
        raw.body,
        encode_headers(headers),
    )
