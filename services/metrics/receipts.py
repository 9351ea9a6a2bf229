"""What a number is made of: one receipt for each unit of its denominator, with the events behind it.

The contributions in the window name their entities; those are read and evaluated once more, this time keeping for each
contribution the entries it came from. So a receipt cannot differ from what was counted without the recount seeing it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from services.metrics.buckets import Dims, Key, Sink
from services.metrics.entities import facts_of
from services.metrics.entries import Entry, instant
from services.metrics.evaluation import AGENT, AGENT_DAY, Ref, agent_and_day, evaluate
from services.metrics.loading import load_entities
from services.metrics.memory import Memory
from services.metrics.reading.answering import reader_of
from services.metrics.reading.money import currency_of
from services.metrics.reading.question import DIMENSIONS, Query
from services.metrics.reading.waiting import lands_within
from services.metrics.work import Work
from shared.events import rfc3339
from shared.log.database import Connection
from shared.problems import Fault, Problem

# Units that are contributions: each cell once.
CELLS = """
SELECT x.kind, x.key, s.name, c.at, d.channel, d.team, d.agent, d.segment, d.language, c.bucket, c.member, c.due,
       sum(c.n)::bigint, sum(c.total), c.entity_id
FROM metrics.contribution AS c
JOIN metrics.series AS s ON s.series_id = c.series_id
JOIN metrics.dims AS d ON d.dims_id = c.dims_id
JOIN metrics.entity AS x ON x.entity_id = c.entity_id
WHERE c.tenant_id = $1 AND s.tenant_id = $1 AND s.name = ANY ($2)
  AND c.at >= $3 AND c.at < $4 AND (NOT c.due OR c.at <= $5)
  AND (c.at, c.entity_id, s.name, c.bucket, c.member) > ($6::bigint, $7::bigint, $8::text, $9::smallint, $10::text)
  {conditions}
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, c.entity_id
HAVING {having}
ORDER BY c.at, c.entity_id, s.name, c.bucket, c.member
LIMIT {limit}
"""

# Units that are members (customers, agents) counted once in the window, or those whose level is up at its end.
MEMBERS = """
SELECT coalesce(nullif(c.member, ''), x.key) COLLATE "C" AS unit, min(x.kind),
       array_agg(DISTINCT x.kind || ':' || x.key)
FROM metrics.contribution AS c
JOIN metrics.series AS s ON s.series_id = c.series_id
JOIN metrics.dims AS d ON d.dims_id = c.dims_id
JOIN metrics.entity AS x ON x.entity_id = c.entity_id
WHERE c.tenant_id = $1 AND s.tenant_id = $1 AND s.name = ANY ($2)
  AND c.at >= $3 AND c.at < $4 AND (NOT c.due OR c.at <= $5) AND coalesce(nullif(c.member, ''), x.key) > $6
  {conditions}
GROUP BY 1
HAVING sum(c.n) > 0
ORDER BY 1
LIMIT {limit}
"""

BEGINNING = -(2**62)
ENTITIES_SHOWN = 50
"""Of how many entities a member's receipt shows events, at most."""

FIRST_CURSOR = (BEGINNING, BEGINNING, "", -32768, "")


@dataclass(frozen=True)
class Units:
    """Where the units of a KPI's denominator are: `kind` is cells, members, open (at the end), base (at the start) or
    within (openings with a threshold)."""

    series: tuple[str, ...]
    kind: str = "cells"
    member: str | None = None
    totals: bool = False
    """Whether cells without n but with a total are units too (amounts of money)."""


def units_of(query: Query) -> Units:
    """Return what a KPI's denominator counts."""
    variant = query.parameters.get("variant")
    kpi = query.definition.id
    if (kpi, variant) in (("resolutions", "distinct"), ("channel_mix_ratio", "distinct")):
        return Units(("resolutions",) if kpi == "resolutions" else ("contact_customers",), "members")
    if kpi == "sla_attainment_ratio":
        return Units((kpi,), member=variant)
    if kpi in _UNITS:
        return _UNITS[kpi]
    if kpi == "cost_to_revenue_ratio":
        return Units((f"revenue:{currency_of(query)}",), totals=True)
    if kpi == "spend_after_ratio":
        return Units((f"spend_after_ratio:unexposed:{currency_of(query)}",), "members")
    if kpi == "mention_ratio":
        return Units((f"mention_ratio:{query.parameters.get('sentiment', 'praise')}",))
    return Units((query.series(),))


_UNITS = {
    "backlog": Units(("backlog",), "open"),
    "arrivals_by_hour": Units(("contacts",)),
    "channel_mix_ratio": Units(("contacts",)),
    "channel_growth_ratio": Units(("contacts",)),
    "reply_within_ratio": Units(("reply_within_ratio",), "within"),
    "escalation_ratio": Units(("escalation_ratio",)),
    "occupancy": Units(("on_queue",)),
    "agent_turnover_ratio": Units(("headcount",), "open"),
    "agent_efficiency": Units(("signed_in",)),
    "system_blocked_ratio": Units(("system_blocked_ratio", "agents_active"), "members"),
    "portal_adoption_ratio": Units(("portal_adoption_ratio", "contact_customers"), "members"),
    "multichannel_3to5_ratio": Units(("contact_customers",), "members"),
    "customer_churn_ratio": Units(("customer_base",), "base"),
    "churn_after_bad_ratio": Units(("churn_after_bad_ratio",), "members"),
    "cost_per_contact": Units(("conversations_opened",)),
    "cost_per_resolution": Units(("standing_resolutions",)),
    "cost_per_minute": Units(("handle_minutes",)),
}


class Unit(NamedTuple):
    """One unit: the entities it comes from, and the contribution it is (or the member it counts)."""

    refs: tuple[Ref, ...]
    key: Key | None
    member: str
    n: int
    total: int
    cursor: list[Any]


async def receipts(connection: Connection, tenant: str, query: Query, limit: int, cursor: str | None) -> dict[str, Any]:
    """Return a page of receipts: `id`, `event_ids`, and where it landed; `next` is null at the end."""
    units = units_of(query)
    after, skip = _decode(cursor)
    members = units.kind in ("members", "open", "base")
    read = _members if members else _cells
    found, more = await read(connection, tenant, query, units, limit, after)
    work = Work(Memory(tenant))
    work.memory.rules = query.rules
    evidence = await _evidence(connection, work, {ref for unit in found for ref in unit.refs})
    lines = [(index, line) for index, unit in enumerate(found) for line in _lines(unit, units, evidence)]
    shown = lines[skip : skip + limit]
    page: dict[str, Any] = {
        "kpi": query.definition.id,
        "version": query.definition.version,
        "receipts": [line for _, line in shown],
        "next": None,
    }
    if shown and (more or len(lines) > skip + limit):
        page["next"] = _encode(_next(found, [index for index, _ in lines], skip + limit, after))
    if query.definition.id.startswith("cost_"):
        page["amounts"] = await _amounts(connection, tenant, query)
    return page


def _conditions(query: Query, units: Units, arguments: list[Any]) -> str:
    filters = dict(query.filters)
    if "from_channel" in query.parameters:
        filters["channel"] = query.parameters["from_channel"]
    if query.definition.id == "mention_ratio":
        filters["family"] = "social"
    if query.definition.id == "channel_mix_ratio":
        filters = {name: value for name, value in filters.items() if name not in ("channel", "family")}
    text = ""
    for name, value in filters.items():
        assert name in DIMENSIONS
        arguments.append(value)
        text += f" AND d.{name} = ${len(arguments)}"
    if units.member is not None:
        arguments.append(units.member)
        text += f" AND c.member = ${len(arguments)}"
    if query.as_of is not None:
        arguments.append(query.as_of)
        text += f" AND c.recorded_at <= ${len(arguments)}"
    return text


async def _cells(
    connection: Connection, tenant: str, query: Query, units: Units, limit: int, after: Sequence[Any] | None
) -> tuple[list[Unit], bool]:
    start = query.start
    if units.kind == "within":
        fetch = reader_of(query).fetches(query)[0]
        start = fetch.edges[0] - (fetch.threshold or 0)
    place: Sequence[Any] = after or FIRST_CURSOR
    found: list[Unit] = []
    while True:
        arguments: list[Any] = [tenant, list(units.series), start, query.end, query.now, *place]
        conditions = _conditions(query, units, arguments)
        having = "sum(c.n) > 0 OR sum(c.total) <> 0" if units.totals else "sum(c.n) > 0"
        sql = CELLS.format(conditions=conditions, having=having, limit=limit + 1)
        rows = await connection.fetch(sql, *arguments)
        for kind, key, series, at, *labels, bucket, member, due, n, total, entity_id in rows:
            if len(found) == limit:
                return found, True
            cell = Key(series, at, Dims(*labels), bucket, member, due)
            place = (at, entity_id, series, bucket, member)
            if units.kind != "within" or lands_within(query, at, member):
                found.append(Unit((Ref(kind, key),), cell, "", n, int(total), list(place)))
        if len(rows) <= limit:
            return found, False


async def _members(
    connection: Connection, tenant: str, query: Query, units: Units, limit: int, after: Sequence[Any] | None
) -> tuple[list[Unit], bool]:
    start, end = {
        "members": (query.start, query.end),
        "open": (BEGINNING, query.end),
        "base": (BEGINNING, query.start),
    }[units.kind]
    arguments: list[Any] = [tenant, list(units.series), start, end, query.now, after[0] if after else ""]
    sql = MEMBERS.format(conditions=_conditions(query, units, arguments), limit=limit + 1)
    rows = await connection.fetch(sql, *arguments)
    found = [
        Unit(tuple(Ref(*name.split(":", 1)) for name in names[:ENTITIES_SHOWN]), None, unit, 1, 0, [unit])
        for unit, _, names in rows[:limit]
    ]
    return found, len(rows) > limit


async def _evidence(connection: Connection, work: Work, refs: Iterable[Ref]) -> dict[Ref, Sink]:
    """Evaluate entities once more, keeping what each contribution is made of."""
    wanted = set(refs)
    await load_entities(connection, work, wanted)
    sinks = {}
    for ref in wanted:
        facts = facts_of(work.memory, ref, work)
        if facts is not None:
            sinks[ref] = evaluate(ref.kind, facts, work.memory.rules, evidence=True)
    return sinks


def _lines(unit: Unit, units: Units, sinks: dict[Ref, Sink]) -> list[dict[str, Any]]:
    entries = [e for ref in unit.refs if ref in sinks for e in _entries_of(unit, units, sinks[ref])]
    first = unit.refs[0]
    if first.kind == AGENT_DAY:
        first = Ref(AGENT, agent_and_day(first)[0])
    base: dict[str, Any] = {"id": unit.member or first.key, "kind": first.kind}
    if unit.key is not None:
        base["at"] = rfc3339(instant(unit.key.at))
    if unit.n > 1 and len(entries) == unit.n:
        return [{**base, "event_ids": [entry.event_id]} for entry in entries]
    if unit.n > 1:
        return [{**base, "event_ids": _ids(entries)} for _ in range(unit.n)]
    return [{**base, "event_ids": _ids(entries)}]


def _entries_of(unit: Unit, units: Units, sink: Sink) -> list[Entry]:
    evidence = sink.evidence or {}
    if unit.key is not None:
        return evidence.get(unit.key, [])
    return [
        entry
        for key, entries in evidence.items()
        if key.series in units.series and (not key.member or key.member == unit.member)
        for entry in entries
    ]


def _ids(entries: Iterable[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.event_id for entry in sorted(entries, key=lambda e: e.order)))


async def _amounts(connection: Connection, tenant: str, query: Query) -> list[dict[str, Any]]:
    """Return the amounts in the numerator of a cost KPI (at most 1,000)."""
    arguments: list[Any] = [
        tenant, [f"cost:{currency_of(query)}"], query.start, query.end, query.now, *FIRST_CURSOR,
    ]  # fmt: skip
    conditions = _conditions(query, Units(()), arguments)
    rows = await connection.fetch(
        CELLS.format(conditions=conditions, having="sum(c.total) <> 0", limit=50_000), *arguments
    )
    totals: dict[Ref, int] = {}
    for row in rows:
        ref = Ref(row[0], row[1])
        totals[ref] = totals.get(ref, 0) + int(row[13])
    work = Work(Memory(tenant))
    chosen = dict(list(totals.items())[:1000])
    sinks = await _evidence(connection, work, chosen)
    shown = []
    for ref, minor in chosen.items():
        evidence = sinks[ref].evidence if ref in sinks else None
        entries = [e for found in (evidence or {}).values() for e in found]
        shown.append({"id": ref.key, "event_ids": _ids(entries), "amount_minor": minor})
    return shown


def _next(found: Sequence[Unit], units: Sequence[int], taken: int, after: Sequence[Any] | None) -> list[Any]:
    """Return the cursor after `taken` lines: the last unit shown whole, and how many lines of the next one were shown.

    `units` says for each line which unit of `found` it is of.
    """
    last = units[taken - 1] if taken <= len(units) else units[-1]
    if taken >= len(units) or units[taken] != last:
        return [*found[last].cursor, 0]
    whole = found[last - 1].cursor if last else list(after or FIRST_CURSOR)
    return [*whole, taken - units.index(last)]


def _encode(place: Sequence[Any]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(list(place))).decode().rstrip("=")


_CURSORS = ([int, int, str, int, str, int], [str, int])


def _decode(cursor: str | None) -> tuple[list[Any] | None, int]:
    """Return where to go on, and how many lines of the first unit there to leave out."""
    if cursor is None:
        return None, 0
    try:
        place = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not isinstance(place, list) or [type(part) for part in place] not in _CURSORS or place[-1] < 0:
            raise ValueError(cursor)
        return place[:-1], place[-1]
    except (ValueError, binascii.Error) as error:
        fault = Fault("#/query/cursor", "is not a cursor that this query gave")
        detail = "the cursor is not valid; leave it out to start again"
        raise Problem(422, "Not valid", detail, errors=[fault]) from error
