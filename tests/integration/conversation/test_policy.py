"""Another identity policy: what it would change is told before, and is what it changes."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.conversation import tables
from services.conversation.foreseeing import foresee
from services.conversation.policy import Policy
from services.conversation.routes import policy as policy_routes
from services.conversation.update import change_policy, put_events
from shared.clock import SystemClock
from shared.database.engine import tenant_reader
from shared.events import InboundEvent
from shared.settings import Settings
from tests.histories import SECRET, a_history, a_policy
from tests.integration.conversation.test_dialogues import dump
from tests.integration.conversation.test_histories import NOW, decide_again
from tests.timeline_app import Timelines, running_timelines
from tests.waiting import until

POLICY = "/v1/identity/policy"

REGROUPED = """
SELECT r.leaf_id, r.was, r.became FROM conversation.policy_regrouping r
JOIN conversation.tenant_state USING (tenant_id, policy_version) WHERE tenant_id = $1
"""

REGROUPED_OF_NOBODY = """
SELECT count(*) FROM conversation.policy_regrouping WHERE leaf_id NOT IN (SELECT leaf_id FROM conversation.leaf)
"""


@pytest.fixture
async def timelines(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Timelines]:
    async with running_timelines(pool, settings) as running:
        yield running


async def customers(pool: asyncpg.Pool, tenant: str) -> dict[UUID, UUID]:
    rows = await pool.fetch("SELECT leaf_id, customer_id FROM conversation.leaf WHERE tenant_id = $1", tenant)
    return {row[0]: row[1] for row in rows}


async def test_what_a_dry_run_foresees_is_what_the_change_does(pool: asyncpg.Pool) -> None:
    changed = 0
    for seed in range(85_000, 85_012):
        chance, tenant = random.Random(seed), f"tenant{seed}"
        await decide_again(pool, tenant, policy=a_policy(chance))
        async with pool.acquire() as connection, connection.transaction():
            await put_events(connection, tenant, a_history(chance, tenant, 30), SECRET, NOW)
        before, policy = await customers(pool, tenant), a_policy(chance)
        stored = await dump(pool, tenant)
        async with tenant_reader(pool, tenant) as connection:
            foreseen = await foresee(connection, tenant, policy, SECRET, SystemClock())
        assert await dump(pool, tenant) == stored, seed
        outcome = await decide_again(pool, tenant, policy=policy)
        after = await customers(pool, tenant)
        parts, wholes = defaultdict(set), defaultdict(set)
        for leaf, was in before.items():
            parts[was].add(after[leaf])
            wholes[after[leaf]].add(was)
        split = {str(was) for was, now in parts.items() if len(now) > 1}
        merged = {frozenset(map(str, olds)) for olds in wholes.values() if len(olds) > 1}
        assert {row["customer_id"] for row in foreseen["splits"]} == split, seed
        assert {frozenset(c["id"] for c in row["customers"]) for row in foreseen["merges"]} == merged, seed
        assert foreseen["entries_moved"] == outcome.moved, seed
        regrouped = {leaf for leaf, was in before.items() if len(parts[was]) > 1 or len(wholes[after[leaf]]) > 1}
        kept = await pool.fetch(REGROUPED, tenant)
        assert {row[0]: (row[1], row[2]) for row in kept} == {leaf: (before[leaf], after[leaf]) for leaf in regrouped}
        changed += bool(split) + bool(merged)
    assert changed > 5


async def test_a_dry_run_names_who_would_be_apart_and_changes_nothing(timelines: Timelines) -> None:
    ann, phone, bo = "email:ann@home.example", "phone:+31612345678", "email:bo@work.example"
    await timelines.post(timelines.message("09:00:00", ann, phone), timelines.message("09:01:00", bo, phone))
    customer = await timelines.customer(ann)
    assert customer and (await timelines.customer(bo) or {})["id"] == customer["id"]
    before = await timelines.get(POLICY)
    wanted = {**before, "shared": [phone]}
    answer = await timelines.call("PUT", POLICY, json=wanted, dry_run="true")
    assert answer.status_code == 200, answer.text
    foreseen: dict[str, Any] = answer.json()
    assert foreseen["splits"] == [{"customer_id": customer["id"], "groups": [[ann], [bo], [phone]]}]
    assert (foreseen["merges"], foreseen["customers_split"], foreseen["truncated"]) == ([], 1, False)
    assert foreseen["policy"] == wanted
    assert await timelines.get(POLICY) == before
    assert await timelines.customer(ann) == customer
    # And the other way round, once it is so.
    assert (await timelines.call("PUT", POLICY, json=wanted)).json() == wanted
    assert (await timelines.customer(bo) or {})["id"] != (await timelines.customer(ann) or {})["id"]
    back = (await timelines.call("PUT", POLICY, json=before, dry_run="true")).json()
    assert [len(row["customers"]) for row in back["merges"]] == [3]
    assert back["splits"] == []


async def policies_that_regrouped(timelines: Timelines, handle: str) -> list[dict[str, Any]]:
    customer = await timelines.customer(handle)
    assert customer is not None
    why = await timelines.get(f"/v1/customers/{customer['id']}/identity")
    return [row for row in why["history"] if row["op"] == "policy"]


async def test_identity_tells_which_policies_regrouped_a_customer_until_somebody_is_erased(
    timelines: Timelines, pool: asyncpg.Pool
) -> None:
    ann, phone, bo, cy = "email:ann@home.example", "phone:+31612345678", "email:bo@work.example", "email:cy@x.example"
    await timelines.post(
        timelines.message("09:00:00", ann, phone), timelines.message("09:01:00", bo, phone),
        timelines.message("09:02:00", cy),
    )  # fmt: skip
    await timelines.call("PUT", POLICY, json={"shared": [phone]}, dry_run="true")
    assert await policies_that_regrouped(timelines, ann) == []
    await timelines.call("PUT", POLICY, json={"shared": [phone], "degree_limit": 19})
    key = await pool.fetchval("SELECT key_id::text FROM auth.api_key WHERE tenant_id = 'acme'")
    (apart,) = await policies_that_regrouped(timelines, ann)
    assert apart == {
        "op": "policy", "at": apart["at"], "actor": key, "reason": "changed: shared, degree_limit",
        "handles": [[ann], [bo], [phone]],
    }  # fmt: skip
    assert await policies_that_regrouped(timelines, bo) == [apart]
    # A policy that regroups nobody is nobody's history, one that puts them together again is.
    await timelines.call("PUT", POLICY, json={"shared": [phone]})
    await timelines.call("PUT", POLICY, json={})
    first, second = await policies_that_regrouped(timelines, ann)
    assert (first, second["reason"], sorted(second["handles"])) == (apart, "changed: shared", [[ann], [bo], [phone]])
    assert second["at"] > first["at"]
    assert await policies_that_regrouped(timelines, cy) == []
    assert await pool.fetchval("SELECT count(*) FROM conversation.policy_change WHERE tenant_id = 'acme'") == 3

    await timelines.call("PUT", POLICY, json={"shared": [phone]})
    gone = await timelines.customer(bo)
    assert gone is not None
    assert (await timelines.call("DELETE", f"/v1/customers/{gone['id']}")).status_code == 200
    rows = await policies_that_regrouped(timelines, ann)
    assert len(rows) == 3
    assert bo not in str(rows)
    assert await pool.fetchval(REGROUPED_OF_NOBODY) == 0


@pytest.mark.parametrize(
    ("policy", "params", "pointer"),
    [
        ({"default_region": "XX"}, {}, "#/default_region"),
        ({"default_region": "nl"}, {"dry_run": "true"}, "#/default_region"),
        ({"limits": {"email": 0}}, {}, "#/limits/email"),
        ({"limits": {"crm": 10**30}}, {}, "#/limits/crm"),
        ({"degree_limit": 10**30}, {}, "#/degree_limit"),
        ({"blocked": ["email:\0"]}, {}, "#/blocked"),
        ({"shared": ["email:\ud800"]}, {"dry_run": "true"}, "#/shared"),
        ({"own_addresses": ["\0@acme.example"]}, {}, "#/own_addresses"),
        ({"own_addresses": ["a@acme.example", "Help <help@acme.example>"]}, {"dry_run": "true"}, "#/own_addresses"),
        ({"open_window_s": -1}, {}, "#/open_window_s"),
        ({"blocked": ["no kind"]}, {}, "#/blocked"),
        ({"unknown": 1}, {}, "#/unknown"),
        ({}, {"dry_run": "perhaps"}, "#/query/dry_run"),
    ],
)
async def test_a_policy_that_cannot_be_is_refused_and_the_old_one_stays(
    timelines: Timelines, policy: dict[str, Any], params: dict[str, str], pointer: str
) -> None:
    before = await timelines.get(POLICY)
    headers = {"authorization": f"Bearer {timelines.keys['acme']}", "content-type": "application/json"}
    # As ASCII, for what no UTF-8 can hold.
    answer = await timelines.client.put(POLICY, params=params, content=json.dumps(policy), headers=headers)
    assert answer.status_code == 422, answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert await timelines.get(POLICY) == before


async def test_a_policy_from_before_own_addresses_were_looked_at_is_read_as_it_was(
    timelines: Timelines, pool: asyncpg.Pool
) -> None:
    await timelines.call("PUT", POLICY, json={"own_addresses": ["help@acme.example"]})
    named = ["Help <help@acme.example>"]
    change = (
        "UPDATE conversation.tenant_state SET policy = jsonb_set(policy, '{own_addresses}', $1) WHERE tenant_id = $2"
    )
    await pool.execute(change, named, "acme")
    assert (await timelines.get(POLICY))["own_addresses"] == named


async def test_only_an_admin_may_ask_what_a_policy_would_change(timelines: Timelines) -> None:
    answer = await timelines.client.put(POLICY, json={}, params={"dry_run": "true"})
    assert answer.status_code == 401


async def test_a_policy_that_can_change_nothing_decides_nothing_again(pool: asyncpg.Pool) -> None:
    async def change(policy: Policy) -> bool:
        async with pool.acquire() as connection, connection.transaction():
            renews = await change_policy(connection, "acme", NOW, policy)
            assert (await tables.tenants.get_policy(connection, "acme")).policy == policy
            assert (await tables.tenants.lock_tenant(connection, "acme")).outstanding == renews
            await tables.renewals.finish(connection, "acme")
            return renews

    async def call(name: str, *handles: str) -> None:
        named = [{"kind": kind, "value": value} for kind, _, value in (handle.partition(":") for handle in handles)]
        said = {"channel": "phone", "customer": {"handles": named}}
        async with pool.acquire() as connection, connection.transaction():
            event = InboundEvent("acme", "/x", name, "threadline.message.received", NOW, NOW, said)
            await put_events(connection, "acme", [event], SECRET, NOW)

    await call("a", "phone:+31612345671", "email:ann@a.example", "visitor:v1")
    assert not await change(Policy())
    barring = Policy(shared=("phone:+31612345672",), blocked=("visitor:v2",))
    assert not await change(barring)
    assert not await change(barring)
    await call("b", "phone:+31612345672", "email:bob@b.example")
    assert not await pool.fetchval("SELECT count(*) FROM conversation.leaf WHERE node = 'phone:+31612345672'")
    for other in (
        Policy(shared=("phone:+31612345672", "phone:+31612345671"), blocked=("visitor:v2",)),
        Policy(shared=("phone:+31612345672",), blocked=("visitor:v2", "visitor:v1")),
        Policy(shared=("phone:+31612345672",)),
        Policy(shared=("phone:+31612345672",), blocked=("visitor:v2",), degree_limit=3),
    ):
        assert await change(other)


async def test_a_change_whose_process_died_is_carried_out_by_whoever_runs(
    timelines: Timelines, pool: asyncpg.Pool
) -> None:
    ann, phone, bo = "email:ann@home.example", "phone:+31612345678", "email:bo@work.example"
    await timelines.post(timelines.message("09:00:00", ann, phone), timelines.message("09:01:00", bo, phone))

    def outstanding() -> float | None:
        return timelines.platform.registry.get_sample_value("threadline_conversation_policy_outstanding")

    async def apart() -> bool:
        return (await timelines.customer(ann) or {})["id"] != (await timelines.customer(bo) or {})["id"]

    async with pool.acquire() as connection, connection.transaction():
        assert await change_policy(connection, "acme", NOW, Policy(shared=(phone,)), "a key")
    await until(apart, "the policy is carried out")
    await until(lambda: outstanding() == 0, "nothing is outstanding")
    (row,) = await policies_that_regrouped(timelines, ann)
    assert (row["actor"], row["handles"]) == ("a key", [[ann], [bo], [phone]])


async def test_a_change_that_takes_long_is_answered_before_it_is_carried_out(
    timelines: Timelines, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, phone, bo = "email:ann@home.example", "phone:+31612345678", "email:bo@work.example"
    await timelines.post(timelines.message("09:00:00", ann, phone), timelines.message("09:01:00", bo, phone))
    monkeypatch.setattr(policy_routes, "WAIT_S", 0.1)
    async with pool.acquire() as connection, connection.transaction():
        assert await tables.renewals.alone(connection, "acme"), "as if another process were at a long slice"
        answer = await timelines.call("PUT", POLICY, json={"shared": [phone]})
        assert (answer.status_code, answer.json()["shared"]) == (200, [phone])
        assert await tables.renewals.tenants(connection) == ["acme"]

    async def carried_out() -> bool:
        return not await tables.renewals.tenants(pool)

    await until(carried_out, "the rest is carried out behind the answer")
    assert (await timelines.customer(bo) or {})["id"] != (await timelines.customer(ann) or {})["id"]
