"""Agents' statuses by the day: late ones, corrections of far days, teams over midnight; how old data gets there."""

from __future__ import annotations

import importlib
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from services.metrics.consumer import MetricsConsumer
from services.metrics.evaluation import AGENT_DAY, Ref
from services.metrics.memory import Memory
from services.metrics.recount import drift
from services.metrics.revision import reevaluate
from shared.clock import SystemClock
from shared.events import TYPE_PREFIX, TimelineRecord, rfc3339
from tests.integration.test_kpi_stream import CLEAR, TENANT, check, cut, stream
from tests.kpi_histories import a_history
from tests.kpi_timeline import Model, ask, uid

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
NOW = MONDAY + timedelta(days=20)


def said(
    name: str,
    at: datetime,
    kind: str = "status",
    team: str | None = None,
    agent: str = "g\t1",
    version: int = 1,
    **data: Any,
) -> TimelineRecord:
    body = {
        "id": uid(f"entry {name}"), "event_id": name, "source": "s", "type": f"{TYPE_PREFIX}agent.{kind}",
        "occurred_at": rfc3339(at), "recorded_at": rfc3339(at), "data": data,
        "actor": {"type": "agent", "id": agent, "team": team},
    }  # fmt: skip
    return TimelineRecord(TENANT, "entry", body["id"], version, body, recorded_at=at)


def hours(model: Model, start: datetime, length_h: int, **filters: str) -> float:
    """Return how long the agent was signed in, in hours."""
    found = ask(model.contributions(), model.rules, "agent_efficiency", start, start + timedelta(hours=length_h), NOW,
                filters=filters)  # fmt: skip
    return found.total.figures.denominator or 0


async def test_states_go_over_midnight_end_after_a_day_and_are_corrected_from_far(pool: asyncpg.Pool) -> None:
    consumer, model = MetricsConsumer(0), Model()

    async def take(*records: TimelineRecord) -> None:
        await stream(pool, consumer, [list(records)])
        model.take(records)
        await check(pool, model)

    await take(said("a", MONDAY + timedelta(hours=22), team="blue", state="available"))
    assert (hours(model, MONDAY, 24), hours(model, MONDAY, 48), hours(model, MONDAY, 96)) == (2, 24, 24)
    await take(
        said("b", MONDAY + timedelta(hours=26), state="offline"), said("c", MONDAY + timedelta(hours=30), state="busy")
    )
    assert hours(model, MONDAY, 48) == 4 + 18
    assert hours(model, MONDAY, 96, team="blue") == 4 + 24  # c names no team: it is that of the evening before
    await take(said("late", MONDAY + timedelta(hours=23), state="offline"))
    assert hours(model, MONDAY, 48) == 1 + 18
    await take(said("far", MONDAY + timedelta(days=9), state="offline", corrects_event_id="late"))
    assert hours(model, MONDAY, 48) == 4 + 18
    await take(TimelineRecord(TENANT, "entry", uid("entry far"), 2, {}, deleted=True))
    assert hours(model, MONDAY, 48) == 1 + 18


async def test_any_order_of_statuses_in_any_batches_gives_the_same(pool: asyncpg.Pool) -> None:
    for seed in range(6):
        await pool.execute(CLEAR)
        rng = random.Random(seed)
        records = [random_word(rng, n) for n in range(60)]
        records += [replace(r, version=2, deleted=True) for r in rng.sample(records, 4)]
        moved = [(f"w{rng.randrange(60)}", n) for n in range(4)]
        records += [random_word(rng, n, name, version=3) for name, n in moved]
        rng.shuffle(records)
        consumers, model = [MetricsConsumer(rng.choice((0, 20, 10_000))) for _ in range(2)], Model()
        for batch in cut(records, rng):
            await stream(pool, rng.choice(consumers), [batch])
            model.take(batch)
        await check(pool, model)


def random_word(rng: random.Random, number: int, name: str = "", version: int = 1) -> TimelineRecord:
    kind = rng.choices(("status", "blocked", "joined", "left"), (8, 1, 1, 1))[0]
    data: dict[str, Any] = (
        {"state": rng.choice(("available", "interacting", "busy", "offline"))} if kind == "status" else {}
    )
    if rng.random() < 0.15:
        data["corrects_event_id"] = f"w{rng.randrange(60)}"
    at = MONDAY + timedelta(minutes=rng.choice((1, 360)) * rng.randrange(6 * 4))
    return said(
        name or f"w{number}", at, kind, rng.choice((None, "blue", "red")), rng.choice(("g", "g\t1")), version, **data
    )


async def test_one_more_status_looks_at_the_days_beside_it_and_no_further(pool: asyncpg.Pool) -> None:
    statuses = [said(f"s{n}", MONDAY + timedelta(hours=3 * n), state="busy") for n in range(8 * 10)]
    await stream(pool, MetricsConsumer(), [statuses])
    consumer = MetricsConsumer()
    await stream(pool, consumer, [[said("one more", MONDAY + timedelta(days=5, hours=1), state="available")]])
    memory: Memory = consumer._memories[TENANT]
    assert sum(map(len, memory.by_part.values())) == 5 * 8 + 1
    day = (MONDAY - datetime(1970, 1, 1, tzinfo=UTC)).days + 5
    assert set(memory.cells) == {Ref(AGENT_DAY, f"g\t1\t{near}") for near in (day - 1, day, day + 1)}


async def test_agents_of_an_older_version_are_divided_into_days(pool: asyncpg.Pool) -> None:
    """As it was: all that an agent did is one part and one entity."""
    model, consumer = Model(), MetricsConsumer()
    rng = random.Random(4)
    records = [*a_history(4).records, *(random_word(rng, n) for n in range(60))]
    await stream(pool, consumer, [records])
    model.take(records)
    for statement in AS_BEFORE:
        await pool.execute(statement)
    assert [line async for line in drift(pool)] != []
    migration = importlib.import_module("shared.database.migrations.versions.0025_agents_days")
    async with pool.acquire() as connection, connection.transaction():
        for statement in (migration.STATUSES, migration.PARTS, migration.NAMES, migration.MARKS):
            await connection.execute(statement)
    await reevaluate(pool, SystemClock(), TENANT)
    await check(pool, model)
    later = [said(f"later {n}", MONDAY + timedelta(hours=n), state="busy") for n in range(0, 240, 7)]
    await stream(pool, consumer, [later])
    model.take(later)
    await check(pool, model)


DAY_KEY = "regexp_replace(x.key, E'\\t[^\\t]*$', '')"
AS_BEFORE = (
    f"INSERT INTO metrics.entity (tenant_id, kind, key) SELECT DISTINCT tenant_id, 'agent', {DAY_KEY}"
    " FROM metrics.entity x WHERE kind = 'agent_day' ON CONFLICT DO NOTHING",
    "UPDATE metrics.contribution c SET entity_id = a.entity_id FROM metrics.entity x JOIN metrics.entity a"
    f" ON a.tenant_id = x.tenant_id AND a.kind = 'agent' AND a.key = {DAY_KEY}"
    " WHERE x.kind = 'agent_day' AND x.entity_id = c.entity_id",
    "DELETE FROM metrics.entity WHERE kind = 'agent_day'",
    r"UPDATE metrics.entry SET part_of = 'agent:' || regexp_replace(substr(part_of, 11), E'\t[^\t]*$', '')"
    " WHERE part_of LIKE 'agent_day:%'",
)
