"""Every streaming KPI against its recomputation."""

from __future__ import annotations

from shared.service import Platform


async def kpi_faults(platform: Platform) -> list[str]:
    """Return a line for each KPI whose streaming value differs from its recomputation."""
    from services.metrics.recount import drift

    return [line async for line in drift(platform.pool)]
