"""How rows become what callers are shown."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from services.conversation.entries import COLUMNS, Entry, render
from shared.events import DERIVED_SOURCE, rfc3339

# Whether an agent joined the whole conversation of an entry into another: of merges only those come from ourselves.
JOINED_WHOLE = f"coalesce(c.merged_source = '{DERIVED_SOURCE}', false) AS joined_whole"


def time_shown(at: datetime | None) -> str | None:
    return rfc3339(at) if at else None


def seen_by(reader: UUID | None, row: asyncpg.Record) -> dict[str, Any]:
    width = len(COLUMNS)
    entry = Entry(*row[:width])
    canonical_id, customer_id, joined_whole = row[width], row[width + 1], row[width + 2]
    via = "conversation" if reader is not None and customer_id != reader else "identity"
    shown = render(entry, canonical_id, joined_whole=joined_whole)
    shown["via"], shown["customer_id"] = via, str(customer_id)
    return shown
