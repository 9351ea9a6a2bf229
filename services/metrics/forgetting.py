"""What an erasure leaves of a person in the numbers: nothing that tells whose they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from services.metrics import store
from services.metrics.evaluation import AGENT, AGENT_DAY, group_of
from services.metrics.loading import part_name
from services.metrics.work import Work
from shared import erasures
from shared.log.database import Connection


async def forget_erased(connection: Connection, works: Sequence[Work]) -> None:
    """Take the names that erased entries gave out of the tables too, and note how many entries are numbers now."""
    for work in works:
        erased = Counter(id_ for key, id_ in work.erased.items() if key in work.entries)
        if not erased:
            continue
        parts = {group_of(work.before[key]) for key in work.erased if key in work.before}
        named = {part_name(ref): ref for ref in parts if ref is not None and ref.kind not in (AGENT, AGENT_DAY)}
        await store.forget_names(connection, work.tenant, named)
        work.memory.forget()
        for erasure_id, count in erased.items():
            await erasures.add_findings(connection, work.tenant, UUID(erasure_id), {erasures.COUNTED: count})
