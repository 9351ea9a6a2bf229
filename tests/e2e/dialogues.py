"""The dialogues of the shared data: deliveries to post, and the truth to compare with."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from urllib.parse import urlencode

from tests.processes import Answer, System

Result = TypeVar("Result")

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"


@dataclass(frozen=True)
class Delivery:
    """One line of deliveries.jsonl."""

    tenant: str
    source: str | None
    id: str | None
    expect: str
    body: str


@dataclass(frozen=True)
class Dialogues:
    """Deliveries in arrival order, the policies to put first, and the truth by `tenant|source|id`."""

    deliveries: Sequence[Delivery]
    policy: Mapping[str, Mapping[str, Any]]
    clusters: Mapping[str, str]
    events: Mapping[str, Mapping[str, Any]]

    @property
    def tenants(self) -> list[str]:
        return sorted({delivery.tenant for delivery in self.deliveries})

    def shuffled(self, seed: int) -> Dialogues:
        """Return the same in another order; only of an id that comes with several bodies the first stays first."""
        order = list(self.deliveries)
        Random(seed).shuffle(order)
        first: dict[tuple[str, str | None, str | None], Delivery] = {}
        for delivery in self.deliveries:
            first.setdefault((delivery.tenant, delivery.source, delivery.id), delivery)
        seen: set[tuple[str, str | None, str | None]] = set()
        result = []
        for delivery in order:
            name = (delivery.tenant, delivery.source, delivery.id)
            result.append(delivery if delivery.id is None or name in seen else first[name])
            seen.add(name)
        return Dialogues(result, self.policy, self.clusters, self.events)


def load(folder: Path) -> Dialogues:
    """Read the folder `dialogues` of the shared data."""
    lines = [json.loads(line) for line in (folder / "deliveries.jsonl").read_text("utf8").splitlines()]
    truth = json.loads((folder / "truth.json").read_text("utf8"))
    deliveries = [Delivery(x["tenant"], x["source"], x["id"], x["expect"], x["body"]) for x in lines]
    return Dialogues(deliveries, truth["policy"], truth["clusters"], truth["events"])


async def put_policies(system: System, dialogues: Dialogues) -> None:
    """Put the identity policy of every tenant."""
    for tenant in dialogues.tenants:
        async with system.client(tenant, system.conversation) as client:
            before = (await client.get("/v1/identity/policy")).raise_for_status().json()
            answer = await client.put("/v1/identity/policy", json={**before, **dialogues.policy[tenant]})
            assert answer.status_code == 200, answer.text


async def post(system: System, dialogues: Dialogues) -> list[tuple[Delivery, Answer]]:
    """Post every delivery of each tenant in order, one request each; return the answers.

    The tenants go side by side: what one of them sends never concerns the other.
    """

    def of_one(tenant: str) -> list[tuple[Delivery, Answer]]:
        with system.caller(tenant, system.ingest) as caller:
            return [
                (one, caller.call("POST", "/v1/events", one.body.encode(), STRUCTURED))
                for one in dialogues.deliveries
                if one.tenant == tenant
            ]

    return [answer for answers in await _side_by_side(of_one, system, dialogues) for answer in answers]


async def post_in_batches(system: System, dialogues: Dialogues, size: int = 100) -> None:
    """Post the deliveries that are to be accepted, in order, `size` a request."""

    def of_one(tenant: str) -> None:
        bodies = [one.body for one in dialogues.deliveries if one.tenant == tenant and one.expect == "accepted"]
        with system.caller(tenant, system.ingest) as caller:
            for start in range(0, len(bodies), size):
                body = f"[{','.join(bodies[start : start + size])}]".encode()
                answer = caller.call("POST", "/v1/events", body, BATCH)
                assert answer.status_code == 202, answer.text

    await _side_by_side(of_one, system, dialogues)


async def statuses(system: System, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the status of every event named."""
    by_tenant: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_tenant[name.partition("|")[0]].append(name)

    def of_one(tenant: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        with system.caller(tenant, system.ingest) as caller:
            for name in by_tenant[tenant]:
                _, source, event_id = name.split("|", 2)
                answer = caller.call("GET", f"/v1/events/status?{urlencode({'source': source, 'id': event_id})}")
                found[name] = answer.json() if answer.status_code == 200 else {"status": f"http {answer.status_code}"}
        return found

    for tenant in by_tenant:
        system.key(tenant)
    told = await asyncio.gather(*(asyncio.to_thread(of_one, tenant) for tenant in by_tenant))
    return {name: one for found in told for name, one in found.items()}


async def _side_by_side(work: Callable[[str], Result], system: System, dialogues: Dialogues) -> list[Result]:
    """Do `work` for every tenant, each in a thread of its own."""
    for tenant in dialogues.tenants:
        system.key(tenant)
    return await asyncio.gather(*(asyncio.to_thread(work, tenant) for tenant in dialogues.tenants))


def apart_or_fused(pairs: Iterable[tuple[str, Hashable, Hashable]]) -> list[str]:
    """Compare two groupings of names; return a sentence for each name whose group differs."""
    wanted: dict[Hashable, set[str]] = defaultdict(set)
    got: dict[Hashable, set[str]] = defaultdict(set)
    items = list(pairs)
    for name, want, have in items:
        wanted[want].add(name)
        got[have].add(name)
    return [
        f"{name}: lacks {sorted(wanted[want] - got[have])[:2]}, has {sorted(got[have] - wanted[want])[:2]}"
        for name, want, have in items
        if wanted[want] != got[have]
    ]


def differences(dialogues: Dialogues, found: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return what differs from the truth, by kind; all empty where everything is right."""
    truth = dialogues.events

    def own(name: str, field: str) -> str:
        # Without a conversation it belongs with nothing else.
        return found.get(name, {}).get(field) or f"none of {name}"

    return {
        "not on a timeline": [name for name in truth if found.get(name, {}).get("status") != "on_timeline"],
        "customers": apart_or_fused((n, t["cluster"], own(n, "customer_id")) for n, t in truth.items() if t["cluster"]),
        "conversations": apart_or_fused(
            (n, t["conversation"] or f"none of {n}", own(n, "conversation_id"))
            for n, t in truth.items()
            if t["decidable"]
        ),
        "conversations by the rules": apart_or_fused(
            (n, t["by_rules"] or f"none of {n}", own(n, "conversation_id")) for n, t in truth.items()
        ),
    }


async def handles(system: System, dialogues: Dialogues) -> list[str]:
    """Ask for every handle of the truth; return what differs from its clusters."""

    def of_one(tenant: str) -> list[tuple[str, Hashable, Hashable]]:
        pairs: list[tuple[str, Hashable, Hashable]] = []
        with system.caller(tenant, system.conversation) as caller:
            for name, cluster in dialogues.clusters.items():
                whose, _, node = name.partition("|")
                if whose != tenant or node.startswith("contact:"):
                    continue
                answer = caller.call("GET", f"/v1/customers?{urlencode({'handle': node})}")
                assert answer.status_code == 200, answer.text
                ids = [one["id"] for one in answer.json()["customers"]]
                assert len(ids) == 1, f"{name}: {ids}"
                pairs.append((name, cluster, ids[0]))
        return pairs

    return apart_or_fused(pair for pairs in await _side_by_side(of_one, system, dialogues) for pair in pairs)
