"""The SQL of the metrics service: one statement per concern and batch, whatever the batch's size and tenants.

Pairs of arrays ($1 tenants, $2 keys) name what a statement is about. All run inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from services.metrics.buckets import Contributions, Dims, Key
from services.metrics.entries import Entry, instant, micros, unpack
from services.metrics.evaluation import Ref
from shared.events import family_of
from shared.log.database import Connection

# One writer per tenant at a time; the order of locking is the same for everybody, so there is no deadlock.
LOCK = """
SELECT pg_advisory_xact_lock(hashtextextended('metrics:' || t.tenant_id, 0))
FROM (SELECT DISTINCT unnest($1::text[]) COLLATE "C" AS tenant_id ORDER BY 1) AS t
"""

# The token of the batch before: whoever wrote it may trust what it remembers; from when on no day is packed; and when
# what was counted last was recorded.
CLAIM = """
WITH before AS (SELECT tenant_id, token, packed_until, recorded_at FROM metrics.tenant WHERE tenant_id = ANY ($1)),
claimed AS (
    INSERT INTO metrics.tenant AS t (tenant_id, token) SELECT unnest($1::text[]), $2
    ON CONFLICT (tenant_id) DO UPDATE SET token = $2
)
SELECT tenant_id, token, packed_until, recorded_at FROM before
"""

STORED = """
SELECT e.tenant_id, e.entry_id::text, e.version, e.body
FROM unnest(string_to_array($1, E'\\x1f'), string_to_array($2, ',')::uuid[])
    AS k(tenant_id, entry_id) JOIN metrics.entry AS e USING (tenant_id, entry_id)
"""

LEAVES = """
SELECT l.tenant_id, l.leaf_id::text, l.customer_id::text, l.version
FROM unnest(string_to_array($1, E'\\x1f'), string_to_array($2, ',')::uuid[])
    AS k(tenant_id, leaf_id) JOIN metrics.leaf AS l USING (tenant_id, leaf_id)
"""

CONVERSATIONS = """
SELECT c.tenant_id, c.conversation_id::text, c.canonical_id::text, c.version
FROM unnest(string_to_array($1, E'\\x1f'), string_to_array($2, ',')::uuid[])
    AS k(tenant_id, conversation_id)
JOIN metrics.conversation AS c USING (tenant_id, conversation_id)
"""

LEAVES_OF_CUSTOMERS = """
SELECT l.tenant_id, l.customer_id::text, l.leaf_id::text
FROM unnest(string_to_array($1, E'\\x1f'), string_to_array($2, ',')::uuid[])
    AS k(tenant_id, customer_id) JOIN metrics.leaf AS l USING (tenant_id, customer_id)
"""

MEMBERS_OF_CONVERSATIONS = """
SELECT c.tenant_id, c.canonical_id::text, c.conversation_id::text
FROM unnest(string_to_array($1, E'\\x1f'), string_to_array($2, ',')::uuid[])
    AS k(tenant_id, canonical_id)
JOIN metrics.conversation AS c USING (tenant_id, canonical_id)
"""

ENTRIES_OF_CONVERSATIONS = """
SELECT e.tenant_id, e.body
FROM unnest(string_to_array($1, E'\\x1f'), string_to_array($2, ',')::uuid[])
    AS k(tenant_id, conversation_id)
JOIN metrics.entry AS e USING (tenant_id, conversation_id)
WHERE e.body IS NOT NULL
"""

CONVERSATIONS_OF_LEAVES = """
SELECT e.tenant_id, e.leaf_id::text, e.conversation_id::text, count(*) AS entries
FROM unnest(string_to_array($1, E'\\x1f'), string_to_array($2, ',')::uuid[])
    AS k(tenant_id, leaf_id) JOIN metrics.entry AS e USING (tenant_id, leaf_id)
WHERE e.conversation_id IS NOT NULL AND e.body IS NOT NULL
GROUP BY 1, 2, 3
"""

STRAYS_OF_LEAVES = """
SELECT e.tenant_id, e.body
FROM unnest(string_to_array($1, E'\\x1f'), string_to_array($2, ',')::uuid[])
    AS k(tenant_id, leaf_id) JOIN metrics.entry AS e USING (tenant_id, leaf_id)
WHERE e.conversation_id IS NULL AND e.body IS NOT NULL
"""

ENTRIES_OF_PARTS = """
SELECT e.tenant_id, e.body
FROM unnest($1::text[], $2::text[]) AS k(tenant_id, part_of) JOIN metrics.entry AS e USING (tenant_id, part_of)
WHERE e.body IS NOT NULL
"""

# An agent's days begin with their name and a tab; a name may hold tabs itself.
DAYS_OF_AGENTS = """
SELECT DISTINCT e.part_of
FROM unnest($1::text[], $2::text[]) AS k(tenant_id, agent)
JOIN metrics.entry AS e ON e.tenant_id = k.tenant_id
    AND e.part_of >= 'agent_day:' || k.agent || E'\\t' AND e.part_of < 'agent_day:' || k.agent || E'\\n'
WHERE regexp_replace(e.part_of, E'\\t[^\\t]*$', '') = 'agent_day:' || k.agent
"""

# What an entity contributes now: the sum of all its changes.
CONTRIBUTIONS = """
SELECT x.tenant_id, x.kind, x.key, x.entity_id, s.name, c.at, d.channel, d.team, d.agent, d.segment, d.language,
       c.bucket, c.member, c.due, c.n, c.total
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(tenant_id, kind, key)
JOIN metrics.entity AS x USING (tenant_id, kind, key)
LEFT JOIN LATERAL (
    SELECT series_id, at, dims_id, bucket, member, due, sum(n)::bigint AS n, sum(total)::bigint AS total
    FROM metrics.contribution AS c
    WHERE c.tenant_id = x.tenant_id AND c.entity_id = x.entity_id
    GROUP BY 1, 2, 3, 4, 5, 6
    HAVING sum(n) <> 0 OR sum(total) <> 0
) AS c ON true
LEFT JOIN metrics.series AS s ON s.series_id = c.series_id
LEFT JOIN metrics.dims AS d ON d.dims_id = c.dims_id
"""

PUT_ENTRIES = """
INSERT INTO metrics.entry AS e (tenant_id, entry_id, version, leaf_id, conversation_id, part_of, body)
SELECT * FROM unnest(
    string_to_array($1, E'\\x1f'), string_to_array($2, ',')::uuid[], string_to_array($3, ',')::bigint[],
    string_to_array($4, ',', '')::uuid[], string_to_array($5, ',', '')::uuid[], $6::text[], $7::bytea[])
ON CONFLICT (tenant_id, entry_id) DO UPDATE
SET version = excluded.version, leaf_id = excluded.leaf_id, conversation_id = excluded.conversation_id,
    part_of = excluded.part_of, body = excluded.body
WHERE e.version < excluded.version
"""

PUT_LEAVES = """
INSERT INTO metrics.leaf AS l (tenant_id, leaf_id, version, customer_id)
SELECT * FROM unnest(
    string_to_array($1, E'\\x1f'), string_to_array($2, ',')::uuid[], string_to_array($3, ',')::bigint[],
    string_to_array($4, ',')::uuid[])
ON CONFLICT (tenant_id, leaf_id) DO UPDATE SET version = excluded.version, customer_id = excluded.customer_id
WHERE l.version < excluded.version
"""

PUT_CONVERSATIONS = """
INSERT INTO metrics.conversation AS c (tenant_id, conversation_id, version, canonical_id)
SELECT * FROM unnest(
    string_to_array($1, E'\\x1f'), string_to_array($2, ',')::uuid[], string_to_array($3, ',')::bigint[],
    string_to_array($4, ',')::uuid[])
ON CONFLICT (tenant_id, conversation_id) DO UPDATE
SET version = excluded.version, canonical_id = excluded.canonical_id
WHERE c.version < excluded.version
"""

# A name that is there already keeps its number.
NAME_ENTITIES = """
INSERT INTO metrics.entity (tenant_id, kind, key) SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
ON CONFLICT (tenant_id, kind, key) DO UPDATE SET kind = excluded.kind
RETURNING tenant_id, kind, key, entity_id
"""

# What they contributed at which time stays as it was.
FORGET_NAMES = """
UPDATE metrics.entity x SET key = 'erased:' || x.entity_id
FROM unnest($2::text[], $3::text[], $4::text[]) AS p (part_of, kind, key)
WHERE x.tenant_id = $1 AND x.kind = p.kind AND x.key = p.key
    AND NOT EXISTS (SELECT FROM metrics.entry e WHERE e.tenant_id = $1 AND e.part_of = p.part_of AND e.body IS NOT NULL)
"""

NAME_SERIES = """
INSERT INTO metrics.series (tenant_id, name) SELECT * FROM unnest($1::text[], $2::text[])
ON CONFLICT (tenant_id, name) DO UPDATE SET name = excluded.name
RETURNING tenant_id, name, series_id
"""

NAME_DIMS = """
INSERT INTO metrics.dims (tenant_id, channel, family, team, agent, segment, language)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
ON CONFLICT (tenant_id, channel, team, agent, segment, language) DO UPDATE SET family = excluded.family
RETURNING tenant_id, channel, team, agent, segment, language, dims_id
"""

ADD_ROLLUP = """
INSERT INTO metrics.rollup AS r (tenant_id, series_id, hour, channel, bucket, n, total)
SELECT * FROM unnest(
    string_to_array($1, E'\\x1f'), string_to_array($2, ',')::integer[], string_to_array($3, ',')::integer[],
    $4::text[], string_to_array($5, ',')::smallint[], string_to_array($6, ',')::bigint[],
    string_to_array($7, ',')::numeric[])
ON CONFLICT (tenant_id, series_id, hour, channel, bucket)
DO UPDATE SET n = r.n + excluded.n, total = r.total + excluded.total
"""

# A day is at most 25 hours long.
DROP_DAYS = """
DELETE FROM metrics.day AS d
USING unnest(string_to_array($1, E'\\x1f'), string_to_array($2, ',')::integer[], string_to_array($3, ',')::bigint[])
    AS k(tenant_id, series_id, at)
WHERE d.tenant_id = k.tenant_id AND d.series_id = k.series_id
  AND d.starts > k.at - 90000000000 AND d.starts < k.at + 3600000000 AND d.ends > k.at
"""

UNPACKED = """
UPDATE metrics.tenant AS t SET packed_to = least(t.packed_to, k.at)
FROM unnest($1::text[], $2::bigint[]) AS k(tenant_id, at) WHERE t.tenant_id = k.tenant_id
"""

ADD_ARRIVALS = """
INSERT INTO metrics.arrival AS a (tenant_id, kpi, channel, bucket, n, total)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::bigint[], $6::bigint[])
ON CONFLICT (tenant_id, kpi, channel, bucket) DO UPDATE SET n = a.n + excluded.n, total = a.total + excluded.total
"""

ADD_CORRECTIONS = """
INSERT INTO metrics.correction AS c (tenant_id, kpi, reason, n)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
ON CONFLICT (tenant_id, kpi, reason) DO UPDATE SET n = c.n + excluded.n
"""

SEEN = """
UPDATE metrics.tenant AS t
SET latest_at = greatest(t.latest_at, k.latest_at), recorded_at = greatest(t.recorded_at, k.recorded_at),
    late = t.late + (
        SELECT count(*) FROM unnest($4::text[], $5::timestamptz[]) AS o(tenant_id, at)
        WHERE o.tenant_id = t.tenant_id AND o.at < t.latest_at - interval '35 days'
    )
FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS k(tenant_id, latest_at, recorded_at)
WHERE t.tenant_id = k.tenant_id
"""

SEPARATOR = "\x1f"

COLUMNS = (
    "tenant_id", "series_id", "at", "dims_id", "entity_id", "n", "total", "recorded_at", "bucket", "due", "member",
)  # fmt: skip


class Stored(NamedTuple):
    """An entry as stored: its version, and the entry, None where it is gone."""

    version: int
    entry: Entry | None


Pairs = Iterable[tuple[str, str]]
"""(tenant, key)"""


def _columns(pairs: Pairs) -> tuple[list[str], list[str]]:
    found = list(pairs)
    return [tenant for tenant, _ in found], [key for _, key in found]


def _ids(pairs: Pairs) -> tuple[str, str]:
    """Return tenants and uuids, each as one text: the driver looks at every element of an array, at some cost."""
    tenants, keys = _columns(pairs)
    return SEPARATOR.join(tenants), ",".join(keys)


async def lock(connection: Connection, tenants: Sequence[str]) -> None:
    """Wait until no other transaction writes to these tenants."""
    await connection.fetch(LOCK, tenants)


class Claimed(NamedTuple):
    """What stood of a tenant before it was claimed."""

    token: UUID | None = None
    packed_until: int | None = None
    """The instant in µs from which on no day is packed."""
    recorded: int = 0
    """When the newest of what is counted was recorded, in µs."""


async def claim(connection: Connection, tenants: Sequence[str], token: UUID) -> dict[str, Claimed]:
    """Write our token; return what stood before of those tenants that there were."""
    return {
        tenant: Claimed(before, until, micros(recorded) if recorded else 0)
        for tenant, before, until, recorded in await connection.fetch(CLAIM, tenants, token)
    }


async def stored(connection: Connection, ids: Pairs) -> dict[tuple[str, str], Stored]:
    """Return the entries that are stored already."""
    return {
        (tenant, entry_id): Stored(version, None if body is None else unpack(orjson.loads(body)))
        for tenant, entry_id, version, body in await connection.fetch(STORED, *_ids(ids))
    }


async def forget_names(connection: Connection, tenant: str, parts: Mapping[str, Ref]) -> None:
    """Take the names of entities that no entry is part of any more out of the tables; `parts` by `part_of`."""
    kinds, keys = [ref.kind for ref in parts.values()], [ref.key for ref in parts.values()]
    await connection.execute(FORGET_NAMES, tenant, list(parts), kinds, keys)


async def pointers(connection: Connection, statement: str, keys: Pairs) -> dict[tuple[str, str], tuple[str, int]]:
    """Return where leaves or conversations point, with the version (`statement` is LEAVES or CONVERSATIONS)."""
    rows = await connection.fetch(statement, *_ids(keys))
    return {(tenant, key): (target, version) for tenant, key, target, version in rows}


async def members(connection: Connection, statement: str, keys: Pairs) -> dict[tuple[str, str], set[str]]:
    """Return what points at customers or canonical conversations (LEAVES_OF_… or MEMBERS_OF_…)."""
    found: dict[tuple[str, str], set[str]] = {}
    for tenant, target, key in await connection.fetch(statement, *_ids(keys)):
        found.setdefault((tenant, target), set()).add(key)
    return found


async def entries(connection: Connection, statement: str, keys: Pairs) -> list[tuple[str, Entry]]:
    """Return (tenant, entry) of conversations, leaves or parts, as `statement` says."""
    arguments = _columns(keys) if statement is ENTRIES_OF_PARTS else _ids(keys)
    rows = await connection.fetch(statement, *arguments)
    return [(tenant, unpack(orjson.loads(body))) for tenant, body in rows]


async def days_of_agents(connection: Connection, agents: Pairs) -> list[str]:
    """Return how the parts that are the days of these agents are named."""
    pairs = list(agents)
    return [row[0] for row in await connection.fetch(DAYS_OF_AGENTS, *_columns(pairs))] if pairs else []


async def conversations_of_leaves(connection: Connection, keys: Pairs) -> dict[tuple[str, str], dict[str, int]]:
    """Return (tenant, leaf) → conversations with the number of its entries in them."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for tenant, leaf, conversation, count in await connection.fetch(CONVERSATIONS_OF_LEAVES, *_ids(keys)):
        found.setdefault((tenant, leaf), {})[conversation] = count
    return found


async def contributions(
    connection: Connection, refs: Iterable[tuple[str, Ref]]
) -> dict[tuple[str, Ref], tuple[int, Contributions]]:
    """Return (tenant, entity) → (its number, what it contributes); only of those that have a number."""
    wanted = list(refs)
    arguments = ([t for t, _ in wanted], [r.kind for _, r in wanted], [r.key for _, r in wanted])
    found: dict[tuple[str, Ref], tuple[int, Contributions]] = {}
    dims: dict[tuple[Any, ...], Dims] = {}
    for row in await connection.fetch(CONTRIBUTIONS, *arguments):
        tenant, kind, key, entity_id, series, at, *labels, bucket, member, due, n, total = row
        cells = found.setdefault((tenant, Ref(kind, key)), (entity_id, {}))[1]
        if series is not None:
            place = dims.setdefault(tuple(labels), Dims(*labels))
            cells[Key(series, at, place, bucket, member, due)] = (n, total)
    return found


async def put_entries(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Store (tenant, id, version, leaf, conversation, part, body); an older version changes nothing."""
    tenants, ids, versions, leaves, conversations, parts, bodies = zip(*rows, strict=True)
    texts = SEPARATOR.join(tenants), ",".join(ids), ",".join(map(str, versions))
    pointers = ",".join(leaf or "" for leaf in leaves), ",".join(c or "" for c in conversations)
    await connection.execute(PUT_ENTRIES, *texts, *pointers, parts, bodies)


async def put_pointers(connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Store (tenant, key, version, target) of leaves or conversations."""
    tenants, keys, versions, targets = zip(*rows, strict=True)
    texts = SEPARATOR.join(tenants), ",".join(keys), ",".join(map(str, versions)), ",".join(targets)
    await connection.execute(statement, *texts)


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


async def name_entities(connection: Connection, refs: Sequence[tuple[str, Ref]]) -> dict[tuple[str, Ref], int]:
    """Give entities their numbers."""
    arguments = ([t for t, _ in refs], [r.kind for _, r in refs], [r.key for _, r in refs])
    rows = await connection.fetch(NAME_ENTITIES, *arguments)
    return {(tenant, Ref(kind, key)): entity_id for tenant, kind, key, entity_id in rows}


async def name_series(connection: Connection, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Give series their numbers."""
    rows = await connection.fetch(NAME_SERIES, *_columns(names))
    return {(tenant, name): series_id for tenant, name, series_id in rows}


async def name_dims(connection: Connection, places: Sequence[tuple[str, Dims]]) -> dict[tuple[str, Dims], int]:
    """Give combinations of dimensions their numbers."""
    rows = [(t, d.channel, family_of(d.channel), d.team, d.agent, d.segment, d.language) for t, d in places]
    found = await connection.fetch(NAME_DIMS, *_transposed(rows, 7))
    return {(row[0], Dims(*row[1:6])): row[6] for row in found}


async def add_contributions(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Append changes (COLUMNS)."""
    await connection.copy_records_to_table(
        "contribution", schema_name="metrics", columns=COLUMNS, records=rows, timeout=None
    )


async def add_rollup(connection: Connection, cells: Mapping[tuple[str, int, int, str, int], tuple[int, int]]) -> None:
    """Add (tenant, series, hour, channel, bucket) → (n, total) to the sums by hour."""
    rows = sorted((place, cell) for place, cell in cells.items() if cell != (0, 0))
    if not rows:
        return
    tenants, series, hours, channels, buckets = zip(*(place for place, _ in rows), strict=True)
    numbers, totals = zip(*(cell for _, cell in rows), strict=True)
    await connection.execute(
        ADD_ROLLUP, SEPARATOR.join(tenants), _joined(series), _joined(hours), channels, _joined(buckets),
        _joined(numbers), _joined(totals),
    )  # fmt: skip


async def drop_days(connection: Connection, hours: Iterable[tuple[str, int, int]]) -> None:
    """Take away the packed days in which any of these hours (tenant, series, instant in µs) lies."""
    rows = sorted(set(hours))
    if not rows:
        return
    tenants, series, instants = zip(*rows, strict=True)
    await connection.execute(DROP_DAYS, SEPARATOR.join(tenants), _joined(series), _joined(instants))
    first: dict[str, int] = {}
    for tenant, _, at in rows:
        first[tenant] = min(at, first.get(tenant, at))
    await connection.execute(UNPACKED, list(first), list(first.values()))


def _joined(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


async def add(connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]], width: int) -> None:
    """Add to counters (ADD_ARRIVALS, ADD_CORRECTIONS)."""
    await connection.execute(statement, *_transposed(rows, width))


async def seen(
    connection: Connection, latest: Mapping[str, tuple[int, int]], oldest: Sequence[tuple[str, int]]
) -> None:
    """Move the tenants' event-time watermark and the newest recording forward.

    `oldest` are (tenant, instant) of entries that may be late: those 35 days behind the watermark before are counted.
    """
    tenants = list(latest)
    occurred, recorded = [instant(latest[t][0]) for t in tenants], [instant(latest[t][1]) for t in tenants]
    late = ([t for t, _ in oldest], [instant(at) for _, at in oldest])
    await connection.execute(SEEN, tenants, occurred, recorded, *late)
