"""A changed policy is carried out in slices: whatever comes between them, the end is what the rules give for the whole.

THREADLINE_TEST_HISTORIES says how many random interleavings are tried (default 30); a failure names the seed that shows
it again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

import asyncpg
import pytest

from services.conversation import tables
from services.conversation.erasure.erasing import NobodysOwn
from services.conversation.policy import Policy
from services.conversation.update import Outcome, change_policy, renew, renew_slice
from shared.entry_ids import entry_id_of
from shared.events import InboundEvent
from shared.log.postgres import postgres_log
from tests.comparing import Reader, differences, places
from tests.histories import DAY, SECRET, a_history, a_policy, arrivals, some_decisions, some_joins
from tests.integration.conversation.test_erasing import erase_somebody, erased, left
from tests.integration.conversation.test_histories import (
    GROUPS,
    HISTORIES,
    NOW,
    is_what_is_decided_from_scratch,
    put,
)

pytestmark = pytest.mark.usefixtures("many_checkpoints")

SEEDS = range(40_000, 40_000 + 2 * HISTORIES)
# Several times, as it went wrong by the chance of new ids: a mail was one to several customers, and then no longer.
AGENTS_SEEDS = [*[50_007] * 5, *range(50_000, 50_000 + HISTORIES)]


def another_policy(chance: random.Random) -> Policy:
    """Return a policy that may also read numbers by another country, and our own address as anybody's."""
    policy = a_policy(chance)
    if chance.random() < 0.3:
        policy = policy.model_copy(update={"default_region": "DE"})
    if chance.random() < 0.2:
        policy = policy.model_copy(update={"own_addresses": ()})
    return policy


def with_local_numbers(chance: random.Random, events: Sequence[InboundEvent]) -> list[InboundEvent]:
    """Write some telephone numbers without their country, so that the policy says what they are."""
    for event in events:
        for handle in (event.data.get("customer") or {}).get("handles") or ():
            if handle["kind"] == "phone" and event.data.get("channel") != "email" and chance.random() < 0.5:
                handle["value"] = handle["value"].replace("+31", "0")
    return list(events)


async def change(pool: asyncpg.Pool, tenant: str, policy: Policy) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await change_policy(connection, tenant, NOW, policy)


async def carry_out(pool: asyncpg.Pool, tenant: str, most: int) -> Outcome | None:
    async with pool.acquire() as connection, connection.transaction():
        return await renew_slice(connection, tenant, SECRET, NOW, most)


class Interleaving:
    """One tenant to whom events, changed policies and slices come in turns of chance."""

    def __init__(self, pool: asyncpg.Pool, seed: int, *, agents: bool, tenant: str | None = None) -> None:
        self.pool, self.seed, self.tenant = pool, seed, tenant or f"tenant{seed}"
        self.chance, self.reader = random.Random(seed), Reader()
        self.policy = another_policy(self.chance)
        events = a_history(self.chance, self.tenant, self.chance.choice([6, 12, 20, 30]))
        self.events = with_local_numbers(self.chance, events)
        if agents:
            said = self.chance.choice([some_decisions, some_joins])
            self.events += said(self.chance, self.tenant, self.events)
        self.slices = 0

    async def run(self, *, whole: bool = True) -> None:
        """Let everything come; `whole`: and a last policy be carried out to its end."""
        await change(self.pool, self.tenant, self.policy)
        for batch in arrivals(self.chance, sorted(self.events, key=lambda event: event.occurred_at)):
            if self.chance.random() < 0.3:
                self.policy = another_policy(self.chance)
                await change(self.pool, self.tenant, self.policy)
            for _ in range(self.chance.choice([0, 0, 1, 1, 2])):
                await self.slice(self.chance.choice([1, 1, 3, 8]))
            self.reader.read((await put(self.pool, self.tenant, batch)).records)
        if not whole:
            return
        self.policy = another_policy(self.chance)
        await change(self.pool, self.tenant, self.policy)
        while await self.slice(self.chance.choice([1, 1, 3, 8])):
            pass

    async def slice(self, most: int) -> bool:
        outcome = await carry_out(self.pool, self.tenant, most)
        if outcome is not None:
            self.slices += 1
            self.reader.read(outcome.records)
        return outcome is not None

    async def agrees(self) -> None:
        """Compare what is stored with what the topic says and with what is decided from scratch."""
        got = await places(self.pool, self.tenant)
        told = self.reader.places()
        assert told == {name: got[name] for name in got if name[0] != "/threadline"}, self.seed
        await nothing_is_outstanding(self.pool, self.tenant)
        await is_what_is_decided_from_scratch(self.pool, self.tenant, self.seed)


async def nothing_is_outstanding(pool: asyncpg.Pool, tenant: str) -> None:
    assert await tables.renewals.tenants(pool) == []
    for table in ("leaf", "link"):
        left = await pool.fetch(
            f"SELECT r.* FROM conversation.{table} r JOIN conversation.tenant_state s USING (tenant_id) "
            "WHERE tenant_id = $1 AND r.renewal <> s.renewal",
            tenant,
        )
        assert left == [], table


@pytest.mark.parametrize("group", range(GROUPS))
async def test_policies_that_change_in_the_midst_of_events_end_as_the_last_one_gives_for_all(
    pool: asyncpg.Pool, group: int
) -> None:
    slices = 0
    for seed in SEEDS[group::GROUPS]:
        case = Interleaving(pool, seed, agents=False)
        await case.run()
        assert differences(case.events, case.policy, await places(pool, case.tenant)) == [], seed
        await case.agrees()
        slices += case.slices
    assert slices > len(SEEDS) / GROUPS


@pytest.mark.parametrize("group", range(GROUPS))
async def test_what_agents_decide_between_slices_gives_what_deciding_from_scratch_gives(
    pool: asyncpg.Pool, group: int
) -> None:
    for number, seed in list(enumerate(AGENTS_SEEDS))[group::GROUPS]:
        case = Interleaving(pool, seed, agents=True, tenant=f"tenant{number}")
        await case.run()
        await case.agrees()


ERASURES = range(60_000, 60_000 + HISTORIES // 2)


async def test_an_erasure_between_slices_leaves_what_the_rules_give_for_the_rest(pool: asyncpg.Pool) -> None:
    async with postgres_log(pool, retention=None) as log:
        for seed in ERASURES:
            case = Interleaving(pool, seed, agents=seed % 3 == 0)
            await case.run(whole=False)
            now = max(event.occurred_at for event in case.events) + DAY
            for _ in range(case.chance.choice([1, 2, 3])):
                case.policy = another_policy(case.chance)
                await change(pool, case.tenant, case.policy)
                for _ in range(case.chance.choice([0, 1, 2])):
                    await case.slice(1)
                with suppress(NobodysOwn):  # the new policy may say so of whom the old one had as a customer
                    await erase_somebody(pool, log, case.tenant, case.chance, now)
            while await case.slice(2):
                pass
            rest = left(case.events, await erased(pool, case.tenant))
            if seed % 3:
                got = await places(pool, case.tenant)
                assert differences(rest, case.policy, got) == [] if rest else not got, seed
            await nothing_is_outstanding(pool, case.tenant)
            await is_what_is_decided_from_scratch(pool, case.tenant, seed)


CARRIERS, WRITERS = 2, 4


async def test_two_who_carry_out_slices_beside_writers_end_as_the_rules_give(pool: asyncpg.Pool) -> None:
    chance, tenant = random.Random(17), "acme"
    events = with_local_numbers(chance, a_history(chance, tenant, 80))
    queue = list(events) * 2
    chance.shuffle(queue)
    policies = [another_policy(chance) for _ in range(6)]
    written = asyncio.Event()
    busy = 0

    async def write(share: list[InboundEvent], own: random.Random) -> None:
        while share:
            batch, share = share[: (size := own.randint(1, 4))], share[size:]
            await put(pool, tenant, batch)

    async def decide() -> None:
        for policy in policies:
            await change(pool, tenant, policy)
            await asyncio.sleep(0.3)

    async def slices() -> None:
        nonlocal busy
        while True:
            last = written.is_set()
            async with pool.acquire() as connection, connection.transaction():
                if not await tables.renewals.alone(connection, tenant):
                    busy += 1
                elif await renew_slice(connection, tenant, SECRET, NOW, 3) is None and last:
                    return
            await asyncio.sleep(0.005)

    async def write_all() -> None:
        shares = (queue[number::WRITERS] for number in range(WRITERS))
        await asyncio.gather(decide(), *(write(share, random.Random(seed)) for seed, share in enumerate(shares)))
        written.set()

    async with asyncio.timeout(120):
        await asyncio.gather(write_all(), *(slices() for _ in range(CARRIERS)))
    assert busy, "the two never met"
    assert differences(events, policies[-1], await places(pool, tenant)) == []
    await nothing_is_outstanding(pool, tenant)
    await is_what_is_decided_from_scratch(pool, tenant, 17)


ANN, BO, PHONE = ({"kind": kind, "value": value} for kind, value in (
    ("email", "ann@a.example"), ("email", "bo@b.example"), ("phone", "+31612345671"),
))  # fmt: skip
CUSTOMERS = "SELECT node, customer_id FROM conversation.leaf WHERE tenant_id = $1"
OWNER = "SELECT node FROM conversation.entry JOIN conversation.leaf USING (tenant_id, leaf_id) WHERE event_id = $1"


def said(name: str, hours: int, *handles: dict[str, str]) -> InboundEvent:
    at = NOW + timedelta(hours=hours)
    data = {"channel": "sms", "actor": {"type": "customer"}, "customer": {"handles": list(handles)}}
    return InboundEvent("acme", "/x", name, "threadline.message.received", at, at, data)


async def customers(pool: asyncpg.Pool) -> list[set[str]]:
    """Return the nodes of each customer."""
    found: dict[object, set[str]] = {}
    for node, customer in await pool.fetch(CUSTOMERS, "acme"):
        found.setdefault(customer, set()).add(node)
    return sorted(found.values(), key=sorted)


async def test_what_a_message_touches_is_decided_by_the_new_policy_at_once_and_the_rest_when_its_turn_comes(
    pool: asyncpg.Pool,
) -> None:
    other, theirs = {"kind": "email", "value": "cy@c.example"}, {"kind": "phone", "value": "+31612345672"}
    await put(pool, "acme", [said("a", 1, ANN, PHONE), said("b", 2, BO, PHONE), said("c", 3, other, theirs)])
    together = {"email:ann@a.example", "email:bo@b.example", "phone:+31612345671"}
    assert await customers(pool) == [together, {"email:cy@c.example", "phone:+31612345672"}]
    await change(pool, "acme", Policy(shared=("phone:+31612345671", "phone:+31612345672")))
    assert len(await customers(pool)) == 2, "the change alone decides nothing"
    # Bo does not say so, but Ann is no longer one with them: the message of one decides the part of both.
    await put(pool, "acme", [said("d", 4, BO)])
    apart = [{"email:ann@a.example"}, {"email:bo@b.example"}, {"phone:+31612345671"}]
    whole = {"email:cy@c.example", "phone:+31612345672"}
    assert await customers(pool) == sorted([*apart, whole], key=sorted)
    assert await tables.renewals.outstanding(pool, ["acme"]) == 2
    assert (await carry_out(pool, "acme", 1)) is not None
    assert len(await customers(pool)) == 5
    assert await carry_out(pool, "acme", 1) is None
    await nothing_is_outstanding(pool, "acme")


async def test_a_policy_taken_back_before_its_turn_came_regroups_nobody(pool: asyncpg.Pool) -> None:
    await put(pool, "acme", [said("a", 1, ANN, PHONE), said("b", 2, BO, PHONE)])
    before = await customers(pool)
    await change(pool, "acme", Policy(shared=("phone:+31612345671",)))
    await change(pool, "acme", Policy())
    outcome = await carry_out(pool, "acme", 10)
    assert outcome is not None and (outcome.records, outcome.moved) == ([], 0)
    assert await customers(pool) == before
    assert await pool.fetchval("SELECT count(*) FROM conversation.policy_regrouping") == 0
    assert await pool.fetchval("SELECT count(*) FROM conversation.policy_change") == 2


async def test_a_link_of_two_shared_handles_outlives_the_event_that_no_longer_gives_it(pool: asyncpg.Pool) -> None:
    info, number = {"kind": "email", "value": "info@shop.example"}, "+31612345671"
    abroad, local = {"kind": "phone", "value": number}, {"kind": "phone", "value": "0612345671"}
    crm = [{"kind": "crm", "value": str(value)} for value in range(4)]
    await change(pool, "acme", Policy(degree_limit=1))
    partners = [(info, crm[0]), (info, crm[1]), (abroad, crm[2]), (abroad, crm[3])]
    await put(pool, "acme", [said(f"p{number}", number, *pair) for number, pair in enumerate(partners)])
    await put(pool, "acme", [said("local", 10, info, local)])
    await change(pool, "acme", Policy(degree_limit=1, default_region="DE"))
    # Both handles are nobody's, so the message that says the same later does not touch the part of the earlier one.
    await put(pool, "acme", [said("abroad", 20, info, abroad)])
    while await carry_out(pool, "acme", 1):
        pass
    link = "SELECT event_id FROM conversation.link WHERE a = 'email:info@shop.example' AND b = $1"
    assert await pool.fetchval(link, f"phone:{number}") == "abroad"
    await nothing_is_outstanding(pool, "acme")
    await is_what_is_decided_from_scratch(pool, "acme", 0)


async def test_a_handle_that_the_last_slice_finds_nobody_to_share_brings_those_of_earlier_slices_together(
    pool: asyncpg.Pool,
) -> None:
    await change(pool, "acme", Policy(degree_limit=2))
    cy = {"kind": "email", "value": "cy@c.example"}
    await put(pool, "acme", [said(str(hour), hour, one, PHONE) for hour, one in enumerate((ANN, BO, cy))])
    assert len(await customers(pool)) == 4
    await put(pool, "acme", [said("alone", 5, PHONE)])
    assert len(await customers(pool)) == 5, "what names the number alone is nobody's"
    # Once Cy is nobody, two have the number, which is what one person may have; all others are decided before Cy.
    await change(pool, "acme", Policy(degree_limit=2, blocked=("email:cy@c.example",)))
    to_alone = said("to alone", 12)
    to_alone.data["conversation_id"] = str(entry_id_of(SECRET, "acme", "/x", "alone"))
    await put(pool, "acme", [said("ann", 10, ANN), said("bo", 11, BO), to_alone])
    assert len(await customers(pool)) == 5
    while await carry_out(pool, "acme", 1):
        pass
    together = {"email:ann@a.example", "email:bo@b.example", "phone:+31612345671"}
    assert {"email:cy@c.example"} in await customers(pool)
    assert together in await customers(pool)
    assert await pool.fetchval(OWNER, "alone") == "phone:+31612345671"
    await is_what_is_decided_from_scratch(pool, "acme", 0)


async def renewed_first(pool: asyncpg.Pool, event_id: str) -> None:
    """Decide by the new policy, before all else, the part of whoever owns an entry."""
    owner = await pool.fetchval("SELECT leaf_id FROM conversation.entry WHERE event_id = $1", event_id)
    async with pool.acquire() as connection, connection.transaction():
        await renew(connection, "acme", SECRET, NOW, [owner])


async def test_a_handle_is_shared_no_longer_once_the_last_who_named_it_reads_otherwise(pool: asyncpg.Pool) -> None:
    local, cy = {"kind": "phone", "value": "0612345671"}, {"kind": "email", "value": "cy@c.example"}
    one, other = {"kind": "crm", "value": "1"}, {"kind": "crm", "value": "2"}
    await change(pool, "acme", Policy(degree_limit=2))
    # Each of the four is named beside three others, so each is nobody's; the number is, abroad, that of two as well.
    await put(pool, "acme", [said("one", 1, one, PHONE), said("other", 2, other, PHONE)])
    await put(pool, "acme", [said("together", 3, ANN, BO, cy, local)])
    await change(pool, "acme", Policy(degree_limit=2, default_region="DE"))
    await renewed_first(pool, "one")
    await renewed_first(pool, "other")
    while await carry_out(pool, "acme", 1):
        pass
    assert not await pool.fetchval("SELECT shared FROM conversation.leaf WHERE node = 'phone:+31612345671'")
    assert {"crm:1", "phone:+31612345671"} in await customers(pool)
    await nothing_is_outstanding(pool, "acme")
    await is_what_is_decided_from_scratch(pool, "acme", 0)


async def test_what_names_a_handle_alone_is_nobodys_once_a_later_slice_finds_it_shared(pool: asyncpg.Pool) -> None:
    local, cy = {"kind": "phone", "value": "0612345671"}, {"kind": "email", "value": "cy@c.example"}
    await change(pool, "acme", Policy(degree_limit=2))
    await put(pool, "acme", [said("alone", 1, local), said("together", 2, ANN, BO, cy, local)])
    await change(pool, "acme", Policy(degree_limit=2, default_region="DE"))
    await renewed_first(pool, "alone")
    assert await pool.fetchval(OWNER, "alone") == "phone:+49612345671", "nobody else has named it until now"
    while await carry_out(pool, "acme", 1):
        pass
    assert (await pool.fetchval(OWNER, "alone")).startswith("anonymous:")
    await nothing_is_outstanding(pool, "acme")
    await is_what_is_decided_from_scratch(pool, "acme", 0)
