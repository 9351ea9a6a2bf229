"""Published figures beside the tenant's own, over the last 365 days, with the sample and a 95 % interval.

A figure from a survey of opinions is not the same thing as a measured share: where it is not like for like,
`comparable` is false or the note says what differs.

Intervals: Wilson's for shares (Wilson 1927); for means the normal one, its variance from the histogram.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from services.metrics import sums
from services.metrics.entries import SECOND
from services.metrics.kpis import BY_ID
from services.metrics.reading.answering import Answer
from services.metrics.reading.figures import Figures
from services.metrics.reading.question import Query
from shared.log.database import Connection

YEAR = 365 * 86_400 * SECOND
Z95 = 1.959964


@dataclass(frozen=True)
class Benchmark:
    """One published figure. `statistic` picks what to compare from the KPI's figures; `figure` is in the KPI's unit."""

    id: str
    kpi: str
    figure: float | list[float] | str
    source: str
    note: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    filters: Mapping[str, str] = field(default_factory=dict)
    statistic: str = "value"
    comparable: bool = True


ASKED = "asked of people, here it is measured"

BENCHMARKS = (
    Benchmark("csat", "csat_ratio", 0.86, "0 1", "twelve months pooled"),
    Benchmark("csat_goal", "csat_ratio", [0.80, 0.90], "2", "a goal (80 %, 85→90 %), not a measurement"),
    Benchmark("ces", "ces_mean", 5.5, "0 1", "comparable only on the scale 1–7; other scales are mapped on it"),
    Benchmark("nps", "nps", 32, "0 1"),
    Benchmark("fcr_net", "fcr_net_ratio", 0.74, "0 1", "net, after 7 days"),
    Benchmark("fcr_goal", "fcr_net_ratio", 0.75, "2", "an example of a goal"),
    Benchmark("cost_per_ticket", "cost_per_resolution", 15.56, "0 1",
              "range 2.93–49.69; one source says euro, another dollar"),
    Benchmark("cost_per_minute", "cost_per_minute", 1.60, "0 1", "one source says euro, another dollar"),
    Benchmark("cost_to_revenue", "cost_to_revenue_ratio", "< 0.10", "4"),
    Benchmark("agent_turnover", "agent_turnover_ratio", 0.29, "0 1", "trailing 365 days"),
    Benchmark("left_after_one_bad", "churn_after_bad_ratio", 0.333, "0 1", f"1 in 3; {ASKED}"),
    Benchmark("stopped_after_bad", "churn_after_bad_ratio", 0.56, "3", f"of whom 47 % last year; {ASKED}"),
    Benchmark("churn", "customer_churn_ratio", "+0.05 a month", "2", "a hypothetical figure", comparable=False),
    Benchmark("first_reply_fastest", "first_reply_time", 60, "0 1", statistic="min"),
    Benchmark("first_reply_mean", "first_reply_time", [600, 43_200], "0 1", "10 minutes to 12 hours"),
    Benchmark("first_reply_slowest", "first_reply_time", 691_200, "0 1", statistic="max"),
    Benchmark("reply_expected_15min", "reply_within_ratio", 0.12, "0 1", f"share that expects it; {ASKED}",
              {"threshold_s": "900"}),
    Benchmark("reply_expected_4h", "reply_within_ratio", 0.46, "0 1", f"share that expects it; {ASKED}",
              {"threshold_s": "14400"}),
    Benchmark("social_reply_24h", "reply_within_ratio", 0.48, "3", f"share that expects it (57 / 35 by age); {ASKED}",
              {"threshold_s": "86400"}, {"family": "social"}),
    Benchmark("social_answered", "unanswered_ratio", 0.85, "3", "1 − unanswered within 24 h", {},
              {"family": "social"}, statistic="complement"),
    Benchmark("unanswered", "unanswered_ratio", 0.50, "0 1", "there of companies asked, here of conversations"),
    Benchmark("messages_before_answer", "messages_before_reply", 1.15, "0 1"),
    Benchmark("quit_after_10min", "patience_600s_ratio", 0.53, "2", "Kaplan–Meier; answered calls are censored",
              {"threshold_s": "600"}),
    Benchmark("refuse_1min", "patience_600s_ratio", "some", "2", "named without a figure", {"threshold_s": "60"},
              comparable=False),
    Benchmark("switch_after_60min", "channel_switch_wait", 0.40, "0 1", f"Millennials; {ASKED}",
              statistic="share_3600s"),
    Benchmark("channels_3to5", "multichannel_3to5_ratio", 0.49, "0 1"),
    Benchmark("chat_to_email", "escalation_ratio", 0.25, "0 1",
              parameters={"from_channel": "chat", "to_channel": "email"}),
    Benchmark("call_to_email", "escalation_ratio", 0.20, "0 1",
              parameters={"from_channel": "phone", "to_channel": "email"}),
    Benchmark("email_to_call", "escalation_ratio", 0.05, "0 1",
              parameters={"from_channel": "email", "to_channel": "phone"}),
    Benchmark("self_solve_first", "selfservice_first_ratio", 0.81, "0 1", ASKED),
    Benchmark("portal_offered", "portal_adoption_ratio", 0.10, "0 1", "share of companies, not of customers",
              comparable=False),
    Benchmark("portal_expected", "portal_adoption_ratio", 0.90, "3", "share that expects one (93 / 86 by age)",
              comparable=False),
    Benchmark("multiple_systems", "multi_system_ratio", 0.80, "0 1", "there of chat agents, here of episodes"),
    Benchmark("blocked_by_systems", "system_blocked_ratio", 0.42, "0 1"),
    Benchmark("chat_peak", "arrivals_by_hour", "11–15 h", "0 1", filters={"channel": "chat"}, statistic="peak_hour"),
    Benchmark("call_peak", "arrivals_by_hour", "11 h", "0 1", filters={"channel": "phone"}, statistic="peak_hour"),
    Benchmark("call_hours", "arrivals_by_hour", "7–19 h", "1", "busy hours; here the busiest one", {},
              {"channel": "phone"}, statistic="peak_hour"),
    Benchmark("messaging_growth", "channel_growth_ratio", 0.36, "2", "2021", {}, {"family": "social"}),
    Benchmark("agent_efficiency", "agent_efficiency", "+300 %", "2", "before and after a change; no absolute figure",
              comparable=False),
    Benchmark("expect_context", "context_available_ratio", 0.72, "3", f"77 / 65 by age; {ASKED}"),
    Benchmark("much_effort", "high_effort_ratio", 0.18, "3"),
    Benchmark("some_effort", "high_effort_ratio", 0.62, "3", "60 / 67 by age", {"variant": "some"}),
    Benchmark("friendly_expert", "csat_ratio", 0.30, "3", "share naming it the best aspect (29 / 33 by age)",
              comparable=False),
    Benchmark("service_better", "csat_ratio", 0.67, "3", "share that finds service better than before (75 / 61 by "
              "age); csat_ratio with step=1M shows a trend", comparable=False),
    Benchmark("frictionless", "ces_mean", "no figure", "0 1", "named without a figure", comparable=False),
    Benchmark("personal", "context_available_ratio", "no figure", "0 1", "named without a figure", comparable=False),
    Benchmark("no_repeating", "info_repeated_ratio", "no figure", "2 3", "named without a figure", comparable=False),
    Benchmark("no_second_transfer", "transfer_ratio", "no figure", "2 3", "named without a figure", comparable=False),
    Benchmark("once_only", "transfer_ratio", 0.27, "3", "share naming it the best aspect", comparable=False),
    Benchmark("solved_at_once", "fcr_net_ratio", 0.28, "3", "share naming it the best aspect", comparable=False),
    Benchmark("self_found", "deflection_ratio", 0.13, "3", "share naming it the best aspect", comparable=False),
    Benchmark("ivr_irritates", "ivr_containment_ratio", 0.30, "3", "share irritated (32 / 43 by age)",
              comparable=False),
    Benchmark("feedback_valued", "survey_asked_ratio", 0.77, "3", "share that values being asked (82 / 73 by age)",
              comparable=False),
    Benchmark("social_praise", "mention_ratio", 0.37, "3", "share that ever praised (55 / 20 by age)",
              {"sentiment": "praise"}),
    Benchmark("social_complaint", "mention_ratio", 0.31, "3", "share that ever complained (50 / 14 by age)",
              {"sentiment": "complaint"}),
    *(
        Benchmark(f"uses_{channel}", "channel_mix_ratio", share, "3", f"share of people who use it; {ASKED}",
                  {"variant": "distinct"}, {"channel": channel})
        for channel, share in (
            ("phone", 0.70), ("email", 0.63), ("portal", 0.46), ("search", 0.45), ("chat", 0.40), ("in_person", 0.29),
            ("community", 0.19), ("app", 0.11), ("sms", 0.10), ("chatbot", 0.09),
        )
    ),
    Benchmark("uses_social", "channel_mix_ratio", 0.19, "3", f"share of people who use it; {ASKED}",
              {"variant": "distinct"}, {"family": "social"}),
    Benchmark("start_online", "journey_start_ratio", 0.52, "3", "63 / 41 by age", {"variant": "web"}),
    Benchmark("start_phone", "journey_start_ratio", 0.43, "3", "33 / 54 by age", {"variant": "phone"}),
    Benchmark("start_desktop", "journey_start_ratio", 0.67, "3", "57 / 75 by age", {"variant": "desktop"}),
    Benchmark("start_mobile", "journey_start_ratio", 0.33, "3", "43 / 25 by age", {"variant": "mobile"}),
    Benchmark("start_search_engine", "journey_start_ratio", 0.75, "3", "share that begins at a search engine (86 / 63 "
              "by age); only a referrer would tell", {"variant": "web"}, comparable=False),
    Benchmark("expect_mobile_support", "journey_start_ratio", 0.65, "3", "share that expects it (79 / 47 by age)",
              {"variant": "mobile"}, comparable=False),
    Benchmark("expect_device_support", "journey_start_ratio", 0.31, "3", "share that expects its devices to ask for "
              "help (45 / 17 by age); here whatever names a device", {"variant": "device"}, comparable=False),
    Benchmark("virtual_assistant_first", "bot_share_ratio", "no figure", "3", "a trend", comparable=False),
    Benchmark("bots_by_2020", "bot_share_ratio", 0.85, "3", "a forecast for 2020"),
    Benchmark("ai_suggestions", "ai_suggestion_ratio", 0.50, "3", "one airline"),
    Benchmark("open_always", "channel_availability_ratio", 1.0, "0 1", "24/7; of the hours promised here"),
    Benchmark("no_long_silence", "response_time", "no figure", "4", "the longest response", statistic="max",
              comparable=False),
    Benchmark("spend_selfservice", "spend_after_ratio", 0.89, "2", "share that says it spends more; a correlation here",
              comparable=False),
    Benchmark("spend_favourite", "spend_after_ratio", 0.93, "2", "share that says it spends more; a correlation here",
              comparable=False),
)  # fmt: skip


async def scoreboard(connection: Connection, tenant: str, now: int) -> list[dict[str, Any]]:
    """Return every benchmark with the live value of the last 365 days."""
    rules = await sums.rules_of(connection, tenant)
    currency = next(iter(await sums.currencies(connection, tenant)), "EUR")
    zone = ZoneInfo(rules.timezone)
    answers: dict[tuple[Any, ...], Answer] = {}
    rows = []
    for benchmark in BENCHMARKS:
        definition = BY_ID[benchmark.kpi]
        parameters = dict(benchmark.parameters)
        if "currency" in definition.parameters:
            parameters["currency"] = currency
        query = Query(
            definition, (now - YEAR, now + 1), zone, now, (), benchmark.filters, parameters, rules
        )  # fmt: skip
        key = (benchmark.kpi, *sorted(parameters.items()), *sorted(benchmark.filters.items()))
        if key not in answers:
            answers[key] = await sums.ask(connection, tenant, query)
        rows.append(row_of(benchmark, answers[key].total.figures, definition.unit))
    return rows


def row_of(benchmark: Benchmark, figures: Figures, unit: str) -> dict[str, Any]:
    """Return one row: the published figure beside the tenant's."""
    value, numerator, denominator = STATISTICS[benchmark.statistic](figures)
    return {
        "id": benchmark.id,
        "kpi": benchmark.kpi,
        "parameters": {**benchmark.parameters, **benchmark.filters},
        "figure": benchmark.figure,
        "unit": _unit(benchmark, unit),
        "source": f"seed articles {', '.join(benchmark.source.split())}",
        "value": value,
        "numerator": numerator,
        "denominator": denominator,
        "ci95": interval(benchmark, figures, value, numerator, denominator, unit),
        "comparable": benchmark.comparable,
        "note": benchmark.note,
    }


def _unit(benchmark: Benchmark, unit: str) -> str:
    return {"share_3600s": "1", "peak_hour": "h"}.get(benchmark.statistic, unit)


Chosen = tuple[float | None, float | None, float | None]


def _value(f: Figures) -> Chosen:
    return f.value, f.numerator, f.denominator


def _complement(f: Figures) -> Chosen:
    if f.value is None or f.numerator is None or f.denominator is None:
        return None, f.numerator, f.denominator
    return 1 - f.value, f.denominator - f.numerator, f.denominator


def _share(f: Figures) -> Chosen:
    return f.extra.get("share_3600s"), f.extra.get("count_3600s"), f.denominator


def _peak(f: Figures) -> Chosen:
    hours: Mapping[str, int] = f.extra.get("distribution", {})
    top = max(hours, key=lambda hour: hours[hour], default=None)
    if top is None or not hours[top]:
        return None, None, f.denominator
    return float(top), hours[top], f.denominator


STATISTICS: dict[str, Callable[[Figures], Chosen]] = {
    "value": _value,
    "complement": _complement,
    "share_3600s": _share,
    "peak_hour": _peak,
    "min": lambda f: (f.min, f.min, f.count),
    "max": lambda f: (f.max, f.max, f.count),
}

_NO_INTERVAL = frozenset({"min", "max", "peak_hour"})


def interval(
    benchmark: Benchmark,
    figures: Figures,
    value: float | None,
    numerator: float | None,
    denominator: float | None,
    unit: str,
) -> list[float] | None:
    """Return the 95 % interval of the value; None where there is none to give."""
    if value is None or not denominator or benchmark.statistic in _NO_INTERVAL:
        return None
    if _unit(benchmark, unit) == "1" and numerator is not None and 0 <= numerator <= denominator:
        return wilson(value, denominator)
    if figures.deviation is not None:
        margin = Z95 * figures.deviation / math.sqrt(denominator)
        return [value - margin, value + margin]
    return None


def wilson(share: float, n: float) -> list[float]:
    """Return Wilson's 95 % interval of a share of `n`."""
    z2 = Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    margin = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return [max(0.0, centre - margin), min(1.0, centre + margin)]
