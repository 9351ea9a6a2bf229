"""The worked example as timeline entries, and contributions read from memory, for tests of KPIs."""

from __future__ import annotations

import json
import uuid
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from services.metrics.buckets import Contributions
from services.metrics.entries import Entry, compact, micros
from services.metrics.evaluation import Ref, Timeline, recount
from services.metrics.kpis import BY_ID
from services.metrics.reading.answering import Answer, answer, reader_of
from services.metrics.reading.cells import Row
from services.metrics.reading.question import Fetch, Query
from services.metrics.windows import edges
from shared.business import Rules, Schedule
from shared.events import TYPE_PREFIX, TimelineRecord, family_of

EXAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "kpis"

ZONE = ZoneInfo("Europe/Amsterdam")
OFFICE = {day: [("09:00", "17:00")] for day in ("mon", "tue", "wed", "thu", "fri")}
OFFICE_RULES = Rules((Schedule(0, "Europe/Amsterdam", OFFICE),))

_ACTORS = {"human": "agent", "auto": "automated", "bot": "bot", "customer": "customer"}
_ENVELOPE = frozenset(
    {"event_id", "type", "tenant_id", "customer_id", "conversation_id", "channel", "contact_id", "occurred_at",
     "recorded_at", "source", "schema_version", "actor", "topic", "agent_id", "team_id", "language"}
)  # fmt: skip


def uid(name: str) -> str:
    """Return the uuid that stands for `name` in tests."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def posted(name: str) -> list[dict[str, Any]]:
    """Return the lines of a file of the worked example."""
    return [json.loads(line) for line in (EXAMPLE / name).read_text().splitlines()]


def entry_body(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the timeline entry that an event of `events.jsonl` is."""
    data = {name: value for name, value in event.items() if name not in _ENVELOPE}
    kind = _ACTORS.get(event.get("actor", ""))
    if kind is None and "agent_id" in event:
        kind = "agent"
    actor = {"type": kind, "id": event.get("agent_id"), "name": None, "team": event.get("team_id")} if kind else None
    conversation = event.get("conversation_id")
    return {
        "id": uid(f"entry {event['event_id']}"),
        "event_id": event["event_id"],
        "source": event["source"],
        "type": TYPE_PREFIX + event["type"],
        "occurred_at": event["occurred_at"],
        "received_at": event["recorded_at"],
        "recorded_at": event["recorded_at"],
        "channel": event.get("channel"),
        "family": family_of(event.get("channel")),
        "contact_id": event.get("contact_id"),
        "conversation_id": uid(f"conversation {conversation}") if conversation else None,
        "leaf_id": uid(f"leaf {event['customer_id']}") if event.get("customer_id") else None,
        "direction": "in",
        "automatic": kind == "automated",
        "actor": actor,
        "topic": event.get("topic"),
        "language": event.get("language"),
        "subject": None,
        "data": data,
        "stitched": {"rule": 0, "key": None},
    }


def records_of(event: Mapping[str, Any], tenant: str, version: int) -> list[TimelineRecord]:
    """Return the timeline records that an event of `events.jsonl` leads to."""
    at = datetime.fromisoformat(event["recorded_at"])
    if event["type"] == "customer.merged":
        body = {"customer_id": uid(f"customer {event['to']}"), "kind": "phone", "value": "+31"}
        return [TimelineRecord(tenant, "leaf", uid(f"leaf {event['from']}"), version, body, recorded_at=at)]
    body = entry_body(event)
    records = [TimelineRecord(tenant, "entry", body["id"], version, body, recorded_at=at)]
    if body["leaf_id"] is not None:
        leaf = {"customer_id": uid(f"customer {event['customer_id']}"), "kind": "crm", "value": event["customer_id"]}
        records.append(TimelineRecord(tenant, "leaf", body["leaf_id"], 1, leaf, recorded_at=at))
    return records


@dataclass
class Model:
    """A timeline in memory: the newest version of each record, whatever order they come in."""

    rules: Rules = field(default_factory=Rules)
    newest: dict[tuple[str, str], TimelineRecord] = field(default_factory=dict)

    def take(self, records: Iterable[TimelineRecord]) -> None:
        """Keep the newest version of each."""
        for record in records:
            known = self.newest.get((record.kind, record.key))
            if known is None or record.version > known.version:
                self.newest[(record.kind, record.key)] = record

    def entries(self) -> list[Entry]:
        """Return the entries that exist."""
        return [compact(r.body) for (kind, _), r in self.newest.items() if kind == "entry" and not r.deleted]

    def contributions(self) -> dict[Ref, Contributions]:
        """Return everything, computed from scratch."""
        customers = {k: r.body["customer_id"] for (kind, k), r in self.newest.items() if kind == "leaf"}
        canonical = {k: r.body["canonical_id"] for (kind, k), r in self.newest.items() if kind == "conversation"}
        return recount(Timeline(self.entries(), customers, canonical), self.rules)

    def ask(self, kpi: str, start: datetime, end: datetime, now: datetime | None = None, **options: Any) -> Answer:
        """Ask for a KPI; `options` are step, group_by, filters and parameters."""
        return ask(self.contributions(), self.rules, kpi, start, end, now, **options)


def ask(
    contributions: Mapping[Ref, Contributions],
    rules: Rules,
    kpi: str,
    start: datetime,
    end: datetime,
    now: datetime | None = None,
    *,
    step: str | None = None,
    zone: ZoneInfo = ZONE,
    group_by: Sequence[str] = (),
    filters: Mapping[str, str] | None = None,
    **parameters: str,
) -> Answer:
    """Answer a query from contributions in memory."""
    borders = tuple(edges(micros(start), micros(end), step, zone))
    instant = micros(now or datetime.now(UTC))
    query = Query(BY_ID[kpi], borders, zone, instant, tuple(group_by), filters or {}, parameters, rules)
    return answer(query, read(contributions, reader_of(query).fetches(query), instant))


def read(contributions: Mapping[Ref, Contributions], fetches: Iterable[Fetch], now: int) -> list[Row]:
    """Read contributions the slow way: all of them, one by one."""
    sums: dict[tuple[Any, ...], tuple[int, int]] = {}
    for fetch in fetches:
        for cells in contributions.values():
            for key, (n, total) in cells.items():
                if key.series not in fetch.series or (key.due and key.at > now):
                    continue
                landing, bucket = key.at, key.bucket
                if fetch.threshold is not None:
                    due = key.at + fetch.threshold
                    in_time = key.member != "-" and int(key.member) <= due
                    landing, bucket = (int(key.member), 1) if in_time else (due, 0)
                    if not in_time and due > now:
                        continue
                if landing >= fetch.edges[-1]:
                    continue
                window = bisect_right(fetch.edges, landing) - 1
                if window < 0 and not fetch.before:
                    continue
                labels = {**key.dims._asdict(), "family": family_of(key.dims.channel), "": None}
                if any(labels[name] != value for name, value in fetch.filters.items()):
                    continue
                group = tuple(labels[name] for name in fetch.group_by)
                where = key.at if fetch.instants else window
                member = key.member if fetch.members else ""
                place = (fetch.name, key.series, where, group, bucket, member)
                old = sums.get(place, (0, 0))
                sums[place] = (old[0] + n, old[1] + total)
    return [Row(*place, *cell) for place, cell in sums.items()]
