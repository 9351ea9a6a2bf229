"""The KPI API over HTTP: values of the worked example, shapes, who may ask, and what is wrong with bad questions."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from services.metrics.kpis import DEFINITIONS
from services.metrics.routes import wants_csv
from services.metrics.shapes import KpiAnswer, Receipts, Scoreboard
from shared.settings import Settings
from tests.conftest import needs
from tests.kpi_timeline import posted, records_of
from tests.metrics_app import Metrics, running_metrics
from tests.unit.test_kpi_example import COUNTS, LINES, QUERIES, expected, span

pytestmark = needs("shared_data")

D1, D2, D3 = "2026-03-02T23:00:00Z", "2026-03-03T23:00:00Z", "2026-03-04T23:00:00Z"


@pytest.fixture
async def service(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Metrics]:
    async with running_metrics(pool, settings) as running:
        await pool.execute(
            "INSERT INTO metrics.schedule VALUES ('t1', 'epoch', $1, now())",
            {"timezone": "Europe/Amsterdam", "rules": {d: [["09:00", "17:00"]] for d in WEEK}},
        )
        yield running


WEEK = ("mon", "tue", "wed", "thu", "fri")


async def take_lines(service: Metrics, start: int, end: int) -> None:
    events = posted("events.jsonl")
    await service.take([r for n in range(start, end) for r in records_of(events[n], "t1", n + 2)])


def parameters(options: dict[str, Any]) -> dict[str, Any]:
    return {**{k: v for k, v in options.items() if k != "filters"}, **options.get("filters", {})}


async def values(service: Metrics, line: dict[str, Any], **more: Any) -> tuple[float, float]:
    kpi, options = QUERIES.get(line["kpi"], (line["kpi"], {}))
    start, end = span(line["windows"])
    total = (await service.kpi(kpi, start=start.isoformat(), end=end.isoformat(), **parameters(options), **more))[
        "total"
    ]
    if line["kpi"] == "handle_s":
        return total["denominator"] * 60, line["denominator"]
    if line["kpi"] == "cost_cents":
        return total["numerator"] * 100, line["denominator"]
    if line["kpi"] == "distinct_customers":
        return total["denominator"], total["denominator"]
    return total["numerator"], total["denominator"]


async def test_every_value_of_the_worked_example_is_answered_exactly_at_every_stage(service: Metrics) -> None:
    done = 0
    for stage, lines in LINES.items():
        await take_lines(service, done, lines)
        done = lines
        for line in expected(stage):
            assert await values(service, line) == (line["numerator"], line["denominator"]), (stage, line)


async def test_as_of_gives_the_values_as_they_stood_at_each_stage(service: Metrics) -> None:
    done = 0
    stages = {"before reopen": "2026-03-04T09:59:00Z", "before late": "2026-03-04T10:29:00Z",
              "before merge": "2026-03-04T10:59:00Z"}  # fmt: skip
    for lines in LINES.values():
        await take_lines(service, done, lines)
        done = lines
    for stage, as_of in stages.items():
        for line in expected(stage):
            assert await values(service, line, as_of=as_of) == (line["numerator"], line["denominator"]), (stage, line)


async def test_steps_are_local_days_and_the_total_is_pooled(service: Metrics) -> None:
    await take_lines(service, 0, 35)
    found = await service.kpi("first_reply_time", start=D1, end=D3, step="1d")
    assert found["tz"] == "Europe/Amsterdam"
    assert [(p["start"], p["end"]) for p in found["points"]] == [
        ("2026-03-02T23:00:00.000000Z", "2026-03-03T23:00:00.000000Z"),
        ("2026-03-03T23:00:00.000000Z", "2026-03-04T23:00:00.000000Z"),
    ]
    assert [p["value"] for p in found["points"]] == [960, 31_200]
    assert found["total"]["value"] == 11_040  # and not 16,080, the mean of the means
    assert found["points"][0]["min"] == 120 and found["points"][0]["max"] == 1800
    assert found["total"]["p50"] == 1800 and found["total"]["count"] == 3
    opened = await service.kpi("conversations_opened", start=D1, end=D3, step="1d")
    assert [p["value"] for p in opened["points"]] == [2, 1]
    by_utc = await service.kpi("conversations_opened", start="2026-03-03T00:00:00Z", end="2026-03-05T00:00:00Z",
                               step="1d", tz="UTC")  # fmt: skip
    assert [p["value"] for p in by_utc["points"]] == [3, 0]


async def test_groups_add_up_to_the_total(service: Metrics) -> None:
    await take_lines(service, 0, 35)
    found = await service.kpi("messages_received", start=D1, end=D3, group_by="channel")
    assert {p["group"]["channel"]: p["value"] for p in found["points"]} == {"chat": 2, "email": 2, "whatsapp": 1}
    assert found["total"]["value"] == 5
    by_agent = await service.kpi("first_reply_time", start=D1, end=D3, group_by="agent,family")
    assert {tuple(p["group"].values()): p["count"] for p in by_agent["points"]} == {
        ("g1", "chat"): 1, ("g1", "email"): 1, ("g1", "social"): 1,
    }  # fmt: skip
    only = await service.kpi("messages_received", start=D1, end=D3, channel="email")
    assert only["total"]["value"] == 2


async def test_nothing_is_null_where_it_is_a_ratio_and_zero_where_it_is_a_count(service: Metrics) -> None:
    quotients = {"messages_before_reply", "agent_efficiency"}
    for kpi in DEFINITIONS:
        total = (await service.kpi(kpi.id, start=D1, end=D2))["total"]
        empty = 0 if kpi.unit == "n" and kpi.id not in quotients else None
        assert total["value"] == empty, kpi.id


async def test_csv_has_one_line_a_point(service: Metrics) -> None:
    await take_lines(service, 0, 35)
    found = await service.get("/v1/kpis/csat_ratio", accept="text/csv", start=D1, end=D3, step="1d", group_by="channel")
    assert found.headers["content-type"] == "text/csv; charset=utf-8"
    lines = list(csv.DictReader(io.StringIO(found.text)))
    assert [(line["channel"], line["value"], line["denominator"]) for line in lines] == [
        ("phone", "", "0"), ("phone", "1.0", "1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("accept", "csv_first"),
    [
        ("text/csv", True),
        ("TEXT/CSV; charset=utf-8", True),
        ("text/csv, */*;q=0.1", True),
        ("text/csv, */*", True),
        ("text/*", True),
        ("text/csv;q=0.9, application/json;q=0.1", True),
        ("text/csv;q=0.1, application/json", False),
        ("text/csv, application/json", False),
        ("text/csv;q=0", False),
        ("*/*", False),
        ("", False),
        ("application/xml", False),
        ("text/csv;q=x", True),
    ],
)
def test_csv_is_given_to_who_prefers_it(accept: str, csv_first: bool) -> None:
    assert wants_csv(accept) is csv_first


async def test_csv_of_money_says_in_which_currency(service: Metrics) -> None:
    await take_lines(service, 0, 35)
    found = await service.get("/v1/kpis/cost_per_contact", accept="text/csv", start=D1, end=D2)
    assert [(line["value"], line["currency"]) for line in csv.DictReader(io.StringIO(found.text))] == [("12.0", "EUR")]


async def test_dimensions_may_be_repeated_and_nothing_else(service: Metrics) -> None:
    await take_lines(service, 0, 35)
    commas, repeated = [
        await service.kpi("messages_received", start=D1, end=D3, group_by=by)
        for by in ("channel,family", ["channel", "family"])
    ]
    assert commas == repeated
    assert {tuple(point["group"]) for point in repeated["points"]} == {("channel", "family")}
    for path in ("/v1/kpis/messages_received", "/v1/kpis/messages_received/receipts"):
        twice = await service.get(path, start=D1, end=D3, channel=["chat", "email"])
        assert twice.status_code == 422, "half an answer would look like a whole one"
        assert [fault["pointer"] for fault in twice.json()["errors"]] == ["#/query/channel"]
        assert (await service.get(path, start=D1, end=D3, channel=["chat", "chat"])).status_code == 200


async def test_answers_have_the_shapes_that_openapi_tells(service: Metrics) -> None:
    await take_lines(service, 0, 35)
    paths = (await service.client.get("/openapi.json")).json()["paths"]
    for path, model in (
        ("/v1/kpis/{kpi}", KpiAnswer), ("/v1/kpis/{kpi}/receipts", Receipts), ("/v1/scoreboard", Scoreboard)
    ):  # fmt: skip
        told = paths[path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert told == {"$ref": f"#/components/schemas/{model.__name__}"}
        for kpi in [d.id for d in DEFINITIONS] if "{kpi}" in path else [""]:
            span = {"start": D1, "end": D3} if kpi else {}
            model.model_validate_json((await service.get(path.replace("{kpi}", kpi), **span)).content, strict=True)


async def test_the_catalogue_names_every_kpi(service: Metrics) -> None:
    found = (await service.get("/v1/kpis")).json()["kpis"]
    assert {k["id"] for k in found} >= COUNTS
    assert len(found) == len({k["id"] for k in found}) == len(DEFINITIONS)
    for kpi in found:
        assert kpi["meaning"] and kpi["formula"] and kpi["unit"] and kpi["direction"] and kpi["dimensions"], kpi


BAD = {
    "an unknown KPI": ("/v1/kpis/nonsense", {}, 404, None),
    "a zone that does not exist": ("/v1/kpis/nps", {"tz": "Mars/Olympus"}, 422, "#/query/tz"),
    "a currency that is none": ("/v1/kpis/cost_per_contact", {"currency": "eur"}, 422, "#/query/currency"),
    "a zone that is a path": ("/v1/kpis/nps", {"tz": "../../etc/passwd"}, 422, "#/query/tz"),
    "an end before the start": ("/v1/kpis/nps", {"start": D2, "end": D1}, 422, "#/query/end"),
    "an end at the start": ("/v1/kpis/nps", {"start": D1, "end": D1}, 422, "#/query/end"),
    "an instant without a zone": ("/v1/kpis/nps", {"start": "2026-03-03T00:00:00"}, 422, "#/query/start"),
    "a step that makes 100,000 points": (
        "/v1/kpis/nps", {"start": "2026-01-01T00:00:00Z", "end": "2026-03-12T00:00:00Z", "step": "1m"}, 422,
        "#/query/step",
    ),
    "an unknown step": ("/v1/kpis/nps", {"step": "2d"}, 422, "#/query/step"),
    "an unknown dimension": ("/v1/kpis/messages_sent", {"group_by": "planet"}, 422, "#/query/group_by"),
    "a dimension the KPI does not have": ("/v1/kpis/nps", {"group_by": "agent"}, 422, "#/query/group_by"),
    "a filter the KPI does not have": ("/v1/kpis/nps", {"channel": "chat"}, 422, "#/query/channel"),
    "an unknown parameter": ("/v1/kpis/nps", {"wher": "1"}, 422, "#/query/wher"),
    "an unknown variant": ("/v1/kpis/csat_ratio", {"variant": "x"}, 422, "#/query/variant"),
    "a threshold that is no number": ("/v1/kpis/reply_within_ratio", {"threshold_s": "soon"}, 422,
                                      "#/query/threshold_s"),
    "a threshold below zero": ("/v1/kpis/reply_within_ratio", {"threshold_s": "-1"}, 422, "#/query/threshold_s"),
    "an unknown clock": ("/v1/kpis/first_reply_time", {"clock": "water"}, 422, "#/query/clock"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_question_is_answered_with_what_is_wrong(service: Metrics, name: str) -> None:
    path, params, status, pointer = BAD[name]
    found = await service.get(path, **params)
    assert found.status_code == status, found.text
    assert found.headers["content-type"] == "application/problem+json"
    if pointer:
        assert [e["pointer"] for e in found.json()["errors"]] == [pointer]


DEAR = {
    "too many points": ("reading.answering.MOST_IN_ALL", {"group_by": "channel"}, "#/query/group_by", "fewer groups"),
    "too many sums": ("sums.MOST_SUMS", {"group_by": "agent"}, "#/query/group_by", "ask for a shorter span"),
    "too long": ("routes.ANSWER_WITHIN_S", {}, "#/query/start", "ask for a shorter span"),
}


@pytest.mark.parametrize("name", DEAR)
async def test_a_question_that_costs_too_much_is_refused_with_what_to_ask_instead(
    service: Metrics, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    bound, params, pointer, instead = DEAR[name]
    await take_lines(service, 0, 35)
    asked = {"start": D1, "end": D3, "step": "1h", **params}
    assert (await service.get("/v1/kpis/first_reply_time", **asked)).status_code == 200
    monkeypatch.setattr(f"services.metrics.{bound}", 1e-6 if "WITHIN" in bound else 1)
    found = await service.get("/v1/kpis/first_reply_time", **asked)
    assert found.status_code == 422
    (fault,) = found.json()["errors"]
    assert fault["pointer"] == pointer
    assert instead in fault["detail"] == found.json()["detail"]
    monkeypatch.undo()
    assert (await service.get("/v1/kpis/first_reply_time", **asked)).status_code == 200


async def test_many_points_are_made_beside_others_and_are_the_same(
    service: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    await take_lines(service, 0, 35)
    asked = {"start": D1, "end": D3, "step": "1h", "group_by": "channel"}
    at_once = await service.kpi("first_reply_time", **asked)
    monkeypatch.setattr("services.metrics.turns.MUCH", 0)
    assert await service.kpi("first_reply_time", **asked) == at_once


async def test_another_tenant_sees_nothing_of_it(service: Metrics) -> None:
    await take_lines(service, 0, 35)
    found = await service.get("/v1/kpis/messages_received", key="t2", start=D1, end=D3)
    assert found.json()["total"]["value"] == 0
    text = (await service.get("/metrics", key="t2")).text
    assert "cs_messages_received_total{" not in text


async def test_without_a_key_or_with_the_wrong_scope_there_is_no_answer(service: Metrics) -> None:
    assert (await service.get("/v1/kpis", key=None)).status_code == 401
    assert (await service.get("/v1/kpis", key="writer")).status_code == 403
    assert (await service.get("/v1/kpis/nps", key="scraper")).status_code == 403
    assert (await service.get("/metrics", key=None)).status_code == 401
    assert (await service.get("/metrics", key="reader")).status_code == 403
    assert (await service.get("/metrics", key="scraper")).status_code == 200


def samples(text: str, openmetrics: bool = False) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    parse = parse_openmetrics if openmetrics else parse_text
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in parse(text) for s in family.samples}


async def test_prometheus_reads_kpis_by_their_names_units_and_windows(service: Metrics) -> None:
    service.clock.time = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
    await take_lines(service, 0, 35)
    found = samples((await service.get("/metrics", key="scraper")).text)
    week, day = (("channel", "all"), ("window", "7d")), (("channel", "all"), ("window", "24h"))
    assert found[("cs_first_reply_time_seconds", week)] == 11_040
    assert found[("cs_first_reply_time_seconds_numerator", week)] == 33_120
    assert found[("cs_first_reply_time_seconds_denominator", week)] == 3
    assert found[("cs_csat_ratio", day)] == 1
    assert found[("cs_abandonment_ratio", week)] == 0.5
    assert found[("cs_backlog", week)] == 1
    for channel, received in {"all": 5, "chat": 2, "social": 1, "whatsapp": 1}.items():
        assert found[("cs_messages_received_numerator", (("channel", channel), ("window", "7d")))] == received
    for channel in ("social", "whatsapp"):
        assert found[("cs_first_reply_time_seconds", (("channel", channel), ("window", "7d")))] == 31_200
    assert found[("cs_messages_received_total", (("channel", "chat"),))] == 2
    assert found[("cs_messages_received_total", (("channel", "whatsapp"),))] == 1
    assert found[("cs_messages_received_total", (("channel", "social"),))] == 1
    assert found[("cs_first_reply_time_arrival_seconds_count", (("channel", "email"),))] == 1
    assert found[("cs_cost_per_contact", (("channel", "all"), ("currency", "EUR"), ("window", "7d")))] == 8
    openmetrics = await service.get("/metrics", key="scraper", accept="application/openmetrics-text; version=1.0.0")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    same = samples(openmetrics.text, openmetrics=True)
    assert same[("cs_first_reply_time_seconds", week)] == 11_040


async def test_a_correction_moves_gauges_and_never_a_counter(service: Metrics) -> None:
    service.clock.time = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
    await take_lines(service, 0, 33)
    before = samples((await service.get("/metrics", key="scraper")).text)
    await take_lines(service, 33, 35)
    after = samples((await service.get("/metrics", key="scraper")).text)
    week = (("channel", "all"), ("window", "7d"))
    assert before[("cs_first_reply_time_seconds_numerator", week)] == 36_720
    assert after[("cs_first_reply_time_seconds_numerator", week)] == 33_120
    assert after[("cs_corrections_total", (("kpi", "first_reply_time"), ("reason", "late_reply")))] == 1
    fell = {n for n, v in before.items() if n[0].endswith(("_total", "_bucket", "_count")) and after.get(n, 0) < v}
    assert not {n for n in fell if n[0].startswith("cs_")}


async def test_open_metrics_show_the_service_without_a_key_and_kpis_never(
    pool: asyncpg.Pool, settings: Settings
) -> None:
    opened = settings.model_copy(update={"metrics_open": True})
    async with running_metrics(pool, opened) as service:
        await take_lines(service, 0, 35)
        await service.get("/v1/kpis")
        found = await service.get("/metrics", key=None)
        assert found.status_code == 200
        assert "threadline_" in found.text and "cs_" not in found.text
        assert (await service.get("/v1/kpis/nps", key=None)).status_code == 401
        assert "cs_messages_received_total" in (await service.get("/metrics", key="scraper")).text


async def test_the_api_description_names_what_an_accept_header_can_ask_for(service: Metrics) -> None:
    paths = (await service.get("/openapi.json")).json()["paths"]
    for path, real, key, types in (
        ("/metrics", "/metrics", "scraper", {"text/plain", "application/openmetrics-text"}),
        ("/v1/kpis/{kpi}", "/v1/kpis/csat_ratio", "t1", {"application/json", "text/csv"}),
    ):
        assert set(paths[path]["get"]["responses"]["200"]["content"]) == types
        for media_type in types:
            found = await service.get(real, key=key, accept=media_type)
            assert found.headers["content-type"].split(";")[0] == media_type
