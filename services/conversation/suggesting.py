"""Who else may be the same person: said to whoever decides, with what speaks for it, and never acted on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg

from services.conversation.identity import Node
from services.conversation.near_handles import near

MOST = 20
"""Most customers that one reason names."""
MOST_HANDLES = 10
"""Of so many handles of a customer those are looked for that are nearly equal."""

WEIGHTS = {
    "same_conversation": 0.6,
    "same_name": 0.4,
    "same_name_and_company": 0.6,
    "same_mailbox_name": 0.4,
    "near_handle": 0.3,
}
"""Reason → what it adds to the score; of the two reasons by name the stronger counts."""

# Others who wrote in the same conversation by a token or mail id: perhaps the same person with another address.
# In all of these OFFSET 0 keeps look-ups nested and in this order, whatever the planner takes a new tenant for.
SAME_CONVERSATION = """
WITH met AS MATERIALIZED (
    SELECT DISTINCT c.canonical_id FROM conversation.leaf mine,
    LATERAL (SELECT conversation_id FROM conversation.participation
             WHERE tenant_id = $1 AND leaf_id = mine.leaf_id OFFSET 0) AS p,
    LATERAL (SELECT canonical_id FROM conversation.conversation
             WHERE tenant_id = $1 AND conversation_id = p.conversation_id OFFSET 0) AS c
    WHERE mine.tenant_id = $1 AND mine.customer_id = $2)
SELECT l.customer_id, count(DISTINCT m.conversation_id) AS together FROM met,
LATERAL (SELECT conversation_id FROM conversation.conversation
         WHERE tenant_id = $1 AND canonical_id = met.canonical_id OFFSET 0) AS m,
LATERAL (SELECT leaf_id FROM conversation.participation
         WHERE tenant_id = $1 AND conversation_id = m.conversation_id OFFSET 0) AS o,
LATERAL (SELECT customer_id FROM conversation.leaf WHERE tenant_id = $1 AND leaf_id = o.leaf_id OFFSET 0) AS l
WHERE l.customer_id <> $2
GROUP BY l.customer_id ORDER BY together DESC, l.customer_id LIMIT $3
"""

# By name and by mailbox at another domain, each by an index of its own.
ALIKE = "SELECT other_id, reason FROM conversation.alike($1, $2)"

# Of those with the same name: the company alone says no more than that they are colleagues. An attribute is stored with
# the time from which it is.
SAME_COMPANY = """
SELECT DISTINCT o.customer_id FROM conversation.leaf o
WHERE o.tenant_id = $1 AND o.customer_id = ANY($3) AND lower(o.attributes -> 'company' ->> 0) = ANY(ARRAY(
    SELECT lower(attributes -> 'company' ->> 0) FROM conversation.leaf WHERE tenant_id = $1 AND customer_id = $2))
"""

# One look-up for each: put into one condition, the planner prefers to read the whole tenant.
NEAR = """
SELECT DISTINCT l.customer_id FROM unnest($4::text[]) AS n (node),
LATERAL (SELECT customer_id FROM conversation.leaf WHERE tenant_id = $1 AND node = n.node OFFSET 0) AS l
WHERE l.customer_id <> $2 ORDER BY l.customer_id LIMIT $3
"""

OWNERS = "SELECT DISTINCT customer_id FROM conversation.leaf WHERE tenant_id = $1 AND node = ANY($2::text[])"


async def suggestions(
    connection: asyncpg.Connection, tenant: str, customer_id: UUID, nodes: Sequence[Node], apart: Sequence[Node]
) -> list[dict[str, Any]]:
    """Return who else may be the customer of `nodes`, the likeliest first. Nothing is ever merged by itself.

    Whom an agent told `apart`, by any of their handles, is not suggested again.
    """
    reasons: dict[UUID, set[str]] = {}

    async def ask(reason: str, statement: str, *more: Any) -> None:
        for row in await connection.fetch(statement, tenant, customer_id, *more):
            reasons.setdefault(row["customer_id"], set()).add(reason)

    for row in await connection.fetch(ALIKE, customer_id, MOST):
        reasons.setdefault(row["other_id"], set()).add(row["reason"])
    named = [id_ for id_, why in reasons.items() if "same_name" in why]
    await ask("same_name_and_company", SAME_COMPANY, named)
    for id_ in named:
        if "same_name_and_company" in reasons[id_]:
            reasons[id_].remove("same_name")
    await ask("same_conversation", SAME_CONVERSATION, MOST)
    handles = sorted(node for node in nodes if node.startswith(("email:", "phone:")))[:MOST_HANDLES]
    await ask("near_handle", NEAR, MOST, sorted(set().union(*map(near, handles))))
    for row in await connection.fetch(OWNERS, tenant, apart):
        reasons.pop(row["customer_id"], None)
    scored = [
        {"customer_id": str(id_), "score": round(min(1.0, sum(WEIGHTS[r] for r in why)), 2), "reasons": sorted(why)}
        for id_, why in reasons.items()
    ]
    return sorted(scored, key=lambda row: (-float(str(row["score"])), str(row["customer_id"])))
