"""What tenants promise and when they are open, as stored: numbers and conversations follow the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asyncpg import Connection

from shared.business import Rules, Schedule, Sla
from shared.instants import SECOND, micros

RULES = """
SELECT tenant_id, valid_from, body, 'schedule' AS kind FROM metrics.schedule WHERE tenant_id = ANY ($1)
UNION ALL
SELECT tenant_id, valid_from, body, 'sla' FROM metrics.sla WHERE tenant_id = ANY ($1)
ORDER BY valid_from
"""


async def rules(connection: Connection, tenants: Sequence[str]) -> dict[str, Rules]:
    """Return the tenants' schedules and agreements."""
    schedules: dict[str, list[Schedule]] = {}
    slas: dict[str, list[Sla]] = {}
    for tenant, valid_from, body, kind in await connection.fetch(RULES, tenants):
        if kind == "schedule":
            schedules.setdefault(tenant, []).append(schedule_of(micros(valid_from), body))
        else:
            slas.setdefault(tenant, []).append(sla_of(micros(valid_from), body))
    return {tenant: Rules(tuple(schedules.get(tenant, ())), tuple(slas.get(tenant, ()))) for tenant in tenants}


def schedule_of(valid_from: int, body: Mapping[str, Any]) -> Schedule:
    """Return the schedule stored as `body`."""
    spans = {day: [(opens, closes) for opens, closes in hours] for day, hours in body["rules"].items()}
    return Schedule(valid_from, body["timezone"], spans, frozenset(body.get("closed_dates", ())))


def sla_of(valid_from: int, body: Mapping[str, Any]) -> Sla:
    """Return the agreement stored as `body`."""
    first, resolution = body.get("first_reply_s"), body.get("resolution_s")
    return Sla(
        valid_from,
        None if first is None else round(first * SECOND),
        None if resolution is None else round(resolution * SECOND),
        body.get("clock", "calendar"),
    )
