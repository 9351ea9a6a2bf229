"""Erasure as a caller meets it: who may, what is answered, and what happens to everybody else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from services.conversation.erasure.retention import forget_once
from services.conversation.routes import erasing
from services.ingest.validation import validate
from shared.keys import create_key
from shared.log.protocol import INBOUND, Outgoing, Record
from shared.log.quarantine import Rejection, quarantine
from shared.routing import routing_key
from shared.settings import Settings
from tests.timeline_app import Timelines, running_timelines
from tests.waiting import until


@pytest.fixture(autouse=True)
def nobody_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no metrics service here to wait for."""
    monkeypatch.setattr(erasing, "COUNTED_S", 0.01)


NOBODY = "00000000-0000-4000-8000-000000000001"


async def test_the_erased_answer_with_nothing_but_their_receipt(pool: asyncpg.Pool, settings: Settings) -> None:
    async with running_timelines(pool, settings) as timelines:
        first = timelines.message("09:00:00", "crm:ann", "email:ann@x.example", text="hello")
        await timelines.post(first, timelines.message("09:01:00", "crm:bo", text="somebody else"))
        ann, bo = await timelines.customer("crm:ann"), await timelines.customer("crm:bo")
        assert ann is not None and bo is not None
        receipt = await timelines.call("DELETE", f"/v1/customers/{ann['id']}")
        assert receipt.status_code == 200, receipt.text
        assert receipt.json()["found"]["entries"] == 1
        assert receipt.json()["found"]["handles and sessions"] == 2
        assert receipt.json()["topics"]["inbound.v1"] == {"state": "erased", "records": 1}
        assert "ann" not in receipt.text
        assert await timelines.customer("email:ann@x.example") is None
        for path in ("", "/timeline", "/context", "/identity", "/export"):
            assert (await timelines.call("GET", f"/v1/customers/{ann['id']}{path}")).status_code == 404
        merge = await timelines.call("POST", f"/v1/customers/{bo['id']}/merge", json={"with": ann["id"]})
        assert merge.status_code == 404
        assert (await timelines.call("DELETE", f"/v1/customers/{ann['id']}")).json() == receipt.json()
        assert (await timelines.status(first))["status"] == "erased"
        assert await timelines.customer("crm:bo") == bo
        telling = "SELECT count(*) FROM log.record WHERE encode(value, 'escape') LIKE ANY ($1)"
        assert await pool.fetchval(telling, ["%ann@x%", "%crm:ann%", "%hello%"]) == 0


async def test_the_receipt_tells_of_handles_that_the_policy_names_and_they_stay_barred(
    pool: asyncpg.Pool, settings: Settings
) -> None:
    async with running_timelines(pool, settings) as timelines:
        barred = {"blocked": ["email:Ann@X.example", "email:zoe@x.example"], "shared": ["phone:06 12345678"]}
        assert (await timelines.call("PUT", "/v1/identity/policy", json=barred)).status_code == 200
        await timelines.post(timelines.message("09:00:00", "crm:ann", "email:ann@x.example", "phone:+31612345678"))
        await timelines.post(timelines.message("09:01:00", "crm:bo", "email:bo@x.example"))
        told = {}
        for name in ("ann", "bo"):
            customer = await timelines.customer(f"crm:{name}")
            assert customer is not None
            told[name] = (await timelines.call("DELETE", f"/v1/customers/{customer['id']}")).json()
        assert told["ann"]["found"]["handles in the identity policy"] == 2
        assert "handles in the identity policy" not in told["bo"]["found"]
        assert [any("identity policy" in text for text in told[name]["remains"]) for name in told] == [True, False]
        assert (await timelines.get("/v1/identity/policy"))["blocked"] == barred["blocked"]


async def test_only_the_privacy_scope_of_the_same_tenant_erases(pool: asyncpg.Pool, settings: Settings) -> None:
    async with running_timelines(pool, settings) as timelines:
        await timelines.post(timelines.message("09:00:00", "crm:ann"))
        ann = await timelines.customer("crm:ann")
        assert ann is not None
        async with pool.acquire() as connection:
            key = await create_key(connection, "acme", ["timeline:read", "timeline:write"])
        path = f"/v1/customers/{ann['id']}"
        assert (await timelines.client.delete(path)).status_code == 401
        refused = await timelines.client.delete(path, headers={"authorization": f"Bearer {key}"})
        assert refused.status_code == 403
        assert (await timelines.call("DELETE", path, tenant="globex")).status_code == 404
        for id_ in (NOBODY, "not-an-id"):
            assert (await timelines.call("DELETE", f"/v1/customers/{id_}")).status_code == 404
        assert await timelines.customer("crm:ann") == ann


async def test_a_handle_that_many_share_is_nobody_to_erase(pool: asyncpg.Pool, settings: Settings) -> None:
    async with running_timelines(pool, settings) as timelines:
        await timelines.call("PUT", "/v1/identity/policy", json={"degree_limit": 1})
        shared = "phone:+31612345678"
        for number in range(3):
            await timelines.post(timelines.message(f"09:0{number}:00", f"crm:p{number}", shared))
        leaf = await pool.fetchval("SELECT customer_id FROM conversation.leaf WHERE node = $1 AND shared", shared)
        answer = await timelines.call("DELETE", f"/v1/customers/{leaf}")
        assert answer.status_code == 409 and "share" in answer.json()["detail"]


async def test_what_nobody_could_read_goes_where_a_handle_of_theirs_is_in_it(
    pool: asyncpg.Pool, settings: Settings
) -> None:
    async with running_timelines(pool, settings) as timelines:
        await timelines.post(timelines.message("09:00:00", "email:ann@x.example"))
        await _quarantined(timelines, 1, b'{"from": "Ann <ANN@x.example>", "broken')
        await _quarantined(timelines, 2, b'{"from": "bo@x.example", "broken')
        ann = await timelines.customer("email:ann@x.example")
        assert ann is not None
        receipt = (await timelines.call("DELETE", f"/v1/customers/{ann['id']}")).json()
        assert receipt["found"]["quarantine"] == 1
        rows = await pool.fetch('SELECT "offset", value, state FROM log.quarantine ORDER BY "offset"')
        assert [(row["offset"], row["value"], row["state"]) for row in rows] == [
            (1, b"", "dropped"),
            (2, b'{"from": "bo@x.example", "broken', "held"),
        ]


async def _quarantined(timelines: Timelines, offset: int, value: bytes) -> None:
    log = timelines.platform.log
    record = Record(log.name(INBOUND), 0, offset, b"acme\0x", value, (), timelines.platform.clock.now())
    async with timelines.platform.pool.acquire() as connection, connection.transaction():
        rejection = Rejection(record, "cannot be read", tenant="acme", source="/x", event_id=str(offset))
        await quarantine(connection, log, "conversation", INBOUND, [rejection])


async def test_what_was_known_before_an_erasure_tells_nothing_of_whom_it_forgot(
    pool: asyncpg.Pool, settings: Settings
) -> None:
    async with running_timelines(pool, settings) as timelines:
        mail = {"channel": "email", "message_id": "a1@x.example"}
        await timelines.post(timelines.message("09:00:00", "email:ann@x.example", **mail))
        answer = {"channel": "sms", "thread": {"in_reply_to": "<a1@x.example>"}}
        by_bo = timelines.message("09:01:00", "phone:+31612345678", **answer)
        await timelines.post(by_bo)
        # Nobody's by themselves: they are of whoever the conversation is.
        said = {"actor": {"type": "agent", "id": "a1"}, "thread": {"in_reply_to": "<a1@x.example>"}}
        await timelines.post(timelines.message("09:02:00", type="message.sent", channel="email", **said))
        ann, bo = await timelines.customer("email:ann@x.example"), await timelines.customer("phone:+31612345678")
        assert ann is not None and bo is not None
        before = await timelines.get(f"/v1/customers/{bo['id']}/timeline")
        assert {entry["customer_id"] for entry in before["entries"]} == {ann["id"], bo["id"]}
        at = (await pool.fetchval("SELECT clock_timestamp()")).isoformat()
        assert (await timelines.call("DELETE", f"/v1/customers/{ann['id']}")).status_code == 200
        then = await timelines.get(f"/v1/customers/{bo['id']}/timeline", as_of=at)
        assert by_bo["id"] in {entry["event_id"] for entry in then["entries"]}
        assert {entry["customer_id"] for entry in then["entries"]} == {bo["id"]}
        left = "SELECT count(*) FROM conversation.past_entry p WHERE NOT EXISTS (SELECT FROM conversation.leaf l "
        assert await pool.fetchval(left + "WHERE l.tenant_id = p.tenant_id AND l.leaf_id = p.leaf_id)") == 0


async def test_who_writes_after_their_erasure_is_somebody_new(pool: asyncpg.Pool, settings: Settings) -> None:
    async with running_timelines(pool, settings) as timelines:
        old = timelines.message("09:00:00", "email:ann@x.example", text="before")
        await timelines.post(old)
        ann = await timelines.customer("email:ann@x.example")
        assert ann is not None
        await timelines.call("DELETE", f"/v1/customers/{ann['id']}")
        headers = {"authorization": f"Bearer {timelines.keys['acme']}"}
        await timelines.client.post("/v1/events", json=old, headers=headers)
        # Said before, and nobody had heard of it: real, and not of what was erased.
        await timelines.post(timelines.message("08:00:00", "email:ann@x.example", text="after"))
        again = await timelines.customer("email:ann@x.example")
        assert again is not None and again["id"] != ann["id"]
        lines = (await timelines.get(f"/v1/customers/{again['id']}/timeline"))["entries"]
        assert [line["text"] for line in lines if line["type"] == "threadline.message.received"] == ["after"]
        assert (await timelines.status(old))["status"] == "erased"


async def test_what_was_received_before_an_erasure_and_is_read_after_it_is_dropped(
    pool: asyncpg.Pool, settings: Settings
) -> None:
    async with running_timelines(pool, settings) as timelines:
        await timelines.post(timelines.message("09:00:00", "email:ann@x.example", text="known"))
        ann = await timelines.customer("email:ann@x.example")
        assert ann is not None
        posted = timelines.message("09:10:00", "email:ann@x.example", text="heard before")
        waiting = validate(posted, "acme", timelines.platform.clock.now())
        await timelines.call("DELETE", f"/v1/customers/{ann['id']}")
        await timelines.platform.log.append(INBOUND, [Outgoing(routing_key(waiting), waiting.encode())])

        async def is_erased() -> bool:
            found = await timelines.call("GET", "/v1/events/status", source=posted["source"], id=posted["id"])
            return found.status_code == 200 and found.json()["status"] == "erased"

        await until(is_erased, "what waited in the log is erased")
        assert await timelines.customer("email:ann@x.example") is None
        raw = await pool.fetchval("SELECT count(*) FROM log.record WHERE encode(value, 'escape') LIKE '%heard before%'")
        assert raw == 0


async def test_who_was_quiet_for_long_enough_is_forgotten_and_what_comes_late_is_not_lost(
    pool: asyncpg.Pool, settings: Settings
) -> None:
    async with running_timelines(pool, settings) as timelines:
        now = timelines.platform.clock.now()

        def said(days_ago: int, *handles: str) -> dict[str, Any]:
            return {**timelines.message("09:00:00", *handles), "time": (now - timedelta(days=days_ago)).isoformat()}

        old = said(400, "email:ann@x.example", "crm:ann")
        await timelines.post(old, said(399, "phone:+31612345678"), said(400, "crm:bo"), said(3, "crm:bo"))
        bo = await timelines.customer("crm:bo")
        assert await forget_once(timelines.platform, timedelta(days=365)) == 2
        assert await forget_once(timelines.platform, timedelta(days=365)) == 0
        assert await timelines.customer("crm:ann") is None
        assert await timelines.customer("crm:bo") == bo
        assert (await timelines.status(old))["status"] == "erased"
        # Said before she was forgotten, heard after: it is younger than the age.
        await timelines.post(said(30, "crm:ann"))
        again = await timelines.customer("crm:ann")
        assert again is not None and [handle["kind"] for handle in again["handles"]] == ["crm"]
