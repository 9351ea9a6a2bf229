"""Opening hours, agreements, receipts and the scoreboard over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from services.metrics.recount import drift
from services.metrics.scoreboard import BENCHMARKS, wilson
from shared.settings import Settings
from tests.conftest import needs
from tests.kpi_timeline import OFFICE, posted, records_of, uid
from tests.metrics_app import Metrics, running_metrics

pytestmark = needs("shared_data")

D1, D2, D3 = "2026-03-02T23:00:00Z", "2026-03-03T23:00:00Z", "2026-03-04T23:00:00Z"
SCHEDULE = {"timezone": "Europe/Amsterdam", "valid_from": "2026-01-01T00:00:00Z", "rules": OFFICE}


@pytest.fixture
async def service(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Metrics]:
    async with running_metrics(pool, settings) as running:
        events = posted("events.jsonl")
        await running.take([r for n, event in enumerate(events) for r in records_of(event, "t1", n + 2)])
        yield running


async def right(service: Metrics) -> None:
    assert [line async for line in drift(service.platform.pool)] == []


async def test_a_backdated_schedule_changes_business_time_and_nothing_else(service: Metrics) -> None:
    before = await service.kpi("first_reply_time", start=D1, end=D3, clock="business")
    assert before["tz"] == "UTC" and before["total"]["value"] == 11_040  # until then always open
    stored = await service.put("/v1/schedule", {**SCHEDULE, "closed_dates": ["2026-12-25"]})
    assert stored.status_code == 200, stored.text
    assert stored.json() == {
        "valid_from": "2026-01-01T00:00:00.000000Z", "timezone": "Europe/Amsterdam",
        "rules": {day: [list(span) for span in spans] for day, spans in OFFICE.items()}, "closed_dates": ["2026-12-25"],
    }  # fmt: skip
    after = await service.kpi("first_reply_time", start=D1, end=D3, clock="business")
    assert after["tz"] == "Europe/Amsterdam"
    assert (after["total"]["numerator"], after["total"]["denominator"], after["total"]["value"]) == (2520, 3, 840)
    calendar = await service.kpi("first_reply_time", start=D1, end=D3)
    assert calendar["total"]["value"] == 11_040
    await right(service)
    # A later version that closes the whole of D2 leaves D1 as it was and takes the morning's 10 minutes of K3.
    closed = {**SCHEDULE, "valid_from": "2026-03-03T23:00:00Z", "rules": {}}
    assert (await service.put("/v1/schedule", closed)).status_code == 200
    after = await service.kpi("first_reply_time", start=D1, end=D3, clock="business", step="1d")
    assert [p["numerator"] for p in after["points"]] == [1920, 0]
    assert len((await service.get("/v1/schedule")).json()["versions"]) == 2
    await right(service)


async def test_an_agreement_is_met_breached_or_not_yet_due(service: Metrics) -> None:
    assert (await service.kpi("sla_attainment_ratio", start=D1, end=D3))["total"]["value"] is None
    body = {"valid_from": "2026-01-01T00:00:00Z", "first_reply_s": 900, "resolution_s": 3600, "clock": "calendar"}
    assert (await service.put("/v1/sla", body)).status_code == 200
    reply = (await service.kpi("sla_attainment_ratio", start=D1, end=D3, variant="first_reply"))["total"]
    assert (reply["numerator"], reply["denominator"]) == (1, 3)  # K1 in 2 min; K2 and K3 are due after 15
    # Our turns: K1 2 min + 30 min (phone 15 s) and then solved; K2 30 min, replied, solved; K3 alone overnight.
    solved = (await service.kpi("sla_attainment_ratio", start=D1, end=D3, variant="resolution"))["total"]
    assert (solved["numerator"], solved["denominator"]) == (2, 3)
    both = (await service.kpi("sla_attainment_ratio", start=D1, end=D3))["total"]
    assert (both["numerator"], both["denominator"]) == (3, 6)
    service.clock.time = datetime(2026, 3, 3, 10, 50, tzinfo=UTC)  # K2 opened 10 minutes ago
    early = (await service.kpi("sla_attainment_ratio", start=D1, end=D3, variant="first_reply"))["total"]
    assert early["denominator"] == 1
    await right(service)


async def test_an_agreement_holds_for_what_opens_under_it(service: Metrics) -> None:
    body = {"valid_from": "2026-03-03T12:00:00Z", "first_reply_s": 900, "clock": "calendar"}
    assert (await service.put("/v1/sla", body)).status_code == 200
    total = (await service.kpi("sla_attainment_ratio", start=D1, end=D3))["total"]
    assert (total["numerator"], total["denominator"]) == (0, 1)  # only K3 opened after


BAD_RULES: dict[str, tuple[str, Any]] = {
    "an unknown zone": ("/v1/schedule", {**SCHEDULE, "timezone": "Mars/Olympus"}),
    "a day that is none": ("/v1/schedule", {**SCHEDULE, "rules": {"someday": []}}),
    "a span that ends before it starts": ("/v1/schedule", {**SCHEDULE, "rules": {"mon": [["17:00", "09:00"]]}}),
    "spans that overlap": ("/v1/schedule", {**SCHEDULE, "rules": {"mon": [["09:00", "12:00"], ["11:00", "17:00"]]}}),
    "a time that is none": ("/v1/schedule", {**SCHEDULE, "rules": {"mon": [["9", "17:00"]]}}),
    "a start without a zone": ("/v1/schedule", {**SCHEDULE, "valid_from": "2026-01-01T00:00:00"}),
    "a start before there were computers": ("/v1/schedule", {**SCHEDULE, "valid_from": "0001-01-01T00:00:00Z"}),
    "an agreement for another age": ("/v1/sla", {"first_reply_s": 60, "valid_from": "2200-01-01T00:00:00Z"}),
    "a date that does not exist": ("/v1/schedule", {**SCHEDULE, "closed_dates": ["2026-02-30"]}),
    "a promise of no time": ("/v1/sla", {"first_reply_s": 0}),
    "an unknown clock": ("/v1/sla", {"first_reply_s": 60, "clock": "water"}),
    "an unknown field": ("/v1/sla", {"first_reply": 60}),
}


@pytest.mark.parametrize("name", BAD_RULES)
async def test_bad_rules_are_refused_and_nothing_is_stored(service: Metrics, name: str) -> None:
    path, body = BAD_RULES[name]
    refused = await service.put(path, body)
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    assert (await service.get(path)).json() == {"versions": []}


async def test_only_an_admin_sets_rules(service: Metrics) -> None:
    assert (await service.put("/v1/sla", {"first_reply_s": 60}, key="reader")).status_code == 403
    assert (await service.put("/v1/schedule", SCHEDULE, key=None)).status_code == 401


# Receipts


async def receipts(service: Metrics, kpi: str, **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while True:
        answer = await service.get(f"/v1/kpis/{kpi}/receipts", limit=2, **params, **cursor)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["receipts"]) <= 2
        found += page["receipts"]
        if page["next"] is None:
            return found
        cursor = {"cursor": page["next"]}


K1, K2, K3 = (uid(f"conversation K{n}") for n in (1, 2, 3))


async def test_receipts_name_the_conversations_and_events_behind_a_number(service: Metrics) -> None:
    found = await receipts(service, "first_reply_time", start=D1, end=D3)
    assert {r["id"]: r["event_ids"] for r in found} == {
        K1: ["e01", "e06"], K2: ["e20", "e33"], K3: ["e25", "e27"],
    }  # fmt: skip
    messages = await receipts(service, "messages_received", start=D1, end=D2)
    assert sorted(r["event_ids"][0] for r in messages) == ["e02", "e04", "e08", "e21"]
    calls = await receipts(service, "abandonment_ratio", start=D1, end=D2)
    assert {r["id"]: r["event_ids"] for r in calls} == {"P1": ["e11", "e12"], "P2": ["e16", "e17"]}
    answers = await receipts(service, "csat_ratio", start=D1, end=D3)
    assert [(r["id"], r["event_ids"]) for r in answers] == [("s1", ["e15", "e29"])]
    customers = await receipts(service, "multichannel_3to5_ratio", start=D1, end=D3)
    assert {r["id"] for r in customers} == {uid("customer C1"), uid("customer C2")}
    late = await receipts(service, "reply_within_ratio", start=D1, end=D2, threshold_s=900)
    assert {r["id"] for r in late} == {K1, K2}


async def test_every_kpi_has_one_receipt_for_each_unit_of_its_denominator(service: Metrics) -> None:
    sums = {
        "occupancy", "agent_turnover_ratio", "agent_efficiency", "channel_availability_ratio", "cost_per_minute",
        "cost_to_revenue_ratio", "spend_after_ratio", "customer_churn_ratio", "backlog", "channel_growth_ratio",
    }  # fmt: skip
    for kpi in (await service.get("/v1/kpis")).json()["kpis"]:
        total = (await service.kpi(kpi["id"], start=D1, end=D3))["total"]
        found = await receipts(service, kpi["id"], start=D1, end=D3)
        if kpi["id"] not in sums:
            assert len(found) == total["denominator"], kpi["id"]
        for receipt in found:
            assert receipt["id"] and receipt["event_ids"], (kpi["id"], receipt)


async def test_receipts_of_another_tenant_are_none(service: Metrics) -> None:
    found = await service.get("/v1/kpis/first_reply_time/receipts", key="t2", start=D1, end=D3)
    assert found.json()["receipts"] == []


async def test_a_forged_cursor_is_a_problem(service: Metrics) -> None:
    for cursor in ("zzz", "WzFd", "eyJhIjoxfQ"):
        found = await service.get("/v1/kpis/first_reply_time/receipts", cursor=cursor)
        assert found.status_code == 422, cursor
        assert found.json()["errors"][0]["pointer"] == "#/query/cursor"


# Scoreboard


async def test_the_scoreboard_shows_each_benchmark_with_its_sample_and_interval(service: Metrics) -> None:
    rows = {row["id"]: row for row in (await service.get("/v1/scoreboard")).json()["rows"]}
    assert set(rows) == {benchmark.id for benchmark in BENCHMARKS}
    csat = rows["csat"]
    assert (csat["figure"], csat["value"], csat["denominator"]) == (0.86, 1, 1)
    assert csat["ci95"] == pytest.approx([0.2065, 1], abs=1e-4)
    assert rows["messages_before_answer"]["value"] == pytest.approx(4 / 3)
    assert rows["messages_before_answer"]["ci95"] is None, "of single counts only the sum is known, so no spread"
    assert rows["first_reply_fastest"]["value"] == 120
    assert rows["cost_per_ticket"]["value"] == 12
    assert rows["chat_to_email"]["value"] == 1 and rows["email_to_call"]["value"] == 0.5
    assert rows["nps"]["value"] == 100
    assert not rows["portal_offered"]["comparable"] and rows["portal_offered"]["note"]
    assert all(row["source"] for row in rows.values())


def test_wilsons_interval_is_the_textbooks() -> None:
    assert wilson(0.5, 10) == pytest.approx([0.2366, 0.7634], abs=1e-4)
    assert wilson(0.0, 20) == pytest.approx([0.0, 0.1611], abs=1e-4)


async def test_a_due_time_passes_by_the_services_clock_and_is_taken_back_by_a_late_reply(
    pool: asyncpg.Pool, settings: Settings
) -> None:
    events = [e for e in posted("events.jsonl") if e["event_id"] in ("e20", "e21")]
    opened = datetime.fromisoformat(events[0]["occurred_at"])
    async with running_metrics(pool, settings, opened + timedelta(hours=23)) as service:
        await service.take([r for n, event in enumerate(events) for r in records_of(event, "t1", n + 2)])
        window = {"start": D1, "end": "2026-03-06T00:00:00Z"}
        assert (await service.kpi("unanswered_ratio", **window))["total"]["value"] is None
        service.clock.time = opened + timedelta(hours=24)
        due = (await service.kpi("unanswered_ratio", **window))["total"]
        assert (due["numerator"], due["denominator"], due["provisional"]) == (1, 1, True)
        late = next(e for e in posted("events.jsonl") if e["event_id"] == "e33")
        await service.take(records_of(late, "t1", 99))
        after = (await service.kpi("unanswered_ratio", **window))["total"]
        assert (after["numerator"], after["denominator"]) == (0, 1)
