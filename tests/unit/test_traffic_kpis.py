"""What simulated traffic is told to be comes back as the KPIs say it is, within what chance allows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from services.cli.traffic.mix import Mix
from services.cli.traffic.truth import truth
from services.cli.traffic.world import World, history
from services.metrics.buckets import Contributions
from services.metrics.evaluation import Ref
from services.metrics.kpis import BY_ID
from services.metrics.reading.answering import reader_of
from services.metrics.reading.figures import Figures
from services.metrics.reading.question import Query
from shared.business import Rules
from shared.events import TimelineRecord, rfc3339
from tests.kpi_timeline import Model, ask, uid

SEED, PEOPLE, DAYS = 4, 1200, 28
END = datetime(2026, 6, 1, tzinfo=UTC)
START = END.timestamp() - DAYS * 86_400
SIGMAS = 4.0
"""One share in 16,000 is farther off by chance; the seed is fixed, so it is always the same ones."""

OTHER = replace(
    Mix(), escalate_chat_email=0.1, unanswered=0.3, csat_good=0.6, survey_asked=0.4, survey_answered=0.7,
    context_viewed=0.3, several_systems=0.3, info_repeated=0.6, transfer=0.5, self_service_first=0.3, suggestion=0.1,
    praise=0.1, complaint=0.6, reply_email_s=20_000, ces_mean=3.5, nps=-20,
)  # fmt: skip
"""Every figure is an option: another mix comes back as another."""


def records(mix: Mix) -> Iterator[TimelineRecord]:
    """Yield the timeline entries of a world: who is who and which conversation is which, as its truth says."""
    events = list(history(World(SEED, PEOPLE, START, END.timestamp(), mix)))
    told = truth(events, "t", SEED)["events"]
    for event in events:
        conversation = told[f"t|{event.source}|{event.id}"]["by_rules"]
        at, data = rfc3339(datetime.fromtimestamp(event.at, UTC)), event.data
        body: dict[str, Any] = {
            "id": uid(f"{event.source} {event.id}"), "event_id": event.id, "source": event.source, "type": event.type,
            "occurred_at": at, "recorded_at": at, "channel": data.get("channel"), "contact_id": data.get("contact_id"),
            "conversation_id": uid(conversation) if conversation else None,
            "leaf_id": None if event.person is None else uid(f"person {event.person}"),
            "actor": data.get("actor"), "topic": data.get("topic"), "language": data.get("language"), "data": data,
        }  # fmt: skip
        yield TimelineRecord("t", "entry", body["id"], 1, body)


@cache
def counted(mix: Mix) -> Mapping[str, Contributions]:
    """Return series → contributions of a world of this mix."""
    model, found = Model(), dict[str, Contributions]()
    model.take(records(mix))
    for cells in model.contributions().values():
        for key, (n, total) in cells.items():
            series = found.setdefault(key.series, {})
            old = series.get(key, (0, 0))
            series[key] = (old[0] + n, old[1] + total)
    return found


@cache
def total(mix: Mix, kpi: str, *asked: tuple[str, str]) -> Figures:
    options: dict[str, Any] = dict(asked)
    filters = {"channel": options.pop("channel")} if "channel" in options else {}
    query = Query(BY_ID[kpi], (0, 1), ZoneInfo("UTC"), 0, parameters=options)
    series = {name for fetch in reader_of(query).fetches(query) for name in fetch.series}
    read = {Ref("all", name): counted(mix).get(name, {}) for name in series}
    start = datetime.fromtimestamp(START, UTC)
    return ask(read, Rules(), kpi, start, END, END, filters=filters, **options).total.figures


def figures(mix: Mix, kpi: str, **options: str) -> Figures:
    """Return what a KPI comes to over the whole span."""
    return total(mix, kpi, *sorted(options.items()))


Asked = tuple[str, dict[str, str]]

SHARES: dict[str, Asked] = {
    "escalate_chat_email": ("escalation_ratio", {"from_channel": "chat", "to_channel": "email"}),
    "escalate_phone_email": ("escalation_ratio", {"from_channel": "phone", "to_channel": "email"}),
    "escalate_email_phone": ("escalation_ratio", {"from_channel": "email", "to_channel": "phone"}),
    "multichannel": ("multichannel_3to5_ratio", {}),
    "unanswered": ("unanswered_ratio", {}),
    "csat_good": ("csat_ratio", {}),
    "survey_asked": ("survey_asked_ratio", {}),
    "survey_answered": ("survey_response_ratio", {"variant": "csat"}),
    "answered_20s": ("service_level_ratio", {}),
    "patience_600s": ("patience_600s_ratio", {}),
    "context_viewed": ("context_available_ratio", {}),
    "several_systems": ("multi_system_ratio", {}),
    "info_repeated": ("info_repeated_ratio", {}),
    "transfer": ("transfer_ratio", {}),
    "self_service_first": ("selfservice_first_ratio", {}),
    "suggestion": ("ai_suggestion_ratio", {}),
    "praise": ("mention_ratio", {"sentiment": "praise"}),
    "complaint": ("mention_ratio", {"sentiment": "complaint"}),
}  # fmt: skip

BY_HUMANS = {"several_systems", "info_repeated", "transfer"}
"""Shares of the matters that a human handled; the KPI counts those that a bot resolved, too (but for transfers)."""


@pytest.mark.parametrize("mix", [Mix(), OTHER], ids=["published", "another"])
def test_shares_come_back_as_they_were_told(mix: Mix) -> None:
    wrong = {}
    for name, (kpi, options) in SHARES.items():
        found, wanted = figures(mix, kpi, **options), getattr(mix, name)
        assert found.value is not None and found.denominator is not None, name
        if name in BY_HUMANS:
            wanted *= (figures(mix, "transfer_ratio").denominator or 0) / found.denominator
        error = math.sqrt(wanted * (1 - wanted) / found.denominator)
        if abs(found.value - wanted) > SIGMAS * error:
            wrong[name] = f"{kpi} is {found.value:.3f} of {found.denominator}, not {wanted:.3f} ± {SIGMAS * error:.3f}"
    assert wrong == {}


@pytest.mark.parametrize("mix", [Mix(), OTHER], ids=["published", "another"])
@pytest.mark.parametrize("name", ["messages_before_reply", "ces_mean", "nps"])
def test_means_come_back_as_they_were_told(mix: Mix, name: str) -> None:
    found, wanted = figures(mix, name), getattr(mix, name)
    assert found.value is not None and found.denominator is not None
    # Further messages are geometric: their variance follows from their mean.
    deviation = found.deviation or math.sqrt((wanted - 1) * wanted)
    assert abs(found.value - wanted) <= SIGMAS * deviation / math.sqrt(found.denominator)


@pytest.mark.parametrize("mix", [Mix(), OTHER], ids=["published", "another"])
@pytest.mark.parametrize(("channel", "option"), [("email", "reply_email_s"), ("whatsapp", "reply_social_s")])
def test_reply_times_come_back_as_they_were_told(mix: Mix, channel: str, option: str) -> None:
    found = figures(mix, "response_time", channel=channel)
    assert found.p50 is not None and found.min is not None and found.max is not None
    # The logarithm of a median of n draws is off by 1.2533 · sigma / √n.
    error = 1.2533 * mix.reply_spread / math.sqrt(found.count)
    assert abs(math.log(found.p50 / getattr(mix, option))) <= SIGMAS * error
    assert mix.reply_fastest_s <= found.min


@pytest.mark.parametrize(("channel", "first", "last"), [("chat", 11, 15), ("phone", 7, 19)])
def test_the_day_has_its_published_hours(channel: str, first: int, last: int) -> None:
    hours = figures(Mix(), "arrivals_by_hour", channel=channel).extra["distribution"]
    inside = [hours[str(hour)] / (last - first) for hour in range(first, last)]
    outside = [count / (24 - last + first) for hour, count in hours.items() if not first <= int(hour) < last]
    assert sum(inside) > 2 * sum(outside)
