"""How rows become what callers are shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from services.conversation import entries
from shared.events import DERIVED_SOURCE, rfc3339

WIDTH = len(entries.LINE)

# Texts cost a fifth of what times cost on their way through the driver, and texts is what they become. Sessions are in
# UTC (shared/database/engine.py).
RFC3339 = """to_char({}, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


def _columns(derived: str, *, as_text: bool) -> str:
    named = {"derived": f"{derived} AS derived"}
    if as_text:
        named["entry_id"] = "e.entry_id::text"
        named |= {name: f"{RFC3339.format(f'e.{name}')} AS {name}" for name in ("occurred_at", "recorded_at")}
    return ", ".join(named.get(name, f"e.{name}") for name in entries.LINE)


LINE = _columns("e.cause_id IS NOT NULL", as_text=False)
"""What is shown of entries `e`, for a statement within another, which orders them."""
SHOWN = _columns("e.cause_id IS NOT NULL", as_text=True)
"""The same as `seen_by` takes it: its id and times as texts."""
SHOWN_LINE = _columns("e.derived", as_text=True)
"""The same of `e` that are LINEs already."""

# Whether an agent joined the whole conversation of an entry into another: of merges only those come from ourselves.
JOINED_WHOLE = f"coalesce(c.merged_source = '{DERIVED_SOURCE}', false) AS joined_whole"

IS_OPEN = "k.resolved_at IS NULL AND k.last_activity_at IS NOT NULL"
"""Somebody has something to do about conversation `k`. Where only machines wrote nobody has: that opens nothing."""


def time_shown(at: datetime | None) -> str | None:
    return rfc3339(at) if at else None


def seen_by(reader: str | None, row: Sequence[Any]) -> dict[str, Any]:
    """Return an entry as `reader` (a customer's id) sees it.

    `row` begins with SHOWN; its conversation's canonical id, whether its own conversation was joined whole, and its
    customer follow. Where that is null the entry is the reader's own.
    """
    line = row[: WIDTH + 2]
    extra = entries.extra_of(line[WIDTH - 1])
    said = entries.shown(line, extra)
    customer_id = row[WIDTH + 2] or reader
    said["extra"] = extra
    said["via"] = "identity" if reader is None or customer_id == reader else "conversation"
    said["customer_id"] = customer_id
    return said
