"""The worked example of the KPI catalogue: every value, at every stage, in any arrival order, with duplicates."""

from __future__ import annotations

import json
import random
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from tests.conftest import needs
from tests.kpi_timeline import EXAMPLE, OFFICE_RULES, ZONE, Model, ask, posted, records_of

pytestmark = needs("shared_data")

LINES = {"before reopen": 32, "before late": 33, "before merge": 34, "final": 35}

# In the expected file, line order is what senders post: e33 (late) is line 34 and e34 (the merge) line 35.


def expected(stage: str) -> list[dict[str, Any]]:
    found = json.loads((EXAMPLE / "expected.json").read_text())
    if stage == "final":
        return list(found["final"])
    return next(list(s["values"]) for s in found["stages"] if s["stage"] == stage)


QUERIES: dict[str, tuple[str, dict[str, Any]]] = {
    "reply_within_900s": ("reply_within_ratio", {"threshold_s": "900"}),
    "reply_within_14400s": ("reply_within_ratio", {"threshold_s": "14400"}),
    "reply_within_86400s": ("reply_within_ratio", {"threshold_s": "86400"}),
    "first_reply_time_business": ("first_reply_time", {"clock": "business"}),
    "escalation_chat_to_email": ("escalation_ratio", {"from_channel": "chat", "to_channel": "email"}),
    "escalation_email_to_phone": ("escalation_ratio", {"from_channel": "email", "to_channel": "phone"}),
    "escalation_phone_to_email": ("escalation_ratio", {"from_channel": "phone", "to_channel": "email"}),
    "aht_phone": ("aht", {"filters": {"channel": "phone"}}),
    "backlog_delta": ("backlog", {}),
    "handle_s": ("cost_per_minute", {}),
    "cost_cents": ("cost_per_contact", {}),
    "distinct_customers": ("multichannel_3to5_ratio", {}),
}

COUNTS = {"conversations_opened", "messages_received", "messages_sent", "resolutions", "short_abandons"}


def span(windows: list[str]) -> tuple[datetime, datetime]:
    days = ["2026-03-03", "2026-03-04"] if windows == ["both"] else windows
    first, last = date.fromisoformat(days[0]), date.fromisoformat(days[-1])
    start = datetime.combine(first, datetime.min.time(), ZONE)
    return start, datetime.combine(last + timedelta(days=1), datetime.min.time(), ZONE)


def figures(contributions: Any, line: dict[str, Any]) -> tuple[float | None, float | None]:
    """Return numerator and denominator as the expected file states them."""
    name = line["kpi"]
    kpi, options = QUERIES.get(name, (name, {}))
    start, end = span(line["windows"])
    total = ask(contributions, OFFICE_RULES, kpi, start, end, **options).total.figures
    if name == "handle_s":
        return (total.denominator or 0) * 60, line["denominator"]
    if name == "cost_cents":
        return (total.numerator or 0) * 100, line["denominator"]
    if name == "distinct_customers":
        return total.denominator, total.denominator
    return total.numerator, total.denominator


def events_until(stage: str) -> list[dict[str, Any]]:
    return posted("events.jsonl")[: LINES[stage]]


def check(model: Model, stage: str) -> None:
    check_values(model.contributions(), stage)


def check_values(contributions: Any, stage: str) -> None:
    """Compare every value of a stage with what these contributions come to."""
    for line in expected(stage):
        assert figures(contributions, line) == (line["numerator"], line["denominator"]), (stage, line)


@pytest.mark.parametrize("stage", LINES)
def test_every_value_of_the_worked_example_is_exact_at_its_stage(stage: str) -> None:
    model = Model(OFFICE_RULES)
    for number, event in enumerate(events_until(stage)):
        model.take(records_of(event, "t1", number + 2))
    check(model, stage)


def test_the_worked_example_is_exact_without_the_posted_openings() -> None:
    model = Model(OFFICE_RULES)
    for number, event in enumerate(events_until("final")):
        if event["type"] != "conversation.opened":
            model.take(records_of(event, "t1", number + 2))
    check(model, "final")


def test_300_random_arrival_orders_with_duplicates_come_to_the_same() -> None:
    records = [
        record for number, event in enumerate(events_until("final")) for record in records_of(event, "t1", number + 2)
    ]
    model = Model(OFFICE_RULES)
    model.take(records)
    check(model, "final")
    ought = model.contributions()
    for seed in range(300):
        rng = random.Random(seed)
        shuffled = records + rng.choices(records, k=len(records) // 2)
        rng.shuffle(shuffled)
        model = Model(OFFICE_RULES)
        model.take(shuffled)
        assert model.contributions() == ought, seed
