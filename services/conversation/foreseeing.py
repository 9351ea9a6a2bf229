"""What another identity policy would merge, split and move: decided as a change would be, and nothing of it stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import asyncpg

from services.conversation.batch import Batch
from services.conversation.deciding import telling
from services.conversation.folding import Fold
from services.conversation.loading import Loading
from services.conversation.people import Leaf
from services.conversation.policy import Policy
from services.conversation.saving import Saving
from shared.clock import Clock

SHOWN = 100
"""How many merges and how many splits an answer spells out; the counts are of all."""
HANDLES = 20
"""How many handles of a customer it names."""

CUSTOMERS = "SELECT leaf_id, customer_id FROM conversation.leaf WHERE tenant_id = $1"


async def foresee(
    connection: asyncpg.Connection, tenant: str, policy: Policy, secret: bytes, clock: Clock
) -> dict[str, Any]:
    """Return what `policy` would change. Reads one snapshot of everything and holds nobody up."""
    before = {row[0]: row[1] for row in await connection.fetch(CUSTOMERS, tenant)}
    batch = Batch(connection, tenant, policy, 0, 0, secret, clock.now())
    await Loading(batch).take_all(keep_links=True)
    fold = Fold(batch)
    fold.run()
    moved = Saving(batch, fold).moved()
    places = {entry.entry_id: entry.conversation_id for entry in moved}
    rejoined = sum(places[id_] != batch.stored[id_].conversation_id for id_ in places)
    return {
        "policy": policy.model_dump(mode="json"),
        **differences(before, batch.people.by_id.values()),
        "entries_moved": len(moved),
        "entries_in_another_conversation": rejoined,
    }


def differences(before: Mapping[UUID, UUID], after: Iterable[Leaf]) -> dict[str, Any]:
    """Return the merges and splits between the customers `before` (leaf → customer) and the leaves as they are `after`.

    Pure. A customer who loses some handles to another one is in both lists.
    """
    parts: dict[UUID, dict[UUID, list[str]]] = defaultdict(lambda: defaultdict(list))
    wholes: dict[UUID, set[UUID]] = defaultdict(set)
    for leaf in after:
        was = before.get(leaf.leaf_id)
        if was is not None:
            parts[was][leaf.customer_id].append(leaf.node)
            wholes[leaf.customer_id].add(was)
    merges = sorted((sorted(olds, key=str), new) for new, olds in wholes.items() if len(olds) > 1)
    splits = sorted((old, pieces) for old, pieces in parts.items() if len(pieces) > 1)
    return {
        "merges": [_merge(olds, new, parts) for olds, new in merges[:SHOWN]],
        "splits": [_split(old, pieces) for old, pieces in splits[:SHOWN]],
        "customers_merged": sum(len(olds) for olds, _ in merges),
        "customers_split": len(splits),
        "truncated": max(len(merges), len(splits)) > SHOWN,
    }


def _merge(olds: list[UUID], new: UUID, parts: Mapping[UUID, Mapping[UUID, list[str]]]) -> dict[str, Any]:
    shown = olds[:SHOWN]
    return {
        "customer_id": str(new),
        "customers": [{"id": str(old), "handles": _named(parts[old][new])} for old in shown],
    }


def _split(old: UUID, pieces: Mapping[UUID, list[str]]) -> dict[str, Any]:
    groups = sorted((_named(nodes) for nodes in pieces.values()), key=lambda named: (-len(named), named))
    return {"customer_id": str(old), "groups": groups[:SHOWN]}


def _named(nodes: list[str]) -> list[str]:
    return sorted(telling(nodes))[:HANDLES]
