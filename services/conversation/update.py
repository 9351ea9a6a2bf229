"""One tenant's new events put where they belong: load what they touch, decide, save what changed.

The decisions are those of `identity`, `people` and `stitching`; `loading` brings what they need to know, `folding`
asks them, `saving` carries out their answers. Most events come in order: then the state before them is what is stored,
and the fold takes just the new ones. Where something stored lies after a new event (it is late, or it changes who is
one customer), the fold starts at that instant: the state before it is built from history, and everything connected
from then on is taken again. Source: docs/decisions/0005-stitching-as-a-fold.md
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from services.conversation import tables
from services.conversation.batch import Batch, Limits, Outcome
from services.conversation.entries import digest_of
from services.conversation.erasure.erased import without_erased
from services.conversation.folding import Fold
from services.conversation.following import Following
from services.conversation.large import TooLarge
from services.conversation.loading import Loading
from services.conversation.policy import Policy
from services.conversation.renewing import Renewing, stale
from services.conversation.saving import Saving, look_up_bindings
from services.conversation.touched import packed, touched
from services.conversation.writing import Writing, breathe
from shared.entry_ids import entry_id_of
from shared.events import DECISIONS, TYPE_PREFIX, InboundEvent, TimelineRecord

WORDS = frozenset(TYPE_PREFIX + name for name in DECISIONS)
"""What agents say of who is one customer and who is not."""

__all__ = ["Outcome", "change_policy", "decide_aside", "put_events", "renew", "renew_slice", "resolve_again"]


async def put_events(
    connection: asyncpg.Connection,
    tenant: str,
    events: Sequence[InboundEvent],
    secret: bytes,
    now: datetime,
    limits: Limits | None = None,
) -> Outcome:
    """Put one tenant's events on the timeline; those that are there already, or were erased, change nothing.

    Runs in the caller's transaction and holds the tenant until its end. What they touch and what is still decided under
    an earlier policy is decided again first. Events whose decision is larger than `limits` are set aside: all is as if
    they had not come, until the lane has decided them. Raises Rejected where an event cannot be read.
    """
    # Agents' words on who is one have their turn behind all others: those people are followed where such come alone.
    words = [event for event in events if event.type in WORDS]
    outcome = Outcome()
    for part in ([event for event in events if event.type not in WORDS], words) if words else (events,):
        if part:
            outcome.add(await _put(connection, tenant, part, secret, now, limits))
    return outcome


async def _put(
    connection: asyncpg.Connection,
    tenant: str,
    events: Sequence[InboundEvent],
    secret: bytes,
    now: datetime,
    limits: Limits | None,
) -> Outcome:
    batch, held = await _begin(connection, tenant, secret, now, limits)
    if held.erased_at is not None:
        events = await without_erased(batch, events, held.erased_at)
    erased, aside, told = batch.outcome.erased, set[UUID](), list[TimelineRecord]()
    while True:
        try:
            fold = await _load(batch, events)
        except TooLarge as large:
            events = await _set_aside(batch, events, large, aside)
        else:
            leaves = await stale(batch) if held.outstanding else set()
            if not leaves:
                break
            told += (await renew(connection, tenant, secret, now, leaves)).records
        batch, held = await _begin(connection, tenant, secret, now, limits)
    if batch.arrivals or batch.copies:
        await decide(batch, fold)
    batch.outcome.erased, batch.outcome.aside = erased, aside
    batch.outcome.records[:0] = told
    return batch.outcome


async def _begin(
    connection: asyncpg.Connection, tenant: str, secret: bytes, now: datetime, limits: Limits | None = None
) -> tuple[Batch, tables.tenants.Held]:
    """Hold the tenant and return an empty batch for it."""
    held = await tables.tenants.lock_tenant(connection, tenant)
    batch = Batch(connection, tenant, held.policy, held.version, held.renewal, secret, now, limits, held.aside)
    return batch, held


async def _set_aside(
    batch: Batch, events: Sequence[InboundEvent], large: TooLarge, aside: set[UUID]
) -> list[InboundEvent]:
    """Set aside what makes the decision on `events` a large one, note it in `aside`, and return the others.

    Of an event that comes several times the first is set aside; the others are told from it as from any known one.
    """
    ids = [entry_id_of(batch.secret, batch.tenant, event.source, event.id) for event in events]
    wanted = large.events.intersection(ids) or set(batch.arrivals)
    rows, left = {}, []
    for id_, event in zip(ids, events, strict=True):
        if id_ in wanted and id_ not in rows:
            rows[id_] = (id_, digest_of(event), event)
        else:
            left.append(event)
    await tables.aside.put(batch.connection, batch.tenant, list(rows.values()), batch.now)
    aside.update(rows)
    return left


async def decide_aside(
    connection: asyncpg.Connection, tenant: str, secret: bytes, now: datetime, most: int | None = None
) -> Outcome | None:
    """Decide what a tenant has set aside, up to `most` events, under its lock; None where nothing is.

    Raises Rejected where one of them cannot be placed.
    """
    await tables.tenants.lock_tenant(connection, tenant)
    rows = await tables.aside.first(connection, tenant, most)
    if not rows:
        return None
    await tables.aside.take(connection, tenant, [row.entry_id for row in rows])
    return await put_events(connection, tenant, [row.event for row in rows], secret, now)


async def renew(
    connection: asyncpg.Connection, tenant: str, secret: bytes, now: datetime, leaves: Collection[UUID]
) -> Outcome:
    """Decide again, under the policy in force, the parts of a tenant in which these leaves are."""
    batch, held = await _begin(connection, tenant, secret, now)
    await Renewing(batch).renew(leaves)
    await decide(batch, anything=True)
    await tables.policies.save_regrouped(connection, tenant, held.renewal, batch.people.regrouped())
    return batch.outcome


async def renew_slice(
    connection: asyncpg.Connection, tenant: str, secret: bytes, now: datetime, most: int
) -> Outcome | None:
    """Decide about `most` of the entries again that are decided under an earlier policy; None where there are none.

    A part that is larger is decided whole.
    """
    held = await tables.tenants.lock_tenant(connection, tenant)
    if not held.outstanding:
        return None
    leaves = await tables.renewals.next_leaves(connection, tenant, held.renewal, most)
    if not leaves:
        await tables.renewals.finish(connection, tenant)
        return None
    return await renew(connection, tenant, secret, now, leaves)


async def resolve_again(
    connection: asyncpg.Connection,
    tenant: str,
    secret: bytes,
    now: datetime,
    policy: Policy | None = None,
    by: str | None = None,
) -> Outcome:
    """Decide everything of a tenant anew from its stored entries, under `policy` where given: `by` put it in force.

    It takes memory and time in proportion to all there is: what slices of a policy's change have to come to.
    """
    held = await tables.tenants.lock_tenant(connection, tenant)
    if policy is not None:
        await _put_in_force(connection, tenant, policy, held.policy, now, by, renews=True)
    batch, held = await _begin(connection, tenant, secret, now)
    await Loading(batch).take_all()
    await decide(batch, anything=True)
    await tables.policies.save_regrouped(connection, tenant, held.renewal, batch.people.regrouped())
    return batch.outcome


async def change_policy(
    connection: asyncpg.Connection, tenant: str, now: datetime, policy: Policy, by: str | None = None
) -> bool:
    """Put a policy in force for what comes from now on, changed `by` whoever has that key.

    Returns whether what is there is outstanding, since it may be decided otherwise: nothing is where the policy is the
    one in force, or only bars handles that nobody has named yet.
    """
    held = await tables.tenants.lock_tenant(connection, tenant)
    barred = policy.bars_only_more(held.policy)
    renews = barred is None or await tables.leaves.knows_any(connection, tenant, barred)
    if policy != held.policy:
        await _put_in_force(connection, tenant, policy, held.policy, now, by, renews=renews)
    return renews


async def _put_in_force(
    connection: asyncpg.Connection,
    tenant: str,
    policy: Policy,
    before: Policy,
    now: datetime,
    by: str | None,
    *,
    renews: bool,
) -> None:
    version = await tables.tenants.put_policy(connection, tenant, policy, renews=renews)
    change = tables.policies.Change(version, now, by, policy.changed_from(before))
    await tables.policies.save_change(connection, tenant, change)


async def _load(batch: Batch, events: Sequence[InboundEvent]) -> Fold | None:
    """Load what events touch; of people who are only followed also what differs, and return the fold that tells it."""
    loading = Following(batch)
    await loading.take(events)
    if not batch.followed:
        return None
    fold = await _fold(batch)
    while fold.differing:
        await loading.take_differing(fold.differing)
        fold = await _fold(batch)
    return fold


async def _fold(batch: Batch) -> Fold:
    """Decide what was loaded. Meanwhile the database looks up what there is to compare it with."""
    fold = Fold(batch)
    async with Writing() as at_work:
        if batch.stored or batch.displaced:
            at_work.begin(look_up_bindings, batch)
            await breathe()
        fold.run()
    return fold


async def decide(batch: Batch, fold: Fold | None = None, *, anything: bool = False) -> None:
    """Decide what was loaded, where `fold` has not yet, and store it.

    `anything`: what it had to do with may be more than what was loaded.
    """
    if fold is None:
        fold = await _fold(batch)
    await Saving(batch, fold).save()
    if batch.aside:
        names = None if anything else packed(touched(batch, fold))
        await tables.touched.put(batch.connection, batch.tenant, batch.version, names)
