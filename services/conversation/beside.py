"""A decision made beside the stream: on a snapshot, without the tenant's lock, and stored only if it still holds.

It holds where nothing that it had to do with was touched since (`touched`), and no policy or erasure came: then it is
what would be decided now, under the lock. Source: docs/decisions/0021-large-decisions-beside-the-stream.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from services.conversation import tables
from services.conversation.batch import Batch, Outcome
from services.conversation.folding import Fold
from services.conversation.loading import Loading
from services.conversation.saving import Placed, Saving, look_up_bindings
from services.conversation.tables.tenants import Held
from services.conversation.touched import meets, touched


class Overtaken(Exception):
    """Something that the decision had to do with has changed since; nothing was stored."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about events that are set aside, and on what."""

    tenant: str
    seen: Held
    """The tenant as it was."""
    events: Sequence[UUID]
    batch: Batch
    saving: Saving
    placed: Placed
    names: set[int]


async def decide_beside(
    connection: asyncpg.Connection, tenant: str, secret: bytes, now: datetime, most: int
) -> Decision | None:
    """Decide up to `most` of the events that a tenant has set aside, on a snapshot; nothing is stored.

    None where nothing is set aside, or a changed policy is not carried out yet: that has to be done first, under the
    lock. Raises Rejected where one of the events cannot be placed.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        seen = await tables.tenants.look_at_tenant(connection, tenant)
        rows = await tables.aside.first(connection, tenant, most)
        if seen is None or seen.outstanding or not rows:
            return None
        batch = Batch(connection, tenant, seen.policy, seen.version, seen.renewal, secret, now)
        await Loading(batch).take([row.event for row in rows])
        await look_up_bindings(batch)
    fold = Fold(batch)
    fold.run()
    saving = Saving(batch, fold)
    events = [row.entry_id for row in rows]
    return Decision(tenant, seen, events, batch, saving, await saving.place(), touched(batch, fold))


async def store(connection: asyncpg.Connection, decision: Decision, now: datetime) -> Outcome:
    """Store a decision, within the caller's transaction, which holds the tenant until its end. Raises Overtaken."""
    tenant, seen = decision.tenant, decision.seen
    held = await tables.tenants.lock_tenant(connection, tenant)
    policies = (seen.policy_version, seen.renewal, False)
    if (held.policy_version, held.renewal, held.outstanding) != policies or seen.version < held.touched_since:
        raise Overtaken
    changes = await tables.touched.since(connection, tenant, seen.version)
    if any(meets(decision.names, names) for names in changes):
        raise Overtaken
    if await tables.aside.take(connection, tenant, decision.events) < len(decision.events):
        raise Overtaken
    await decision.saving.save_in(connection, held.version, now, decision.placed)
    await tables.touched.clear(connection, tenant, held.version)
    return decision.batch.outcome
