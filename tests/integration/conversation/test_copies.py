"""Several events with one Message-ID are one entry, whichever of them comes first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import permutations
from typing import Any

import asyncpg
import pytest

from shared.events import InboundEvent
from shared.settings import Settings
from tests.histories import BEGINNING, SECOND
from tests.integration.conversation.test_dialogues import dump
from tests.integration.conversation.test_histories import is_what_is_decided_from_scratch, put
from tests.timeline_app import Timelines, running_timelines
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("many_checkpoints")

ANN = "email:ann@home.example"


@pytest.fixture
async def timelines(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Timelines]:
    async with running_timelines(pool, settings) as running:
        yield running


def a_mail(tenant: str, id_: str, after: int, source: str = "/email/support", **data: Any) -> InboundEvent:
    at = BEGINNING + after * SECOND
    handles = [{"kind": "email", "value": "ann@home.example"}]
    data = {"channel": "email", "message_id": "<m@home.example>", "customer": {"handles": handles}, **data}
    return InboundEvent(tenant, source, id_, "threadline.message.received", at, at, data)


async def test_copies_in_any_order_are_one_entry_with_the_links_of_all(pool: asyncpg.Pool) -> None:
    found = []
    for number, order in enumerate(permutations(range(4))):
        tenant = f"tenant{number}"
        events = [
            a_mail(tenant, "e1", 0, message_id="<first@home.example>", thread={"ticket": "T-1"}),
            a_mail(tenant, "e2", 400_000, text="as sales got it", source="/email/sales"),
            a_mail(tenant, "e3", 400_000, text="as support got it"),
            # Only this copy names the mail before, and nobody is waiting any more for rule 4 to find it.
            a_mail(tenant, "e4", 400_060, thread={"references": ["<first@home.example>"]}, source="/email/archive"),
        ]
        for event in (events[i] for i in order):
            await put(pool, tenant, [event])
        rows = await pool.fetch(
            "SELECT event_id FROM conversation.entry WHERE tenant_id = $1 AND cause_id IS NULL", tenant
        )
        copies = await pool.fetch("SELECT event_id FROM conversation.copy WHERE tenant_id = $1", tenant)
        assert await pool.fetchval("SELECT count(*) FROM conversation.conversation WHERE tenant_id = $1", tenant) == 1
        found.append((sorted(row[0] for row in rows), sorted(row[0] for row in copies)))
        await is_what_is_decided_from_scratch(pool, tenant, number)
        before = await dump(pool, tenant)
        outcome = await put(pool, tenant, events)
        assert (outcome.new, outcome.repeated, outcome.copies, outcome.records) == (0, 4, 0, [])
        assert await dump(pool, tenant) == before
    assert found == [(["e1", "e2"], ["e3", "e4"])] * len(found)


async def test_what_we_send_to_several_under_one_message_id_is_one_entry_for_each(pool: asyncpg.Pool) -> None:
    def sent(id_: str, address: str) -> InboundEvent:
        to = {"handles": [{"kind": "email", "value": address}]}
        return replace(a_mail("acme", id_, 0, customer=to), type="threadline.message.sent")

    events = [sent("e1", "ann@home.example"), sent("e2", "bob@work.example"), sent("e3", "ann@home.example")]
    outcome = await put(pool, "acme", events)
    assert (outcome.new, outcome.copies) == (2, 1)


async def test_other_bytes_under_the_id_of_a_copy_are_a_conflict(pool: asyncpg.Pool) -> None:
    first, copy = a_mail("acme", "e1", 0), a_mail("acme", "e2", 1, text="one")
    await put(pool, "acme", [first, copy])
    outcome = await put(pool, "acme", [a_mail("acme", "e2", 1, text="other")])
    assert (outcome.new, outcome.copies, outcome.conflicts) == (0, 0, 1)


async def test_two_addresses_that_only_copies_name_together_stay_two_people(pool: asyncpg.Pool) -> None:
    one, other = (
        {"handles": [{"kind": "email", "value": value}]} for value in ("ann@home.example", "bob@work.example")
    )
    await put(pool, "acme", [a_mail("acme", "e1", 0, customer=one), a_mail("acme", "e2", 1, customer=other)])
    nodes = "SELECT count(DISTINCT customer_id) FROM conversation.leaf WHERE node LIKE 'email:%'"
    assert await pool.fetchval(nodes) == 2
    assert await pool.fetchval("SELECT count(*) FROM conversation.link") == 0


async def test_a_copy_answers_with_the_entry_that_stands_for_it(timelines: Timelines) -> None:
    later = timelines.message("09:00:05", ANN, channel="email", message_id="<m@home.example>", text="hello")
    await timelines.post(later)
    conversation = (await timelines.status(later))["conversation_id"]
    earlier = timelines.message("09:00:00", ANN, channel="email", message_id="<m@home.example>", text="hello")
    earlier["source"] = "/email/sales"
    await timelines.post(earlier)

    async def replaced() -> bool:
        return (await timelines.status(later))["entry_id"] == (await timelines.status(earlier))["entry_id"]

    await until(replaced, "one entry for both")
    status = await timelines.status(later)
    line = (await timelines.get(f"/v1/customers/{status['customer_id']}/timeline"))["entries"]
    assert [e["event_id"] for e in line if e["source"] != "/threadline"] == [earlier["id"]]
    # An id once given goes on answering.
    assert (await timelines.get(f"/v1/conversations/{conversation}"))["id"] == status["conversation_id"]
    answer = await timelines.call("GET", f"/v1/customers/{status['customer_id']}/export")
    assert '"kind":"copy"' in answer.text
    assert f'"event_id":"{later["id"]}"' in answer.text
