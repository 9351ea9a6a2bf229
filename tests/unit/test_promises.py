"""What a conversation was promised, held to what the KPI says of the same entries."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.conversation.promises import NOTHING, Step, promised
from services.metrics.analysis import analyse
from services.metrics.entries import compact
from services.metrics.kpis.resolution import sla_outcomes
from shared.business import Rules, Schedule, Sla
from shared.events import rfc3339
from shared.instants import SECOND, instant, micros
from tests.kpi_timeline import OFFICE, uid

AT = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
HOUR = 3600 * SECOND
CALENDAR = Rules(slas=(Sla(0, HOUR, 8 * HOUR),))
OFFICE_HOURS = Rules((Schedule(0, "UTC", OFFICE),), (Sla(0, 2 * HOUR, 8 * HOUR, "business"),))


def step(after_h: float, kind: str, actor: str | None = None, waiting_on: str | None = None) -> Step:
    return Step(AT + timedelta(hours=after_h), f"threadline.{kind}", actor, waiting_on)


def says(rules: Rules, *steps: Step, now_h: float = 100) -> tuple[str | None, str | None, bool]:
    found = promised(rules, AT, steps, AT + timedelta(hours=now_h))
    return found["first_reply_due_at"], found["resolution_due_at"], found["breached"]


def at(after_h: float) -> str:
    return rfc3339(AT + timedelta(hours=after_h))


def test_an_open_conversation_is_due_by_the_calendar_or_by_opening_hours() -> None:
    asked = step(0, "message.received", "customer")
    assert says(CALENDAR, asked, now_h=0.5) == (at(1), at(8), False)
    # 15:00 on Monday, open until 17:00 and from 9:00: eight open hours end on Tuesday at 15:00.
    assert says(OFFICE_HOURS, asked, now_h=0.5) == (at(2), at(24), False)
    assert says(CALENDAR, asked, now_h=1.5)[2] is True


def test_a_reply_in_time_pauses_the_resolution_until_the_customer_writes_again() -> None:
    steps = [step(0, "message.received"), step(0.5, "message.sent", "agent")]
    assert says(CALENDAR, *steps) == (at(1), None, False)
    assert says(CALENDAR, *steps, step(10, "message.received"), now_h=11) == (at(1), at(17.5), False)
    assert says(CALENDAR, *steps, step(10, "message.received"), now_h=18)[2] is True
    assert says(CALENDAR, step(0, "message.received"), step(2, "message.sent", "agent"))[2] is True


def test_a_bots_answer_is_no_reply_and_who_was_written_to_first_was_promised_nothing() -> None:
    assert says(CALENDAR, step(0, "message.received"), step(0.1, "message.sent", "bot"), now_h=2)[2] is True
    assert promised(CALENDAR, AT, [step(0, "message.sent", "agent")], AT) == NOTHING
    assert promised(Rules(), AT, [step(0, "message.received")], AT) == NOTHING


@pytest.mark.parametrize("seed", range(100))
def test_what_is_breached_is_what_the_kpi_counts_as_breached(seed: int) -> None:
    chance, rules = random.Random(seed), random.Random(seed).choice([CALENDAR, OFFICE_HOURS])
    hours, steps = 0.0, [step(0, "message.received", "customer")]
    kinds = [
        ("message.received", "customer"), ("message.sent", "agent"), ("message.sent", "bot"),
        ("conversation.resolved", "agent"), ("conversation.pending", "agent"), ("call.answered", "agent"),
        ("conversation.reopened", "agent"),
    ]  # fmt: skip
    for _ in range(chance.randint(0, 8)):
        hours += chance.choice([0.25, 1, 3, 9, 30])
        kind, actor = chance.choice(kinds)
        steps.append(step(hours, kind, actor, chance.choice(["customer", "us"]) if "pending" in kind else None))
    conversation = analyse("c", [compact(body(number, taken)) for number, taken in enumerate(steps)])
    assert conversation is not None
    breaches = {target: due for target, due, met, _ in sla_outcomes(conversation, rules) if not met}
    now = AT + timedelta(hours=hours + chance.choice([0, 1, 50]))
    found = promised(rules, AT, steps, now)
    assert found["breached"] is any(due < micros(now) for due in breaches.values()), steps
    due = breaches.get("resolution")
    assert found["resolution_due_at"] == (rfc3339(instant(due)) if due is not None else None), steps


def body(number: int, taken: Step) -> dict[str, Any]:
    when = rfc3339(taken.occurred_at)
    data = {"waiting_on": taken.waiting_on} if taken.waiting_on else {}
    return {
        "id": uid(f"e{number}"), "event_id": f"e{number:02}", "source": "/s", "type": taken.type, "occurred_at": when,
        "recorded_at": when, "channel": "chat", "contact_id": "c1", "conversation_id": uid("k"), "leaf_id": uid("l"),
        "actor": {"type": taken.actor, "id": "g1"}, "automatic": False, "data": data, "topic": None, "language": None,
    }  # fmt: skip
