"""The batch handler of the timeline topic: changes in, deliveries out, within the runner's transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from services.conversation.webhooks import deliveries
from services.conversation.webhooks.deliveries import NewEvent
from services.conversation.webhooks.endpoints import Listener, listeners
from services.conversation.webhooks.events import Told, body_of, told_by, wants, whole
from shared.errors import DatabaseUnavailable, Rejected
from shared.events import TimelineRecord
from shared.log.database import Connection
from shared.log.protocol import Record
from shared.log.quarantine import Rejection

GROUP = "webhooks"

UNHEARD_GAP_S = 1.0
"""So the first endpoint there ever is may hear the first event a second late, and `PATIENCE_S` late where timelines are
behind just then."""


class TimelineConsumer:
    """Queues what each endpoint wants to hear. Called inside the runner's transaction, which it never ends."""

    def __init__(self, wake: Callable[[], None], others_first: Callable[[], bool] = lambda: False) -> None:
        """`wake` lets the sender of this process look soon; `others_first` tells whether others go first now."""
        self._wake = wake
        self._others_first = others_first
        self._listened_to = True

    def gap_s(self) -> float:
        """Return how long to wait between small batches, in seconds: where nobody listens, few large ones will do."""
        return 0.0 if self._listened_to else UNHEARD_GAP_S

    def gives_way(self) -> bool:
        """Tell whether the next batch can be late and is to be: not where somebody listens."""
        return not self._listened_to and self._others_first()

    async def __call__(self, connection: Connection, records: Sequence[Record]) -> Sequence[Rejection]:
        """Handle a batch; return the records that never will work."""
        by_tenant = await listeners(connection)
        self._listened_to = bool(by_tenant)
        if not by_tenant:
            return ()
        changes, moved, rejections = _read(records, by_tenant)
        # An entry's own records keep their order; those of one customer's several leaves come from several partitions.
        changes.sort(key=_order)
        heard = [(told, ids) for told in changes if (ids := _who_hears(told, by_tenant[told.tenant]))]
        if not moved and not heard:
            return rejections
        await deliveries.keep_endpoints(
            connection, sorted({tenant for tenant, _ in moved} | {t.tenant for t, _ in heard})
        )
        await deliveries.take_in(connection, moved, await _events(connection, heard))
        self._wake()
        return rejections


def _read(
    records: Sequence[Record], by_tenant: Mapping[str, Sequence[Listener]]
) -> tuple[list[Told], list[tuple[str, UUID]], list[Rejection]]:
    """Return changed entries, leaves that may have moved, and what makes no sense; of tenants that have endpoints."""
    changes: list[Told] = []
    moved: dict[tuple[str, UUID], None] = {}
    rejections: list[Rejection] = []
    for record in records:
        try:
            line = TimelineRecord.decode(record.value)
            if line.tenant not in by_tenant:
                continue
            if line.kind == "leaf":
                moved[line.tenant, UUID(line.key)] = None
            if (told := told_by(line, record.appended_at)) is not None:
                changes.append(told)
        except Rejected as error:
            rejections.append(Rejection(record, error.reason))
        except (ValueError, KeyError, TypeError) as error:
            rejections.append(Rejection(record, f"the record tells of no entry: {type(error).__name__} {error}"))
    return changes, list(moved), rejections


def _order(told: Told) -> tuple[float, float]:
    occurred = told.occurred_at.timestamp() if told.occurred_at else float("inf")
    return told.changed_at.timestamp(), occurred


def _who_hears(told: Told, tenants: Sequence[Listener]) -> list[UUID]:
    return [one.endpoint_id for one in tenants if told.changed_at >= one.created_at and wants(one.wanted, told)]


async def _events(connection: Connection, heard: Sequence[tuple[Told, list[UUID]]]) -> list[NewEvent]:
    """Return what is to be stored: whose it is now, and nothing about entries that are gone (erased, taken back).

    Raises DatabaseUnavailable where an entry is just being removed: the batch comes again.
    """
    if not heard:
        return []
    wanted = [told for told, _ in heard]
    said = [told for told in wanted if told.change is None and not told.entry.get("deleted")]
    standing = await _standing(connection, said, deliveries.HELD, deliveries.STANDING)
    changes = [told for told in wanted if told.change is not None]
    standing |= await _standing(connection, changes, deliveries.HELD_LEAVES, deliveries.STANDING_LEAVES)
    customers = await _by_key(connection, deliveries.CUSTOMERS, {(told.tenant, told.leaf_id) for told in wanted})
    canonical = await _by_key(
        connection,
        deliveries.CANONICAL,
        {(told.tenant, told.conversation_id) for told in wanted if told.conversation_id},
    )
    events = []
    for told, endpoints in heard:
        if not told.entry.get("deleted") and told.entry_id not in standing:
            continue
        if told.from_row:
            # Few are. A statement for each, so that no more than one is here in whole: it is shortened right away.
            line = await connection.fetchrow(deliveries.WHOLE, told.tenant, told.entry_id)
            told = whole(told, tuple(line))
        customer = customers.get((told.tenant, told.leaf_id))
        conversation = (
            canonical.get((told.tenant, told.conversation_id), told.conversation_id) if told.conversation_id else None
        )
        body = body_of(told, customer, conversation)
        events.append(
            NewEvent(
                told.tenant, told.webhook_id, told.leaf_id, told.entry_id, told.type, body, customer or told.leaf_id,
                endpoints,
            )
        )  # fmt: skip
    return events


async def _standing(connection: Connection, told: Sequence[Told], held_by: str, there_by: str) -> set[UUID]:
    if not told:
        return set()
    keys = [one.tenant for one in told], [one.entry_id for one in told]
    held = {row["entry_id"] for row in await connection.fetch(held_by, *keys)}
    there = {row["entry_id"] for row in await connection.fetch(there_by, *keys)}
    if there - held:
        raise DatabaseUnavailable("entries or handles are being removed just now")
    return held


async def _by_key(connection: Connection, statement: str, keys: set[tuple[str, UUID]]) -> dict[tuple[str, UUID], UUID]:
    if not keys:
        return {}
    rows = await connection.fetch(statement, *map(list, zip(*sorted(keys), strict=True)))
    return {(row[0], row[1]): row[2] for row in rows}
