"""Every KPI against a second evaluation, written apart and obvious, on random histories.

Numerator and denominator must agree, by local day over a DST change and in total, with merges, splits, corrections,
erasures and reopenings, with opening hours and an agreement.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from services.metrics.entries import SECOND
from services.metrics.kpis import DEFINITIONS
from shared.business import Rules, Schedule, Sla
from tests.kpi_histories import DAYS, FIRST, History, a_history
from tests.kpi_timeline import OFFICE, ZONE, Model, ask
from tests.reference.kpis import UNITS, WINDOWED, Reference, local_days

SLA = {"first_reply_s": 3600, "resolution_s": 20_000}
ALL = sorted({**UNITS, **WINDOWED})


def rules_of(seed: int) -> tuple[Rules, dict[str, Any] | None, bool]:
    """Return the rules of a seed: with and without opening hours and an agreement, on either clock."""
    office = seed % 3 > 0
    schedules = (Schedule(0, "Europe/Amsterdam", OFFICE),) if office else ()
    if seed % 4 == 0:
        return Rules(schedules), None, office
    clock = "business" if seed % 2 else "calendar"
    sla = Sla(0, SLA["first_reply_s"] * SECOND, SLA["resolution_s"] * SECOND, clock)
    return Rules(schedules, (sla,)), {**SLA, "clock": clock}, office


def reference(history: History, sla: dict[str, Any] | None, office: bool) -> Reference:
    hours = OFFICE if office else None
    return Reference(history.events, history.owner, history.canonical, ZONE, hours, sla, history.now)


def compare(seed: int) -> None:
    history = a_history(seed)
    rules, sla, office = rules_of(seed)
    model = Model(rules)
    model.take(history.records)
    contributions = model.contributions()
    slow = reference(history, sla, office)
    days = local_days(FIRST, DAYS, ZONE)
    whole = (days[0][0], days[-1][1])
    for name in ALL:
        kpi, _, query = name.partition("?")
        options = dict(parse_qsl(query))
        filters = {"channel": options.pop("channel")} if "channel" in options else {}
        found = ask(contributions, rules, kpi, *whole, history.now, step="1d", filters=filters, **options)
        spans = [*days, whole]
        for (start, end), point in zip(spans, [*found.points, found.total], strict=True):
            ought = slow.answer(name, start, end)
            have = (point.figures.numerator, point.figures.denominator)
            for got, want in zip(have, ought, strict=True):
                same = got == want or (got is not None and want is not None and got == pytest.approx(float(want)))
                assert same, f"{name} of seed {seed}, {start:%d %b %H:%M}–{end:%d %b %H:%M}: {have}, not {ought}"


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.integers(0, 2**32))
def test_every_kpi_agrees_with_the_reference_by_day_and_in_total(seed: int) -> None:
    compare(seed)


def test_the_reference_covers_every_kpi() -> None:
    assert {name.partition("?")[0] for name in ALL} == {definition.id for definition in DEFINITIONS}


def test_random_histories_touch_every_kpi() -> None:
    """A comparison of nothing with nothing proves nothing: each KPI has a denominator in some history."""
    missing = set(ALL)
    days = local_days(FIRST, DAYS, ZONE)
    for seed in range(40):
        history = a_history(seed)
        slow = reference(history, {**SLA, "clock": "calendar"}, True)
        missing = {name for name in missing if not slow.answer(name, days[0][0], days[-1][1])[1]}
    assert missing <= {"channel_growth_ratio"}
