"""Why this is one person: every link with its evidence, those refused, what agents decided, and who else it may be."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg

from services.conversation import tables
from services.conversation.deciding import telling
from services.conversation.identity import DO_NOT_LINK, MANUAL_MERGE, Evidence, Node, resolve, strength
from services.conversation.people import Leaf
from services.conversation.policy import Policy
from services.conversation.suggesting import suggestions
from shared.events import DERIVED_SOURCE, TYPE_PREFIX, rfc3339

NODES = "SELECT node FROM conversation.leaf WHERE tenant_id = $1 AND customer_id = $2"


async def identity(connection: asyncpg.Connection, tenant: str, customer_id: UUID) -> dict[str, Any]:
    """Return the answer of `GET /v1/customers/{id}/identity` for a surviving customer."""
    policy = (await tables.tenants.get_policy(connection, tenant)).policy
    nodes = [row["node"] for row in await connection.fetch(NODES, tenant, customer_id)]
    leaves = await tables.leaves.leaves_of_nodes(connection, tenant, nodes)
    links = await tables.leaves.links_of_nodes(connection, tenant, [leaf.node for leaf in leaves])
    accepted, refused, apart = _resolved(leaves, links, policy)
    mine = set(nodes)
    told_apart = [link for link in apart if link.a in mine or link.b in mine]
    others = sorted({node for link in told_apart for node in link.pair} - mine)
    return {
        "customer_id": str(customer_id),
        "links": [_link(link) for link in accepted if link.a in mine and link.b in mine],
        "refused": [
            {"a": link.a, "b": link.b, "reason": reason, "evidence": _evidence(link)}
            for link, reason in refused
            if link.a in mine or link.b in mine
        ],
        "do_not_link": [_link(link) for link in told_apart],
        "suggestions": await suggestions(connection, tenant, customer_id, nodes, others),
        "history": await history(connection, tenant, customer_id, links, mine),
    }


def _resolved(
    leaves: list[Leaf], links: list[Evidence], policy: Policy
) -> tuple[list[Evidence], list[tuple[Evidence, str]], list[Evidence]]:
    apart = [link for link in links if link.rule == DO_NOT_LINK]
    held = [link for link in links if link.rule != DO_NOT_LINK]
    shared = frozenset(leaf.node for leaf in leaves if leaf.shared)
    known = {leaf.node for leaf in leaves}
    # The other end of a link outside the component is a shared handle, or the link would have joined them.
    shared |= {node for link in held for node in link.pair if node not in known}
    pairs = frozenset(link.pair for link in apart)
    resolution = resolve(known, held, policy, shared=shared, do_not_link=pairs)
    refused = [(refusal.evidence, str(refusal.reason)) for refusal in resolution.refused]
    return list(resolution.accepted), refused, apart


def _link(link: Evidence) -> dict[str, Any]:
    return {
        "a": link.a,
        "b": link.b,
        "rule": link.rule,
        "strength": max(strength(link.a), strength(link.b)),
        "evidence": _evidence(link),
        "actor": "agent" if link.rule in (MANUAL_MERGE, DO_NOT_LINK) else "evidence",
        "decided_at": rfc3339(link.occurred_at),
    }


def _evidence(link: Evidence) -> dict[str, Any]:
    return {"source": link.source, "event_id": link.event_id, "occurred_at": rfc3339(link.occurred_at)}


# Also the words that a later one on the same two took back, of which no link is left.
EVENTS_OF = """
SELECT event_id, type, occurred_at, data FROM conversation.entry
WHERE tenant_id = $1 AND source = $2 AND type = ANY($3::text[]) AND leaf_id = ANY(ARRAY(
    SELECT leaf_id FROM conversation.leaf WHERE tenant_id = $1 AND node = ANY($4::text[])))
ORDER BY occurred_at, event_id
"""
DECISIONS = [f"{TYPE_PREFIX}customer.merged", f"{TYPE_PREFIX}customer.unmerged"]


async def history(
    connection: asyncpg.Connection, tenant: str, customer_id: UUID, links: list[Evidence], mine: set[str]
) -> list[dict[str, Any]]:
    """Return what agents decided about a customer's nodes, and which policies regrouped them, oldest first."""
    decided = await _decided(connection, tenant, links, mine)
    changes = await tables.policies.changes_of_customer(connection, tenant, customer_id)
    return sorted((*decided, *(_policy(change, groups) for change, groups in changes)), key=lambda row: str(row["at"]))


def _policy(change: tables.policies.Change, groups: list[list[Node]]) -> dict[str, Any]:
    return {
        "op": "policy",
        "at": rfc3339(change.changed_at),
        "actor": change.actor,
        "reason": f"changed: {', '.join(change.settings)}" if change.settings else None,
        "handles": [telling(group) for group in groups],
    }


async def _decided(
    connection: asyncpg.Connection, tenant: str, links: list[Evidence], mine: set[str]
) -> list[dict[str, Any]]:
    manual = [link for link in links if link.manual and (link.a in mine or link.b in mine)]
    ids = {link.event_id for link in manual}
    ends = sorted({node for link in manual for node in link.pair})
    rows = await connection.fetch(EVENTS_OF, tenant, DERIVED_SOURCE, DECISIONS, ends) if ids else []
    mine_too = {row["event_id"] for row in rows if any(not mine.isdisjoint(side) for side in row["data"]["sides"])}
    return [
        {
            "op": "merge" if row["type"].endswith("customer.merged") else "split",
            "at": rfc3339(row["occurred_at"]),
            "actor": (row["data"].get("actor") or {}).get("id"),
            "reason": row["data"].get("reason"),
            "handles": row["data"]["sides"],
        }
        for row in rows
        if row["event_id"] in ids | mine_too
    ]
