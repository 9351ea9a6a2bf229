"""How large records are, and how large they may be."""

from __future__ import annotations

from collections.abc import Sequence

from shared.errors import RecordTooLarge
from shared.log.protocol import Outgoing


def measure(records: Sequence[Outgoing], limit_bytes: int) -> int:
    """Return the bytes of `records` with keys and headers. Raises RecordTooLarge if any is above `limit_bytes`."""
    total = 0
    for record in records:
        size = len(record.key) + len(record.value)
        if record.headers:
            size += sum(len(name) + len(value) for name, value in record.headers)
        if size > limit_bytes:
            raise RecordTooLarge(f"a record of {size} bytes is above the log's limit of {limit_bytes} bytes")
        total += size
    return total
