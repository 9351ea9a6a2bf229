"""The worked example of the KPI catalogue through the public API: every built KPI is exact, at every stage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from time import monotonic
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from tests.conftest import needs
from tests.processes import up

ZONE = "Europe/Amsterdam"
STAGES = {"before reopen": 32, "before late": 33, "before merge": 34, "final": 35}
BOTH = ("2026-03-03", "2026-03-04")
PATIENCE_S = 20.0

# Names of expected.json that are not KPI ids: the KPI and its query, and what of the answer is compared.
NAMES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "first_reply_time_business": ("first_reply_time", {"clock": "business"}),
    "reply_within_900s": ("reply_within_ratio", {"threshold_s": "900"}),
    "reply_within_14400s": ("reply_within_ratio", {"threshold_s": "14400"}),
    "reply_within_86400s": ("reply_within_ratio", {"threshold_s": "86400"}),
    "escalation_chat_to_email": ("escalation_ratio", {"from_channel": "chat", "to_channel": "email"}),
    "escalation_email_to_phone": ("escalation_ratio", {"from_channel": "email", "to_channel": "phone"}),
    "escalation_phone_to_email": ("escalation_ratio", {"from_channel": "phone", "to_channel": "email"}),
    "aht_phone": ("aht", {"channel": "phone"}),
    "backlog_delta": ("backlog", {}),
    "distinct_customers": ("multichannel_3to5_ratio", {}),
    "handle_s": ("cost_per_minute", {}),
}
COST_KPIS = ("cost_per_contact", "cost_per_resolution", "cost_per_minute")


@needs("shared_data")
@pytest.mark.timeout(300)
async def test_every_built_kpi_of_the_worked_example_is_exact_at_every_stage(
    open_folder: Path, shared_data: Path
) -> None:
    lines = (shared_data / "kpis" / "worked_example.jsonl").read_text("utf8").splitlines()
    expected = json.loads((shared_data / "kpis" / "expected.json").read_text("utf8"))
    stages = {**{one["stage"]: one["values"] for one in expected["stages"]}, "final": expected["final"]}
    async with up(open_folder) as system, system.client("worked-example", system.ingest) as client:
        catalogue = {one["id"] for one in (await client.get("/v1/kpis")).raise_for_status().json()["kpis"]}
        assert {
            "messages_received",
            "messages_sent",
            "conversations_opened",
            "first_reply_time",
            "csat_ratio",
        } <= catalogue
        scheduled = await put_schedule(client)
        posted, checked = 0, set()
        for stage, upto in STAGES.items():
            for line in lines[posted:upto]:
                answer = await client.post(
                    "/v1/events", content=line, headers={"Content-Type": "application/cloudevents+json"}
                )
                assert answer.status_code == 202, answer.text
            posted = upto
            values = [one for one in stages[stage] if built(one["kpi"], catalogue, scheduled)]
            checked |= {one["kpi"] for one in values}
            assert await settled(client, values) == [], stage
        assert len(checked) >= 5, checked


def built(name: str, catalogue: set[str], scheduled: bool) -> bool:
    """Whether this Threadline has the KPI of a name (and, for business hours, schedules)."""
    if name == "cost_cents":
        return bool(catalogue & set(COST_KPIS))
    return NAMES.get(name, (name, {}))[0] in catalogue and (scheduled or not name.endswith("_business"))


async def put_schedule(client: httpx.AsyncClient) -> bool:
    """Put the example's schedule; False where schedules are not built (404)."""
    rules = {day: [["09:00", "17:00"]] for day in ("mon", "tue", "wed", "thu", "fri")}
    answer = await client.put(
        "/v1/schedule",
        json={"timezone": ZONE, "valid_from": "2026-01-01T00:00:00Z", "rules": rules, "closed_dates": []},
    )
    assert answer.status_code in (200, 201, 204, 404, 405), answer.text
    return answer.status_code < 300


async def settled(client: httpx.AsyncClient, values: Sequence[Mapping[str, Any]]) -> list[str]:
    """Ask until every value is as expected or patience is at its end; return what differs."""
    deadline = monotonic() + PATIENCE_S
    while True:
        wrong = [line for value in values if (line := await difference(client, value))]
        if not wrong or monotonic() > deadline:
            return wrong
        await asyncio.sleep(0.1)


async def difference(client: httpx.AsyncClient, value: Mapping[str, Any]) -> str | None:
    """Return a line where the API's numerator or denominator is not the expected one."""
    name = value["kpi"]
    kpi, query = NAMES.get(name, (name, {}))
    if name == "cost_cents":
        kpi = COST_KPIS[0]
    named = BOTH if "both" in value["windows"] else value["windows"]
    days = [datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(ZONE)) for day in named]
    span = {"start": min(days).isoformat(), "end": (max(days) + timedelta(days=1)).isoformat(), "tz": ZONE}
    answer = await client.get(f"/v1/kpis/{kpi}", params={**query, **span})
    if answer.status_code != 200:
        return f"{name} {value['windows']}: {answer.status_code} {answer.text[:200]}"
    body = answer.json()
    total, want = body["total"], (value.get("numerator"), value.get("denominator"))
    got: tuple[Any, Any]
    if name == "handle_s":
        # The denominator of cost_per_minute is in minutes.
        got, want = (round(total["denominator"] * 60), None), (want[0], None)
    elif name == "cost_cents":
        got, want = (round(total["numerator"] * 100), None), (want[0], None)
    elif name == "distinct_customers":
        got, want = (total["denominator"], None), (want[0], None)
    elif body["unit"] == "n" and name not in ("messages_before_reply",):
        got, want = (total["numerator"], None), (want[0], None)
    else:
        got = (total["numerator"], total["denominator"])
    return None if same(got, want) else f"{name} {value['windows']}: {got} instead of {want}"


def same(got: Sequence[Any], want: Sequence[Any]) -> bool:
    """Compare exactly; a float that stands for a whole number counts as it."""
    return all(
        a is b
        if a is None or b is None
        else Fraction(a).limit_denominator(10**6) == Fraction(b).limit_denominator(10**6)
        for a, b in zip(got, want, strict=True)
    )
