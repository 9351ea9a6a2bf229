"""The dialogues with their truth, read from the shared test data, and the comparison of two groupings."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.conversation.policy import Policy
from shared.events import InboundEvent, parse_rfc3339

EventKey = str
"""`<tenant>|<source>|<id>`, as truth.json names events."""


@dataclass(frozen=True)
class Dialogues:
    """Deliveries in arrival order and what is true of their events."""

    deliveries: list[dict[str, Any]]
    truth: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> Dialogues:
        lines = (folder / "deliveries.jsonl").read_text(encoding="utf-8").splitlines()
        return cls([json.loads(line) for line in lines], json.loads((folder / "truth.json").read_text("utf-8")))

    @property
    def tenants(self) -> list[str]:
        return sorted(self.truth["policy"])

    def policy(self, tenant: str) -> Policy:
        return Policy(**self.truth["policy"][tenant])

    def events(self, tenant: str) -> list[InboundEvent]:
        """Return the accepted deliveries of one tenant, in arrival order, repetitions included."""
        return [
            event_of(tenant, delivery["body"], delivery["at"])
            for delivery in self.deliveries
            if delivery["tenant"] == tenant and delivery["expect"] == "accepted"
        ]


def event_of(tenant: str, body: str, at: str) -> InboundEvent:
    parsed = json.loads(body)
    return InboundEvent(
        tenant=tenant,
        source=parsed["source"],
        id=parsed["id"],
        type=parsed["type"],
        occurred_at=parse_rfc3339(parsed["time"]),
        received_at=parse_rfc3339(at),
        data=parsed["data"],
    )


def first_of_each(events: Iterable[InboundEvent]) -> list[InboundEvent]:
    first: dict[tuple[str, str], InboundEvent] = {}
    for event in events:
        first.setdefault((event.source, event.id), event)
    return list(first.values())


def key_of(event: InboundEvent) -> EventKey:
    return f"{event.tenant}|{event.source}|{event.id}"


def misplaced(truth: Mapping[EventKey, Hashable], got: Mapping[EventKey, Hashable]) -> list[str]:
    """Return the events that are not together with just those that they belong together with."""
    true_groups, got_groups = defaultdict(set), defaultdict(set)
    for key, group in truth.items():
        true_groups[group].add(key)
        got_groups[got[key]].add(key)
    return [key for key, group in truth.items() if true_groups[group] != got_groups[got[key]]]


def faults(
    truth: dict[str, Any],
    customers: Mapping[EventKey, Hashable],
    conversations: Mapping[EventKey, Hashable | None],
    tenant: str,
) -> dict[str, list[str]]:
    """Compare what was got with the truth of one tenant; empty where all is right."""
    events = {key: e for key, e in truth["events"].items() if key.startswith(f"{tenant}|")}
    alone = {key: conversations[key] or f"none:{key}" for key in events}
    clusters = {key: e["cluster"] for key, e in events.items() if e["cluster"]}
    found = {
        "customers": misplaced(clusters, customers),
        "by_rules": misplaced({k: e["by_rules"] for k, e in events.items() if e["by_rules"]}, alone),
        "conversations": misplaced(
            {k: e["conversation"] for k, e in events.items() if e["conversation"] and e["decidable"]}, alone
        ),
        "should be in none": [k for k, e in events.items() if not e["by_rules"] and conversations[k]],
    }
    return {name: keys for name, keys in found.items() if keys}
