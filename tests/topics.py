"""What a topic tells whoever reads it from its beginning."""

from __future__ import annotations

from uuid import uuid4

from shared.log.protocol import Log, Record


async def records_of(log: Log, topic: str) -> list[Record]:
    """Return all that a topic tells a new reader, as far as it goes now."""

    async def beginning(_: str, __: int) -> int:
        return 0

    found: list[Record] = []
    total = sum((await log.end_offsets(topic)).values())
    async with log.consume(f"reader-{uuid4()}", topic, beginning) as consumer:
        while len(found) < total:
            found += [record for records in (await consumer.fetch(100, 1.0)).values() for record in records]
    return found
