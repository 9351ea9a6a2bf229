"""Opening hours and agreements over HTTP."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from services.metrics.asking import zone_of
from services.metrics.revision import put_version, reevaluate
from shared.auth import Principal, require
from shared.business import DAYS, EARLIEST, LATEST
from shared.database.engine import tenant_reader
from shared.events import rfc3339
from shared.service import Platform

Admin = Annotated[Principal, Depends(require("admin"))]
Reader = Annotated[Principal, Depends(require("kpis:read"))]

ANSWER_WITHIN_S = 5.0
"""How long a PUT waits for what it changes to be evaluated again; a large tenant's rest follows by itself."""


def _in_the_calendar(valid_from: datetime | None) -> datetime | None:
    if valid_from is not None and not EARLIEST <= valid_from < LATEST:
        raise ValueError(f"must lie between {EARLIEST.year} and {LATEST.year}")
    return valid_from


ValidFrom = Annotated[AwareDatetime | None, AfterValidator(_in_the_calendar)]

_WALL = re.compile(r"([01]\d|2[0-3]):[0-5]\d|24:00")


class ScheduleIn(BaseModel):
    """Opening hours from an instant on. A weekday that is missing is closed."""

    model_config = ConfigDict(extra="forbid")
    timezone: str = Field(max_length=64)
    valid_from: ValidFrom = None
    rules: dict[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], list[tuple[str, str]]]
    closed_dates: list[date] = Field(default_factory=list, max_length=5000)

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        zone_of(name)
        return name

    @field_validator("rules")
    @classmethod
    def _spans(cls, rules: dict[str, list[tuple[str, str]]]) -> dict[str, list[tuple[str, str]]]:
        for day, spans in rules.items():
            if len(spans) > 24:
                raise ValueError(f"{day} has more than 24 spans")
            last = ""
            for opens, closes in sorted(spans):
                if not (_WALL.fullmatch(opens) and _WALL.fullmatch(closes)) or opens >= closes:
                    raise ValueError(f"{day}: a span is two times of the day, such as 09:00 and 17:00 (24:00 at most)")
                if opens < last:
                    raise ValueError(f"{day}: spans overlap")
                last = closes
        return rules


class SlaIn(BaseModel):
    """An agreement from an instant on; a time that is missing is not promised."""

    model_config = ConfigDict(extra="forbid")
    valid_from: ValidFrom = None
    first_reply_s: float | None = Field(default=None, gt=0, le=31_622_400)
    resolution_s: float | None = Field(default=None, gt=0, le=31_622_400)
    clock: Literal["calendar", "business"] = "calendar"


VERSIONS = "SELECT valid_from, body FROM metrics.{table} WHERE tenant_id = $1 ORDER BY valid_from"


def rules_router(platform: Platform) -> APIRouter:
    """Return the routes of schedules and agreements."""
    router = APIRouter(tags=["rules"])

    @router.put("/v1/schedule", summary="Set the opening hours from an instant on")
    async def put_schedule(body: ScheduleIn, principal: Admin) -> dict[str, Any]:
        """Store a version (default: from now on) and evaluate again what it decides. Returns it as stored."""
        rules = {day: body.rules.get(day, []) for day in DAYS if day in body.rules}
        stored = {
            "timezone": body.timezone,
            "rules": rules,
            "closed_dates": sorted({day.isoformat() for day in body.closed_dates}),
        }
        return await _put("schedule", principal.tenant, body.valid_from, stored)

    @router.put("/v1/sla", summary="Set the service level agreement from an instant on")
    async def put_sla(body: SlaIn, principal: Admin) -> dict[str, Any]:
        """Store a version (default: from now on) and evaluate again what it decides. Returns it as stored."""
        stored = body.model_dump(exclude={"valid_from"})
        return await _put("sla", principal.tenant, body.valid_from, stored)

    async def _put(kind: str, tenant: str, valid_from: datetime | None, stored: dict[str, Any]) -> dict[str, Any]:
        now = platform.clock.now()
        start = (valid_from or now).astimezone(UTC)
        await put_version(platform.pool, kind, tenant, start, stored, now)
        try:
            await asyncio.wait_for(reevaluate(platform.pool, platform.clock, tenant), ANSWER_WITHIN_S)
        except TimeoutError:
            pass  # the loop that finishes marked tenants goes on with it
        return {"valid_from": rfc3339(start), **stored}

    @router.get("/v1/schedule", summary="All versions of the opening hours")
    async def get_schedule(principal: Reader) -> dict[str, Any]:
        """The versions by the instant they start; none means UTC and always open."""
        return {"versions": await _versions("schedule", principal.tenant)}

    @router.get("/v1/sla", summary="All versions of the service level agreement")
    async def get_sla(principal: Reader) -> dict[str, Any]:
        """The versions by the instant they start; none means that nothing is promised."""
        return {"versions": await _versions("sla", principal.tenant)}

    async def _versions(table: str, tenant: str) -> list[dict[str, Any]]:
        async with tenant_reader(platform.pool, tenant) as connection:
            rows = await connection.fetch(VERSIONS.format(table=table), tenant)
        return [{"valid_from": rfc3339(valid_from), **body} for valid_from, body in rows]

    return router
