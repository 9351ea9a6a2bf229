"""One tenant's new events put where they belong: load what they touch, decide, save what changed.

The decisions are those of `identity`, `people` and `stitching`; `loading` brings what they need to know, `folding`
asks them, `saving` carries out their answers. Most events come in order: then the state before them is what is stored,
and the fold takes just the new ones. Where something stored lies after a new event (it is late, or it changes who is
one customer), the fold starts at that instant: the state before it is built from history, and everything connected
from then on is taken again. Source: docs/decisions/0005-stitching-as-a-fold.md
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from services.conversation import tables
from services.conversation.batch import Batch, Outcome
from services.conversation.erasure.erased import without_erased
from services.conversation.folding import Fold
from services.conversation.loading import Loading
from services.conversation.policy import Policy
from services.conversation.saving import Saving
from shared.events import InboundEvent

__all__ = ["Outcome", "change_policy", "put_events", "resolve_again"]


async def put_events(
    connection: asyncpg.Connection, tenant: str, events: Sequence[InboundEvent], secret: bytes, now: datetime
) -> Outcome:
    """Put one tenant's events on the timeline; those that are there already, or were erased, change nothing.

    Runs in the caller's transaction and holds the tenant until its end. Raises Rejected where an event cannot be read.
    """
    held = await tables.tenants.lock_tenant(connection, tenant)
    batch = Batch(connection, tenant, held.policy, held.version, secret, now)
    if held.erased_at is not None:
        events = await without_erased(batch, events, held.erased_at)
    await Loading(batch).take(events)
    if batch.arrivals or batch.copies:
        await decide(batch)
    return batch.outcome


async def resolve_again(
    connection: asyncpg.Connection,
    tenant: str,
    secret: bytes,
    now: datetime,
    policy: Policy | None = None,
    by: str | None = None,
) -> Outcome:
    """Decide everything of a tenant anew from its stored entries, under `policy` where given: `by` put it in force."""
    held = await tables.tenants.lock_tenant(connection, tenant)
    batch = Batch(connection, tenant, policy or held.policy, held.version, secret, now)
    await Loading(batch).take_all()
    await decide(batch)
    if policy is not None:
        change = await _put(connection, tenant, policy, held.policy, now, by)
        await tables.policies.save_change(connection, tenant, change, batch.people.regrouped())
    return batch.outcome


async def change_policy(
    connection: asyncpg.Connection, tenant: str, secret: bytes, now: datetime, policy: Policy, by: str | None = None
) -> Outcome:
    """Put a policy in force, changed `by` whoever has that key, and decide anew what it may decide otherwise.

    That is nothing where it is the one in force, or only bars handles that nobody has named yet; else it is everything.
    """
    held = await tables.tenants.lock_tenant(connection, tenant)
    barred = policy.bars_only_more(held.policy)
    if barred is None or await tables.leaves.knows_any(connection, tenant, barred):
        return await resolve_again(connection, tenant, secret, now, policy, by)
    if policy != held.policy:
        change = await _put(connection, tenant, policy, held.policy, now, by)
        await tables.policies.save_change(connection, tenant, change)
    return Outcome()


async def _put(
    connection: asyncpg.Connection, tenant: str, policy: Policy, before: Policy, now: datetime, by: str | None
) -> tables.policies.Change:
    version = await tables.tenants.put_policy(connection, tenant, policy)
    return tables.policies.Change(version, now, by, policy.changed_from(before))


async def decide(batch: Batch) -> None:
    """Decide what was loaded, and store it."""
    fold = Fold(batch)
    fold.run()
    await Saving(batch, fold).save()
