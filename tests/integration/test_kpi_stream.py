"""The streamed contributions on the real PostgreSQL: in any order, in any batches, equal to the recount."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg

from services.metrics.buckets import Strip, difference
from services.metrics.checking import check_tenants
from services.metrics.consumer import MetricsConsumer
from services.metrics.entries import HOUR, SECOND, micros
from services.metrics.facts import DAY
from services.metrics.kept import covers, short
from services.metrics.reading.cells import Row
from services.metrics.reading.question import Fetch
from services.metrics.recount import drift, streamed
from services.metrics.revision import put_version, reevaluate
from services.metrics.sums import rows, statement
from shared.business import Rules, Schedule, Sla
from shared.clock import SystemClock
from shared.events import TimelineRecord
from shared.log.protocol import Record
from tests.conftest import needs
from tests.kpi_histories import History, a_history
from tests.kpi_timeline import OFFICE, OFFICE_RULES, Model, posted, records_of, uid
from tests.unit.test_call_timelines import CALLS, RESOLVED, body_of, drafts_of
from tests.unit.test_kpi_example import LINES, check_values

TENANT = "t1"


def example(lines: int = 35) -> list[TimelineRecord]:
    events = posted("events.jsonl")[:lines]
    return [record for number, event in enumerate(events) for record in records_of(event, TENANT, number + 2)]


async def stream(pool: asyncpg.Pool, consumer: MetricsConsumer, batches: Sequence[Sequence[TimelineRecord]]) -> None:
    for batch in batches:
        async with pool.acquire() as connection, connection.transaction():
            await consumer.apply(connection, batch)


def cut(records: list[TimelineRecord], rng: random.Random) -> list[list[TimelineRecord]]:
    batches = []
    while records:
        size = rng.randint(1, 8)
        batches.append(records[:size])
        records = records[size:]
    return batches


async def check(pool: asyncpg.Pool, model: Model, stage: str | None = None) -> None:
    async with pool.acquire() as connection, connection.transaction():
        found = await streamed(connection, TENANT)
    ought = model.contributions()
    wrong = {ref: difference(found.get(ref, {}), ought.get(ref, {})) for ref in found.keys() | ought.keys()}
    assert {ref: cells for ref, cells in wrong.items() if cells} == {}
    assert [line async for line in drift(pool)] == []
    if stage:
        check_values(found, stage)


@needs("shared_data")
async def test_the_stream_equals_the_recount_after_every_single_record(pool: asyncpg.Pool) -> None:
    consumer, model = MetricsConsumer(), Model()
    for record in example():
        await stream(pool, consumer, [[record]])
        model.take([record])
        await check(pool, model)


@needs("shared_data")
async def test_any_order_with_duplicates_in_any_batches_gives_the_same(pool: asyncpg.Pool) -> None:
    for seed in range(15):
        async with pool.acquire() as connection:
            await connection.execute(CLEAR)
        rng = random.Random(seed)
        records = example() + rng.choices(example(), k=20)
        rng.shuffle(records)
        # A process that remembers nothing reads everything anew each time; it must not matter.
        consumer, model = MetricsConsumer(0 if seed % 2 else 10_000), Model()
        model.take(records)
        await stream(pool, consumer, cut(records, rng))
        await check(pool, model)


def calls() -> list[TimelineRecord]:
    """Every call of the tests of call timelines, as its deliveries became entries."""
    found = []
    for number, (deliveries, _) in enumerate(CALLS.values()):
        for draft in (*drafts_of(deliveries).values(), RESOLVED):
            body = body_of(draft, f"call {number}/")
            found.append(TimelineRecord(TENANT, "entry", body["id"], 1, body, recorded_at=draft.time))
    return found


async def test_calls_whose_entries_come_in_any_order_count_as_in_the_recount(pool: asyncpg.Pool) -> None:
    model = Model()
    model.take(calls())
    for seed in range(3):
        async with pool.acquire() as connection:
            await connection.execute(CLEAR)
        rng = random.Random(seed)
        records = calls()
        rng.shuffle(records)
        await stream(pool, MetricsConsumer(), cut(records, rng))
        await check(pool, model)


@needs("shared_data")
async def test_two_processes_that_take_turns_see_what_the_other_wrote(pool: asyncpg.Pool) -> None:
    consumers, model = [MetricsConsumer(), MetricsConsumer()], Model()
    rng = random.Random(7)
    for batch in cut(example(), rng):
        await stream(pool, rng.choice(consumers), [batch])
        model.take(batch)
    await check(pool, model)


async def roll_back(pool: asyncpg.Pool, consumer: MetricsConsumer, batch: Sequence[TimelineRecord]) -> None:
    """Take a batch in a transaction that comes to nothing."""
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await consumer.apply(connection, batch)
        await transaction.rollback()


@needs("shared_data")
async def test_a_transaction_that_rolled_back_is_not_remembered(pool: asyncpg.Pool) -> None:
    consumer, model = MetricsConsumer(), Model()
    rng = random.Random(3)
    for batch in cut(example(), rng):
        if rng.random() < 0.5:
            await roll_back(pool, consumer, batch)
        await stream(pool, consumer, [batch])
        model.take(batch)
    await check(pool, model)


ORDERS = 300


@needs("shared_data")
async def test_300_random_arrival_orders_with_duplicates_are_exact_at_every_stage(pool: asyncpg.Pool) -> None:
    """Each order is a tenant of its own: all of them take hardly more statements than one."""
    tenants = [f"t{n}" for n in range(ORDERS)]
    await pool.execute(
        "INSERT INTO metrics.schedule SELECT unnest($1::text[]), 'epoch', $2, now()",
        tenants,
        {"timezone": "Europe/Amsterdam", "rules": OFFICE},
    )
    consumer, model, done = MetricsConsumer(), Model(OFFICE_RULES), 0
    for stage, lines in LINES.items():
        new, known = example(lines)[len(example(done)) :], example(done)
        done = lines
        model.take(new)
        check_values(model.contributions(), stage)
        ought = {ref: {k: c for k, c in cells.items() if any(c)} for ref, cells in model.contributions().items()}
        await stream(pool, consumer, side_by_side(new, known, tenants, stage))
        async with pool.acquire() as connection, connection.transaction():
            for tenant in tenants:
                assert await streamed(connection, tenant) == ought, (stage, tenant)


def side_by_side(
    new: Sequence[TimelineRecord], known: Sequence[TimelineRecord], tenants: Sequence[str], stage: str
) -> list[list[TimelineRecord]]:
    """Return three batches that bring `new` to every tenant, to each in an order of its own, some of it again and with
    some that it knows."""
    batches: list[list[TimelineRecord]] = [[], [], []]
    for tenant in tenants:
        rng = random.Random(f"{stage} {tenant}")
        records = [*new, *rng.choices([*known, *new], k=len(new) // 2 + 3)]
        rng.shuffle(records)
        borders = [0, *sorted(rng.choices(range(len(records) + 1), k=2)), len(records)]
        for batch, first, last in zip(batches, borders, borders[1:], strict=False):
            batch += [replace(record, tenant=tenant) for record in records[first:last]]
    return batches


@needs("shared_data")
async def test_the_drift_check_is_silent_until_a_number_is_wrong(pool: asyncpg.Pool) -> None:
    await stream(pool, MetricsConsumer(), [example()])
    now = datetime.now(UTC)
    assert await check_tenants(pool, now, 0.0) == {}
    row = await pool.fetchrow("SELECT entities_checked, entities_wrong FROM metrics.drift")
    assert row["entities_checked"] > 5 and row["entities_wrong"] == 0
    await pool.execute(
        "UPDATE metrics.contribution SET total = total + 1 WHERE ctid = (SELECT ctid FROM metrics.contribution LIMIT 1)"
    )
    assert list(await check_tenants(pool, now, 0.0)) == [TENANT]
    assert await pool.fetchval("SELECT entities_wrong FROM metrics.drift") == 1
    lines = [line async for line in drift(pool)]
    assert len(lines) == 2 and "total +1" in lines[0] and "total -1" in lines[1]  # the entity, and the sum by hour


@needs("shared_data")
async def test_an_erased_entry_leaves_the_numbers(pool: asyncpg.Pool) -> None:
    consumer, model = MetricsConsumer(), Model()
    await stream(pool, consumer, [example()])
    model.take(example())
    gone = [
        TimelineRecord(TENANT, "entry", record.key, record.version + 100, {}, deleted=True)
        for record in example()
        if record.kind == "entry" and record.body["event_id"] in ("e21", "e33", "e12", "e29")
    ]
    await stream(pool, consumer, [gone])
    model.take(gone)
    await check(pool, model)


@needs("shared_data")
async def test_merged_conversations_count_once_and_separate_again(pool: asyncpg.Pool) -> None:
    consumer, model = MetricsConsumer(), Model()
    k2, k3 = uid("conversation K2"), uid("conversation K3")
    joins = [
        TimelineRecord(TENANT, "conversation", k3, 1, {"canonical_id": k2, "follow_up_of": None}),
        TimelineRecord(TENANT, "conversation", k3, 2, {"canonical_id": k3, "follow_up_of": None}),
    ]
    await stream(pool, consumer, [example()])
    model.take(example())
    for join in joins:
        await stream(pool, consumer, [[join]])
        model.take([join])
        await check(pool, model)
    opened = [len([k for cells in model.contributions().values() for k in cells if k.series == "conversations_opened"])]
    assert opened == [3]


async def test_records_that_cannot_be_read_are_rejected_and_the_rest_counts(pool: asyncpg.Pool) -> None:
    good = TimelineRecord(TENANT, "leaf", uid("leaf 1"), 1, {"customer_id": uid("customer 1")}).encode()
    entry = {"id": uid("e"), "event_id": "e", "source": "s", "type": "threadline.message.received"}
    bad = [
        b"not json",
        TimelineRecord(TENANT, "leaf", "not-a-uuid", 1, {"customer_id": uid("customer 1")}).encode(),
        TimelineRecord(TENANT, "leaf", uid("leaf 2"), 1, {"customer_id": None}).encode(),
        TimelineRecord(TENANT, "planet", uid("leaf 2"), 1, {}).encode(),
        TimelineRecord(TENANT, "entry", uid("e"), 1, entry).encode(),
        TimelineRecord(TENANT, "entry", uid("e"), 1, {**entry, "occurred_at": "tomorrow"}).encode(),
    ]
    records = [Record("t", 0, n, b"k", value, (), datetime.now(UTC)) for n, value in enumerate([*bad, good])]
    async with pool.acquire() as connection, connection.transaction():
        rejections = await MetricsConsumer().handle(connection, records)
    assert [r.record.offset for r in rejections] == list(range(len(bad)))
    assert all(r.reason for r in rejections)
    assert await pool.fetchval("SELECT count(*) FROM metrics.leaf") == 1


async def test_random_histories_stream_to_what_the_recount_says(pool: asyncpg.Pool) -> None:
    """With an agreement and opening hours that come in the middle, in random batches, by two processes."""
    for seed in range(5):
        rng, history = random.Random(seed), a_history(seed)
        async with pool.acquire() as connection:
            await connection.execute(CLEAR)
        consumers, model = [MetricsConsumer(rng.choice((0, 10_000))) for _ in range(2)], Model()
        batches = cut(history.records, rng)
        for number, batch in enumerate(batches):
            if number == len(batches) // 2:
                await put_rules(pool)
                model.rules = RULES
            await stream(pool, rng.choice(consumers), [batch])
            model.take(batch)
        await check(pool, model)


async def test_pointers_that_overtake_each_other_leave_no_drift(pool: asyncpg.Pool) -> None:
    """A conversation may be told to be part of one that has moved on itself, and an entry or a leaf move meanwhile: the
    records lie in different partitions. Two processes that forget, break off and take turns must agree all the same."""
    for seed in (0, 5, 6, 23, 95, 144):
        rng, history = random.Random(seed), a_history(seed)
        async with pool.acquire() as connection:
            await connection.execute(CLEAR)
        records = [*history.records, *overtaking(history, rng)]
        rng.shuffle(records)
        consumers, model = [MetricsConsumer(rng.choice((0, 0, 5, 10_000))) for _ in range(2)], Model()
        for batch in cut(records, rng):
            consumer = rng.choice(consumers)
            if rng.random() < 0.15:
                await roll_back(pool, consumer, batch)
            await stream(pool, consumer, [batch])
            model.take(batch)
        await check(pool, model)


def overtaking(history: History, rng: random.Random) -> list[TimelineRecord]:
    """Return newer versions by which conversations, leaves and entries of a history move anywhere, chains included."""
    names = sorted({e["conversation_id"] for e in history.events if e.get("conversation_id")})
    leaves, entries = sorted(history.owner), [r for r in history.records if r.kind == "entry" and not r.deleted]
    found = []
    for version in range(11, 11 + rng.randint(10, 30)):
        kind = rng.choice(("conversation", "conversation", "leaf", "entry"))
        if kind == "conversation":
            body = {"canonical_id": uid(f"conversation {rng.choice(names)}"), "follow_up_of": None}
            key = uid(f"conversation {rng.choice(names)}")
        elif kind == "leaf":
            body = {"customer_id": uid(rng.choice((f"customer C-{rng.choice(leaves)}", f"leaf {rng.choice(leaves)}")))}
            key = uid(f"leaf {rng.choice(leaves)}")
        else:
            moved = rng.choice(entries)
            place = {"conversation_id": uid(f"conversation {rng.choice(names)}")}
            body, key = {**moved.body, **place, "leaf_id": uid(f"leaf {rng.choice(leaves)}")}, moved.key
        found.append(TimelineRecord(TENANT, kind, key, version, body))
    return found


def counted(found: Sequence[Row]) -> dict[tuple[object, ...], tuple[int, int]]:
    """Return (series, window, group, bucket) → (n, total) of rows with and without histograms."""
    sums: dict[tuple[object, ...], tuple[int, int]] = {}
    for row in found:
        strip = row.strip or Strip([row.bucket], [row.n], [row.total])
        for bucket, n, total in zip(*strip, strict=True):
            place = (row.series, row.window, tuple(row.group), bucket)
            old = sums.get(place, (0, 0))
            sums[place] = (old[0] + n, old[1] + int(total))
    return {place: cell for place, cell in sums.items() if cell != (0, 0)}


CLEAR = """
TRUNCATE metrics.tenant, metrics.entry, metrics.leaf, metrics.conversation, metrics.contribution, metrics.schedule,
         metrics.sla, metrics.rollup, metrics.day
"""

START = datetime(2026, 1, 1, tzinfo=UTC)
RULES = Rules(
    (Schedule(micros(START), "Europe/Amsterdam", OFFICE),), (Sla(micros(START), 900 * SECOND, None, "business"),)
)


async def put_rules(pool: asyncpg.Pool) -> None:
    await put_version(pool, "schedule", TENANT, START, {"timezone": "Europe/Amsterdam", "rules": OFFICE}, START)
    await put_version(pool, "sla", TENANT, START, {"first_reply_s": 900, "clock": "business"}, START)
    await reevaluate(pool, SystemClock(), TENANT)


async def test_sums_by_hour_answer_as_the_contributions_do(pool: asyncpg.Pool) -> None:
    """Whatever the borders: on the hour, inside one, in the past or ahead of the clock; days and longer ones."""
    history = a_history(11)
    await stream(pool, MetricsConsumer(), [history.records])
    rng, answers, days = random.Random(1), 0, 0
    async with pool.acquire() as connection, connection.transaction():
        names = [row[0] for row in await connection.fetch("SELECT name FROM metrics.series ORDER BY 1")]
        first, last = micros(START) + 84 * DAY, micros(START) + 100 * DAY
        for _ in range(60):
            borders = sorted({rng.randrange(first, last) // grain * grain for grain in (1, HOUR, HOUR, 7)})
            if rng.random() < 0.5:
                borders = [borders[0] + n * DAY for n in range(8)]
            group = rng.choice(((), ("channel",), ("family",), ("family", "channel"), ("",)))
            filters = rng.choice(({}, {}, {"channel": "chat"}, {"family": "social"}))
            some = tuple(rng.sample(names, 3)) if rng.random() < 0.5 else tuple(names)
            fetch = Fetch("", some, tuple(borders), group, filters, before=rng.random() < 0.3)
            now = rng.randrange(first, last)
            assert covers(fetch, None)
            days += short(fetch)
            found = await rows(connection, TENANT, fetch, now, None)
            for row in found:
                assert row.strip is not None
                assert list(row.strip.buckets) == sorted(set(row.strip.buckets))
                assert (row.n, row.total) == (sum(row.strip.numbers), sum(row.strip.totals))
            by_hour = counted(found)
            sql, arguments = statement(TENANT, fetch, now, None)
            one_by_one = [Row("", *row) for row in await connection.fetch(sql, *arguments)]
            assert by_hour == counted(one_by_one)
            answers += len(by_hour)
    assert answers > 1000
    assert 10 < days < 50
