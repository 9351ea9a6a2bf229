"""Who of a consumer group reads which partition: pure decisions, and sizes of what is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID


def assignment(member: UUID, members: Collection[UUID], partitions: int) -> frozenset[int]:
    """Return the partitions of `member` among the live `members`; nothing where it is not one of them.

    Every member computes the same answer from the same members, so nobody has to lead.
    """
    order = sorted(members)
    if member not in order:
        return frozenset()
    return frozenset(range(order.index(member), partitions, len(order)))


def shares(available: Mapping[int, int], limit: int) -> dict[int, int]:
    """Divide `limit` records fairly among partitions that have so many `available`, none left over in vain.

    The sum of the shares is the lesser of `limit` and all that is available; a partition with little gives its rest
    to the others.
    """
    result: dict[int, int] = {}
    left = limit
    waiting = sorted((count, partition) for partition, count in available.items() if count > 0)
    for position, (count, partition) in enumerate(waiting):
        share = min(count, left // (len(waiting) - position))
        if position == len(waiting) - 1:
            share = min(count, left)
        if share:
            result[partition] = share
            left -= share
    return result
