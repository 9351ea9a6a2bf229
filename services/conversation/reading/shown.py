"""How rows become what callers are shown."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from services.conversation.entries import Line, render
from shared.events import DERIVED_SOURCE, rfc3339

WIDTH = len(Line._fields)
LINE = ", ".join("e.cause_id IS NOT NULL AS derived" if name == "derived" else f"e.{name}" for name in Line._fields)
"""Columns of a `Line`, of entries `e`."""

# Whether an agent joined the whole conversation of an entry into another: of merges only those come from ourselves.
JOINED_WHOLE = f"coalesce(c.merged_source = '{DERIVED_SOURCE}', false) AS joined_whole"

IS_OPEN = "k.resolved_at IS NULL AND k.last_activity_at IS NOT NULL"
"""Somebody has something to do about conversation `k`. Where only machines wrote nobody has: that opens nothing."""


def time_shown(at: datetime | None) -> str | None:
    return rfc3339(at) if at else None


def seen_by(reader: UUID | None, row: asyncpg.Record) -> dict[str, Any]:
    """Return an entry as `reader` (a customer) sees it.

    `row` begins with LINE, its conversation's canonical id, its customer and whether its conversation was joined whole.
    """
    canonical_id, customer_id, joined_whole = row[WIDTH : WIDTH + 3]
    via = "conversation" if reader is not None and customer_id != reader else "identity"
    shown = render(Line(*row[:WIDTH]), canonical_id, joined_whole=joined_whole)
    shown["via"], shown["customer_id"] = via, str(customer_id)
    return shown
