"""A stretch of a topic, read on the side: no group moves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from time import monotonic
from uuid import uuid4

from shared.errors import LogUnavailable
from shared.log.protocol import Log, Record

BATCH = 2_000
SILENCE_S = 30.0
"""How long a read of the log may bring nothing before it counts as a fault."""


async def stretch(
    log: Log, topic: str, begins: Mapping[int, int], ends: Mapping[int, int]
) -> AsyncIterator[Sequence[Record]]:
    """Yield the records of `topic` from `begins` to before `ends`, offsets by partition, some at a time.

    Raises LogUnavailable, also where the log falls silent before the end, and LogTruncated.
    """
    reached = {partition: begins.get(partition, end) for partition, end in ends.items()}

    async def where(_: str, partition: int) -> int:
        return reached[partition]

    async with log.consume(f"reader-{uuid4()}", topic, where) as consumer:
        heard = monotonic()
        while any(reached[partition] < end for partition, end in ends.items()):
            fetched = await consumer.fetch(BATCH, 1.0)
            some = [r for rs in fetched.values() for r in rs if reached[r.partition] <= r.offset < ends[r.partition]]
            for partition, records in fetched.items():
                if records:
                    reached[partition] = max(reached[partition], records[-1].offset + 1)
                    heard = monotonic()
            if some:
                yield some
            if monotonic() - heard > SILENCE_S:
                raise LogUnavailable(f"{log.name(topic)} gave nothing for {SILENCE_S:.0f} s before its end was read")
