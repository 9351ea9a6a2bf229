"""The SQL of deliveries: taken in, leased, settled, replayed, forgotten.

A lane is one customer at one endpoint. Whoever adds to or empties a lane holds its row, so that no delivery is ever
left without a lane: a delivery without one would never be sent.

Everybody locks endpoints first, then deliveries, then lanes, several lanes in the order of their customers: nobody
waits for somebody who waits for them. Whoever takes lanes in hand has them first, and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from services.conversation.reading.shown import SHOWN
from services.conversation.webhooks.retrying import Answer
from shared.log.database import Connection

# So held, an endpoint can be changed but not deleted.
KEEP_ENDPOINTS = """
SELECT endpoint_id FROM conversation.webhook_endpoint WHERE tenant_id = ANY($1::text[])
ORDER BY tenant_id, endpoint_id FOR KEY SHARE
"""
KEEP_ENDPOINT = """
SELECT changed_at FROM conversation.webhook_endpoint WHERE tenant_id = $1 AND endpoint_id = $2 FOR KEY SHARE
"""
OWN_ENDPOINT = """
SELECT changed_at FROM conversation.webhook_endpoint WHERE tenant_id = $1 AND endpoint_id = $2 FOR NO KEY UPDATE
"""

# Taking in ------------------------------------------------------------------------------------------------------------

# Entries that are there. A row that somebody is removing at this moment is not waited for but left out (`held`): both
# sides waiting for each other would be a deadlock. Held rows cannot be removed before this transaction ends, so an
# erasure that deletes entries first and what is told of them afterwards misses nothing.
STANDING = """
SELECT e.entry_id FROM conversation.entry e
JOIN unnest($1::text[], $2::uuid[]) AS w (tenant_id, entry_id) USING (tenant_id, entry_id)
"""
HELD = f"{STANDING} FOR KEY SHARE OF e SKIP LOCKED"

# One of which the topic does not tell all, or too much, as it is here.
WHOLE = f"SELECT {SHOWN} FROM conversation.entry e WHERE e.tenant_id = $1 AND e.entry_id = $2"  # noqa: S608

STANDING_LEAVES = """
SELECT l.leaf_id AS entry_id FROM conversation.leaf l
JOIN unnest($1::text[], $2::uuid[]) AS w (tenant_id, leaf_id) USING (tenant_id, leaf_id)
"""
HELD_LEAVES = f"{STANDING_LEAVES} FOR KEY SHARE OF l SKIP LOCKED"

CUSTOMERS = """
SELECT l.tenant_id, l.leaf_id, l.customer_id FROM conversation.leaf l
JOIN unnest($1::text[], $2::uuid[]) AS w (tenant_id, leaf_id) USING (tenant_id, leaf_id)
"""

CANONICAL = """
SELECT c.tenant_id, c.conversation_id, c.canonical_id FROM conversation.conversation c
JOIN unnest($1::text[], $2::uuid[]) AS w (tenant_id, conversation_id) USING (tenant_id, conversation_id)
"""

ADD_EVENTS = """
INSERT INTO conversation.webhook_event (tenant_id, webhook_id, leaf_id, entry_id, type, body)
SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::bytea[])
ON CONFLICT DO NOTHING
"""

# An endpoint deleted since it was asked gets nothing. The rows come in the order in which they are to be sent.
ADD_DELIVERIES = """
INSERT INTO conversation.webhook_delivery (tenant_id, endpoint_id, webhook_id, customer_id)
SELECT w.tenant_id, w.endpoint_id, w.webhook_id, w.customer_id
FROM unnest($1::text[], $2::uuid[], $3::text[], $4::uuid[])
    WITH ORDINALITY AS w (tenant_id, endpoint_id, webhook_id, customer_id, place)
JOIN conversation.webhook_endpoint p USING (tenant_id, endpoint_id)
ORDER BY w.place
ON CONFLICT DO NOTHING
RETURNING tenant_id, endpoint_id, customer_id
"""

OPEN_LANES = """
INSERT INTO conversation.webhook_lane AS l (tenant_id, endpoint_id, customer_id, due_at)
SELECT DISTINCT tenant_id, endpoint_id, customer_id, now()
FROM unnest($1::text[], $2::uuid[], $3::uuid[]) AS w (tenant_id, endpoint_id, customer_id)
ORDER BY 1, 2, 3
ON CONFLICT (tenant_id, endpoint_id, customer_id) DO UPDATE SET due_at = l.due_at
"""

# What is pending of a leaf goes on in the lane of the customer whose it is now.
MOVE = """
UPDATE conversation.webhook_delivery d SET customer_id = l.customer_id
FROM unnest($1::text[], $2::uuid[]) AS w (tenant_id, leaf_id)
JOIN conversation.leaf l USING (tenant_id, leaf_id)
JOIN conversation.webhook_event e USING (tenant_id, leaf_id)
WHERE d.tenant_id = e.tenant_id AND d.webhook_id = e.webhook_id AND d.state = 'p' AND d.customer_id <> l.customer_id
RETURNING d.tenant_id, d.endpoint_id, d.customer_id
"""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """One event and who is told of it."""

    tenant: str
    webhook_id: str
    leaf_id: UUID
    entry_id: UUID
    type: str
    body: bytes
    customer_id: UUID
    endpoints: Sequence[UUID]


async def keep_endpoints(connection: Connection, tenants: Sequence[str]) -> None:
    """Let nobody delete an endpoint of these tenants before the caller's transaction ends: `take_in` needs it."""
    await connection.execute(KEEP_ENDPOINTS, list(tenants))


async def take_in(connection: Connection, moved: Sequence[tuple[str, UUID]], events: Sequence[NewEvent]) -> None:
    """Let what is pending of the leaves that `moved` (tenant, leaf) follow them to the customers whose they are now.

    And store events with their deliveries, in this order; what is known already stays as it is.
    """
    lanes = list(await connection.fetch(MOVE, *map(list, zip(*moved, strict=True)))) if moved else []
    if events:
        rows = [(e.tenant, e.webhook_id, e.leaf_id, e.entry_id, e.type, e.body) for e in events]
        await connection.execute(ADD_EVENTS, *map(list, zip(*rows, strict=True)))
        deliveries = [(e.tenant, endpoint, e.webhook_id, e.customer_id) for e in events for endpoint in e.endpoints]
        lanes += await connection.fetch(ADD_DELIVERIES, *map(list, zip(*deliveries, strict=True)))
    await _open_lanes(connection, lanes)


async def _open_lanes(connection: Connection, rows: Sequence[tuple[str, UUID, UUID]]) -> None:
    if rows:
        await connection.execute(OPEN_LANES, *map(list, zip(*rows, strict=True)))


# Sending --------------------------------------------------------------------------------------------------------------

_READY = "l.due_at <= now() AND (l.leased_until IS NULL OR l.leased_until <= now())"

WAITING_ENDPOINTS = f"""
SELECT p.tenant_id, p.endpoint_id FROM conversation.webhook_endpoint p
WHERE p.enabled AND (p.paused_until IS NULL OR p.paused_until <= now()) AND p.tenant_id <> ALL($2::text[]) AND EXISTS (
    SELECT FROM conversation.webhook_lane l
    WHERE l.tenant_id = p.tenant_id AND l.endpoint_id = p.endpoint_id AND {_READY})
ORDER BY random() LIMIT $1
"""  # noqa: S608

# One process at a time looks for work at an endpoint, so that what runs there is counted right over all of them.
TAKE_ENDPOINT = """
SELECT name, url, sealed, failures, changed_at,
       (SELECT count(*) FROM conversation.webhook_lane l
        WHERE l.tenant_id = $1 AND l.endpoint_id = $2 AND l.leased_until > now()) AS running
FROM conversation.webhook_endpoint
WHERE tenant_id = $1 AND endpoint_id = $2 AND enabled AND (paused_until IS NULL OR paused_until <= now())
FOR NO KEY UPDATE SKIP LOCKED
"""

_TAKE = f"""
WITH due AS (
    SELECT l.customer_id FROM conversation.webhook_lane l
    WHERE l.tenant_id = $1 AND l.endpoint_id = $2 AND {_READY}
    ORDER BY {{}} LIMIT $3 FOR UPDATE SKIP LOCKED)
UPDATE conversation.webhook_lane l SET lease = $4, leased_until = now() + make_interval(secs => $5)
FROM due WHERE l.tenant_id = $1 AND l.endpoint_id = $2 AND l.customer_id = due.customer_id
RETURNING l.customer_id
"""  # noqa: S608
TAKE_LANES = _TAKE.format("l.due_at")
# Of an endpoint that fails any is tried: whatever it chokes on may stand before all the others.
TAKE_ANY_LANES = _TAKE.format("random()")

FIRST_IN_LANE = """
SELECT lane.customer_id, d.webhook_id, d.attempts, d.last_status, d.leased_until > now() AS busy, e.type, e.body,
       extract(epoch FROM now() - d.created_at)::float8 AS age_s
FROM unnest($3::uuid[]) AS lane (customer_id)
CROSS JOIN LATERAL (
    SELECT * FROM conversation.webhook_delivery d
    WHERE d.tenant_id = $1 AND d.endpoint_id = $2 AND d.customer_id = lane.customer_id AND d.state = 'p'
    ORDER BY d.seq LIMIT 1) d
JOIN conversation.webhook_event e ON e.tenant_id = $1 AND e.webhook_id = d.webhook_id
"""

# What somebody changes at this moment (it moves with its customer, its person is erased) is not waited for: they wait
# for lanes that are held here.
HOLD = """
UPDATE conversation.webhook_delivery SET leased_until = now() + make_interval(secs => $4)
WHERE tenant_id = $1 AND endpoint_id = $2 AND webhook_id = ANY(ARRAY(
    SELECT webhook_id FROM conversation.webhook_delivery
    WHERE tenant_id = $1 AND endpoint_id = $2 AND webhook_id = ANY($3::text[]) FOR NO KEY UPDATE SKIP LOCKED))
RETURNING webhook_id, customer_id, state
"""
LET_GO = """
UPDATE conversation.webhook_delivery SET leased_until = NULL
WHERE tenant_id = $1 AND endpoint_id = $2 AND webhook_id = ANY($3::text[])
"""

# A merge brought a delivery here that is on its way in its former lane, or takes it away just now.
LATER = """
UPDATE conversation.webhook_lane SET lease = NULL, leased_until = NULL, due_at = now() + interval '1 second'
WHERE tenant_id = $1 AND endpoint_id = $2 AND customer_id = ANY($3::uuid[])
"""

DROP_EMPTY_LANES = """
DELETE FROM conversation.webhook_lane l WHERE l.tenant_id = $1 AND l.endpoint_id = $2
AND l.customer_id = ANY($3::uuid[]) AND NOT EXISTS (
    SELECT FROM conversation.webhook_delivery d WHERE d.tenant_id = $1 AND d.endpoint_id = $2
    AND d.customer_id = l.customer_id AND d.state = 'p')
"""


@dataclass(frozen=True, slots=True)
class Due:
    """One delivery in hand. `failures` (the endpoint's in a row) and `last_status` are of before this attempt."""

    tenant: str
    endpoint_id: UUID
    name: str
    url: str
    sealed: bytes
    failures: int
    changed_at: datetime
    customer_id: UUID
    webhook_id: str
    type: str
    body: bytes
    attempts: int
    last_status: int | None
    age_s: float
    lease: UUID


async def waiting_endpoints(connection: Connection, most: int, but: Sequence[str]) -> list[tuple[str, UUID]]:
    """Return endpoints (tenant, id) that may be sent to now and have something due, of all tenants `but` these."""
    return [tuple(row) for row in await connection.fetch(WAITING_ENDPOINTS, most, list(but))]


async def lease(
    connection: Connection, tenant: str, endpoint_id: UUID, at_once: int, most: int, lease_s: float
) -> list[Due]:
    """Take the next deliveries of an endpoint in hand, inside the caller's transaction.

    `at_once` is how many may run there over all processes (one while it fails), `most` how many the caller can take.
    """
    endpoint = await connection.fetchrow(TAKE_ENDPOINT, tenant, endpoint_id)
    if endpoint is None:
        return []
    fails = endpoint["failures"] > 0
    room = min(most, (1 if fails else at_once) - endpoint["running"])
    if room <= 0:
        return []
    token = uuid4()
    rows = await connection.fetch(TAKE_ANY_LANES if fails else TAKE_LANES, tenant, endpoint_id, room, token, lease_s)
    customers = [row["customer_id"] for row in rows]
    if not customers:
        return []
    heads = await connection.fetch(FIRST_IN_LANE, tenant, endpoint_id, customers)
    names = [head["webhook_id"] for head in heads if not head["busy"]]
    held = {(row[0], row[1]): row[2] for row in await connection.fetch(HOLD, tenant, endpoint_id, names, lease_s)}
    mine = [head for head in heads if held.pop((head["webhook_id"], head["customer_id"]), None) == b"p"]
    if held:  # settled or moved to another lane since they were looked for
        await connection.execute(LET_GO, tenant, endpoint_id, [webhook_id for webhook_id, _ in held])
    taken = {head["customer_id"] for head in mine}
    busy = [head["customer_id"] for head in heads if head["customer_id"] not in taken]
    empty = set(customers) - {head["customer_id"] for head in heads}
    if busy:
        await connection.execute(LATER, tenant, endpoint_id, busy)
    if empty:
        await connection.execute(DROP_EMPTY_LANES, tenant, endpoint_id, list(empty))
    return [
        Due(
            tenant, endpoint_id, endpoint["name"], endpoint["url"], endpoint["sealed"], endpoint["failures"],
            endpoint["changed_at"], head["customer_id"], head["webhook_id"], head["type"], head["body"],
            head["attempts"], head["last_status"], head["age_s"], token,
        )
        for head in mine
    ]  # fmt: skip


# A post that was broken off may have arrived: it is repeated under the same id.
GIVE_BACK = """
UPDATE conversation.webhook_delivery d SET leased_until = NULL
FROM unnest($1::text[], $2::uuid[], $3::text[]) AS w (tenant_id, endpoint_id, webhook_id)
WHERE d.tenant_id = w.tenant_id AND d.endpoint_id = w.endpoint_id AND d.webhook_id = w.webhook_id AND d.state = 'p'
"""

GIVE_BACK_LANES = """
UPDATE conversation.webhook_lane l SET lease = NULL, leased_until = NULL
FROM unnest($1::text[], $2::uuid[], $3::uuid[]) AS w (tenant_id, endpoint_id, lease)
WHERE l.tenant_id = w.tenant_id AND l.endpoint_id = w.endpoint_id AND l.lease = w.lease
"""


async def give_back(connection: Connection, held: Sequence[Due]) -> None:
    """Let others take at once what is in hand and not settled, inside the caller's transaction."""
    await keep_endpoints(connection, sorted({due.tenant for due in held}))
    key = [due.tenant for due in held], [due.endpoint_id for due in held]
    await connection.execute(GIVE_BACK, *key, [due.webhook_id for due in held])
    await connection.execute(GIVE_BACK_LANES, *key, [due.lease for due in held])


# Settling -------------------------------------------------------------------------------------------------------------

SETTLE = """
UPDATE conversation.webhook_delivery SET
    state = $4, attempts = attempts + $5, last_status = $6, last_error = $7, leased_until = NULL,
    settled_at = CASE WHEN $4 = 'p'::"char" THEN NULL ELSE now() END
WHERE tenant_id = $1 AND endpoint_id = $2 AND webhook_id = $3 AND state = 'p'
RETURNING customer_id
"""

ADD_ATTEMPT = """
INSERT INTO conversation.webhook_attempt (tenant_id, endpoint_id, webhook_id, status, error, duration_ms, excerpt)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""

FREE_LANE = """
UPDATE conversation.webhook_lane SET lease = NULL, leased_until = NULL, due_at = now() + make_interval(secs => $4)
WHERE tenant_id = $1 AND endpoint_id = $2 AND customer_id = $3 AND ($5::uuid IS NULL OR lease = $5)
RETURNING customer_id
"""

# What fails at the same time is one failure: eight posts that a restart breaks off are no run of eight.
FAILED = """
UPDATE conversation.webhook_endpoint SET
    failures = greatest(failures, $6), last_error = $3,
    paused_until = CASE WHEN $4::float8 IS NULL THEN paused_until ELSE now() + make_interval(secs => $4) END,
    enabled = enabled AND NOT $5, disabled_reason = CASE WHEN $5 THEN $3 ELSE disabled_reason END
WHERE tenant_id = $1 AND endpoint_id = $2
"""

WORKS = """
UPDATE conversation.webhook_endpoint e SET failures = 0, paused_until = NULL, last_error = NULL
FROM (SELECT paused_until FROM conversation.webhook_endpoint WHERE tenant_id = $1 AND endpoint_id = $2) AS before
WHERE e.tenant_id = $1 AND e.endpoint_id = $2 AND e.failures > 0
RETURNING before.paused_until IS NOT NULL AS was_paused
"""

EVERYTHING_NOW = """
WITH held AS (
    SELECT customer_id FROM conversation.webhook_lane
    WHERE tenant_id = $1 AND endpoint_id = $2 AND due_at > now() AND leased_until IS NULL
    ORDER BY customer_id FOR UPDATE)
UPDATE conversation.webhook_lane l SET due_at = now()
FROM held WHERE l.tenant_id = $1 AND l.endpoint_id = $2 AND l.customer_id = held.customer_id
"""


@dataclass(frozen=True, slots=True)
class Settled:
    """What becomes of a delivery after an attempt."""

    state: str
    """`d` delivered, `x` dead letter, `p` to be tried again after `again_s` seconds."""
    again_s: float = 0.0
    reason: str | None = None
    pause_s: float | None = None
    """For how long the endpoint is left alone; None: not at all."""
    blamed: bool = True
    """Whether a failure is one of the endpoint."""
    counted: bool = True
    """Whether the attempt is one of those that the delivery has."""
    gone: bool = False
    """The endpoint wants no more: it is disabled."""


async def settle(connection: Connection, due: Due, answer: Answer, settled: Settled) -> None:
    """Store what an attempt came to, inside the caller's transaction. What was erased meanwhile stays erased."""
    changes_endpoint = settled.state != "d" or due.failures > 0
    lock = OWN_ENDPOINT if changes_endpoint else KEEP_ENDPOINT
    changed_at = await connection.fetchval(lock, due.tenant, due.endpoint_id)
    if changed_at is None:
        return
    as_it_was = changed_at == due.changed_at
    if settled.state != "d" and not as_it_was:
        # It was moved, repaired or given another secret meanwhile: what failed before that is due again at once.
        settled = Settled("p", reason=settled.reason, counted=False)
    key = (due.tenant, due.endpoint_id, due.webhook_id)
    now_of = await connection.fetchval(
        SETTLE, *key, settled.state.encode(), int(settled.counted), answer.status, settled.reason
    )
    if now_of is not None:
        await connection.execute(ADD_ATTEMPT, *key, answer.status, settled.reason, answer.duration_ms, answer.excerpt)
    endpoint = (due.tenant, due.endpoint_id)
    # Where it moved meanwhile, what was held back in its new lane is free as well.
    leases = {due.customer_id: due.lease} | ({now_of: None} if now_of not in (None, due.customer_id) else {})
    freed = [
        await connection.fetchval(FREE_LANE, *endpoint, one, settled.again_s, leases[one]) for one in sorted(leases)
    ]
    await connection.execute(DROP_EMPTY_LANES, *endpoint, [one for one in freed if one is not None])
    if not as_it_was:
        return
    if settled.state != "d":
        failures = due.failures + settled.blamed
        await connection.execute(FAILED, *endpoint, settled.reason, settled.pause_s, settled.gone, failures)
    elif due.failures and await connection.fetchval(WORKS, *endpoint):
        await connection.execute(EVERYTHING_NOW, *endpoint)


# Looking after --------------------------------------------------------------------------------------------------------

REPLAY = """
UPDATE conversation.webhook_delivery d SET
    state = 'p', attempts = 0, settled_at = NULL, leased_until = NULL,
    customer_id = coalesce((
        SELECT l.customer_id FROM conversation.webhook_event e
        JOIN conversation.leaf l ON l.tenant_id = e.tenant_id AND l.leaf_id = e.leaf_id
        WHERE e.tenant_id = d.tenant_id AND e.webhook_id = d.webhook_id), d.customer_id)
WHERE d.tenant_id = $1 AND d.endpoint_id = $2 AND d.state = 'x'
AND ($3::text[] IS NULL OR d.webhook_id = ANY($3)) AND ($4::timestamptz IS NULL OR d.settled_at >= $4)
RETURNING d.tenant_id, d.endpoint_id, d.customer_id
"""

FORGET = """
DELETE FROM conversation.webhook_event e USING (
    SELECT tenant_id, webhook_id FROM conversation.webhook_event
    WHERE created_at < now() - make_interval(secs => $1) LIMIT 5000) AS old
WHERE e.tenant_id = old.tenant_id AND e.webhook_id = old.webhook_id
"""

# Over all tenants, because every tenant's key sees a process's own metrics. Counts stop at a million each.
BACKLOG = """
SELECT coalesce(sum(pending), 0)::bigint AS pending, coalesce(sum(dead), 0)::bigint AS dead,
       coalesce(max(oldest_due_s), 0)::float8 AS oldest_due_s, count(*) FILTER (WHERE NOT enabled) AS disabled
FROM (
    SELECT p.enabled,
        (SELECT count(*) FROM (SELECT FROM conversation.webhook_delivery d WHERE d.tenant_id = p.tenant_id
            AND d.endpoint_id = p.endpoint_id AND d.state = 'p' LIMIT 1000000) AS counted) AS pending,
        (SELECT count(*) FROM (SELECT FROM conversation.webhook_delivery d WHERE d.tenant_id = p.tenant_id
            AND d.endpoint_id = p.endpoint_id AND d.state = 'x' LIMIT 1000000) AS counted) AS dead,
        (SELECT extract(epoch FROM now() - min(l.due_at)) FROM conversation.webhook_lane l
            WHERE p.enabled AND l.tenant_id = p.tenant_id AND l.endpoint_id = p.endpoint_id AND l.due_at <= now()
            AND (l.leased_until IS NULL OR l.leased_until <= now())) AS oldest_due_s
    FROM conversation.webhook_endpoint p) AS one
"""


async def replay(
    connection: Connection, tenant: str, endpoint_id: UUID, ids: Sequence[str] | None, since: datetime | None
) -> int:
    """Make dead letters pending again, those of `ids` or those that died at `since` or later; return how many."""
    await connection.execute(KEEP_ENDPOINT, tenant, endpoint_id)
    rows = await connection.fetch(REPLAY, tenant, endpoint_id, list(ids) if ids is not None else None, since)
    await _open_lanes(connection, rows)
    return len(rows)


async def forget(connection: Connection, older_than_s: float) -> bool:
    """Delete some events of that age with all their deliveries; return whether there may be more."""
    done: str = await connection.execute(FORGET, older_than_s)
    return not done.endswith(" 0")
