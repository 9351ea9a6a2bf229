"""A person is erased as a stranger would ask for it, and then looked for everywhere: nothing."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from shared import directory
from tests.conftest import needs
from tests.faults import traffic
from tests.kafka_broker import Broker, broker
from tests.processes import Caller, System, run, up_for_a_module
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)

TENANT = "default"
CRM, MAIL, OTHER_MAIL, PHONE = (
    "crm:QX-77311",
    "email:annelise@quistorp.example",
    "email:aq@elsewhere.example",
    "phone:+31612349876",
)
NAME, WORDS = "Annelise Quistorp", "zanzibarred parcel"
NEEDLES = ("qx-77311", "annelise", "quistorp", "aq@elsewhere", "612349876", "zanzibarred")
"""What tells of her, in lower case; long, since five letters stand in a megabyte of sealed bytes by chance."""

SPAN = {"start": "2026-05-01T00:00:00Z", "end": "2026-07-01T00:00:00Z"}

TABLES = """
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
"""


class Person:
    """Posts what she and those around her say, each event with its own id and time."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.said: list[dict[str, Any]] = []

    def says(self, type: str, at: str, *handles: str, **data: Any) -> dict[str, Any]:
        given = [dict(zip(("kind", "value"), handle.split(":", 1), strict=True)) for handle in handles]
        event = {
            "specversion": "1.0", "id": f"q{len(self.said)}", "source": f"/{data.get('channel', 'chat')}/privacy",
            "type": f"threadline.{type}", "time": f"2026-06-{at}Z",
            "data": {"channel": "chat", **({"customer": {"handles": given, "name": NAME}} if given else {}), **data},
        }  # fmt: skip
        self.said.append(event)
        return event

    def post(self) -> None:
        body = json.dumps(self.said).encode()
        answer = self._caller.call("POST", "/v1/events", body, "application/cloudevents-batch+json")
        assert answer.status_code == 202, answer.text
        for event in self.said:
            traffic_done(self._caller, event)


def traffic_done(caller: Caller, event: dict[str, Any]) -> None:
    while status(caller, event) == "accepted":
        pass


def status(caller: Caller, event: dict[str, Any]) -> str:
    answer = caller.call("GET", f"/v1/events/status?source={event['source']}&id={event['id']}")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["status"])


def a_life(caller: Caller) -> Person:
    """Return what there is of her: on three channels, merged, in a shared thread, with replies, large, in conflict."""
    her = Person(caller)
    first = "<first@mails.example>"
    her.says(
        "message.received",
        "01T09:00:00",
        CRM,
        "visitor:v-quistorp",
        text=f"Where is my {WORDS}?",
        contact_id="quistorp-1",
    )
    her.says("message.sent", "01T09:05:00", actor={"type": "agent", "id": "bo"}, text=f"{NAME}, your {WORDS} left",
             contact_id="quistorp-1")  # fmt: skip
    her.says("message.received", "01T10:00:00", CRM, MAIL, channel="email", message_id=first, subject=f"Re: {WORDS}",
             text=f"Still no {WORDS}\n\n> {NAME} wrote", html=f"<p>Still no {WORDS}</p>",
             attachments=[{"name": "quistorp.pdf", "media_type": "application/pdf", "size_bytes": 9,
                           "url": "https://files.example/quistorp.pdf"},
                          {"name": "quistorp.txt", "media_type": "text/plain",
                           "content": base64.b64encode(f"on a {WORDS}".encode()).decode()}])  # fmt: skip
    her.says("message.received", "01T11:00:00", "email:bob@others.example", channel="email", text="I am with her",
             message_id="<bob@others.example>", thread={"in_reply_to": first},
             customer={"handles": [{"kind": "email", "value": "bob@others.example"}], "name": "Bob"})  # fmt: skip
    her.says("call.queued", "02T09:00:00", PHONE, CRM, channel="phone", contact_id="quistorp-call", queue="main")
    her.says(
        "call.answered", "02T09:00:30", channel="phone", contact_id="quistorp-call", actor={"type": "agent", "id": "bo"}
    )
    her.says("call.ended", "02T09:09:00", channel="phone", contact_id="quistorp-call", duration_s=510, talk_s=500)
    her.says("message.received", "03T09:00:00", MAIL, channel="email", message_id="<big@quistorp.example>",
             text=f"{WORDS} " * 20_000)  # fmt: skip
    her.says("survey.answered", "04T09:00:00", CRM, survey_id="quistorp-survey", metric="csat", kind="csat", score=2,
             scale=[1, 5], comment=f"bad {WORDS}")  # fmt: skip
    her.says("message.received", "05T09:00:00", OTHER_MAIL, channel="email", message_id="<other@elsewhere.example>",
             text=f"again my {WORDS}")  # fmt: skip
    her.says("conversation.resolved", "06T09:00:00", CRM, contact_id="quistorp-1", actor={"type": "agent", "id": "bo"})
    her.post()
    return her


@dataclass(frozen=True)
class Place:
    """Where everything is that there is: a system with a sealed log, and the broker where it has one."""

    system: System
    broker: Broker | None


@pytest.fixture(params=["postgres", pytest.param("kafka", marks=needs("kafka"))])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    with broker() if request.param == "kafka" else nullcontext() as on:
        env = {"THREADLINE_ENCRYPT_LOG": "true", **({"THREADLINE_KAFKA": on.bootstrap} if on else {})}
        async with up_for_a_module("privacy", env) as running:
            _, posting = await traffic.under_traffic(running, running.ingest, traffic.events(seed=17, people=5))
            await posting
            yield Place(running, on)


def verified(system: System, caller: Caller) -> None:
    """Verify is silent. It takes longer than the server keeps a connection."""
    system.verified()
    caller.connection.close()


def customer_of(caller: Caller, handle: str) -> dict[str, Any] | None:
    found = caller.call("GET", f"/v1/customers?handle={handle.replace('+', '%2B')}").json()["customers"]
    return found[0] if found else None


def numbers(caller: Caller) -> dict[str, Any]:
    """Return what every KPI says of the days of this test."""
    found = {}
    for kpi in caller.call("GET", "/v1/kpis").json()["kpis"]:
        answer = caller.call("GET", f"/v1/kpis/{kpi['id']}?start={SPAN['start']}&end={SPAN['end']}")
        assert answer.status_code == 200, answer.text
        found[kpi["id"]] = answer.json()["total"]
    return found


async def tables_that_tell(folder: Path) -> dict[str, int]:
    """Return the tables, from the catalogue, with rows that tell of her; bytes are searched too."""
    url = directory.offered(folder)
    assert url is not None
    connection = await asyncpg.connect(url)
    likes = [f"%{needle}%" for needle in NEEDLES] + [f"%{needle.encode().hex()}%" for needle in NEEDLES]
    try:
        found = {}
        for (table,) in await connection.fetch(TABLES):
            query = f"SELECT count(*) FROM {table} AS t WHERE lower(t::text) LIKE ANY ($1)"
            if count := await connection.fetchval(query, likes):
                found[table] = count
        return found
    finally:
        await connection.close()


async def topics_that_tell(on: Broker) -> tuple[set[str], dict[str, int]]:
    """Return the topics that a broker holds, and how many records of them, as anybody reads them, tell of her."""
    admin = AIOKafkaAdminClient(bootstrap_servers=on.bootstrap)
    await admin.start()
    described = await admin.describe_topics()
    await admin.close()
    places = [TopicPartition(topic["topic"], part["partition"]) for topic in described for part in topic["partitions"]]
    client = AIOKafkaConsumer(bootstrap_servers=on.bootstrap, enable_auto_commit=False)
    await client.start()
    try:
        client.assign(places)
        await client.seek_to_beginning()
        ends, found = await client.end_offsets(places), Counter[str]()
        while any([await client.position(place) < end for place, end in ends.items()]):
            for place, messages in (await client.getmany(timeout_ms=500)).items():
                told = [repr((m.key, m.value, m.headers)).lower() for m in messages]
                found[place.topic] += sum(any(needle in one for needle in NEEDLES) for one in told)
        return {place.topic for place in places}, dict(+found)
    finally:
        await client.stop()


async def no_file_tells(folder: Path) -> bool:
    """Tell whether no file of the data folder tells of her, once PostgreSQL has let go of what is deleted."""
    url = directory.offered(folder)
    assert url is not None
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("ALTER SYSTEM SET wal_recycle = off")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.execute("ANALYZE")  # the planner's statistics hold values that are frequent
        await connection.execute("VACUUM FULL")
        for _ in range(2):
            await connection.execute("SELECT pg_switch_wal()")
            await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    return not await asyncio.to_thread(_files_with, folder, [needle.encode() for needle in NEEDLES])


def _files_with(folder: Path, needles: list[bytes]) -> list[str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [str(path) for path in files if any(needle in path.read_bytes().lower() for needle in needles)]


async def test_a_person_erased_is_found_in_no_table_topic_or_file_and_no_replay_brings_them_back(
    place: Place,
) -> None:
    system, on = place.system, place.broker
    folder = system.ingest.folder
    with system.caller(TENANT, system.ingest) as caller:
        her = a_life(caller)
        one, other = customer_of(caller, CRM), customer_of(caller, OTHER_MAIL)
        assert one is not None and other is not None
        body = json.dumps({"with": other["id"], "reason": f"both are {NAME}"}).encode()
        merged = caller.call("POST", f"/v1/customers/{one['id']}/merge", body, "application/json")
        assert merged.status_code == 200, merged.text
        for policy in ({"limits": {"contact": 1}}, {}):  # takes her apart and puts her together again
            put = caller.call("PUT", "/v1/identity/policy", json.dumps(policy).encode(), "application/json")
            assert put.status_code == 200, put.text
        clash = {**her.said[0], "data": {**her.said[0]["data"], "text": f"another {WORDS}"}}
        caller.call("POST", "/v1/events", json.dumps(clash).encode(), "application/cloudevents+json")
        verified(system, caller)
        before, told = numbers(caller), await tables_that_tell(folder)
        assert {"conversation.entry", "conversation.leaf", "conversation.conflict", "ingest.blob",
                "ingest.attachment", "metrics.entity", *(() if on else ("log.record",))} <= told.keys()  # fmt: skip

        receipt = caller.call("DELETE", f"/v1/customers/{other['id']}")
        assert receipt.status_code == 200, receipt.text
        found = receipt.json()["found"]
        assert found["entries"] == len(her.said)  # all but Bob's, and the merge
        assert [found[name] for name in ("large data", "attachments", "conflicts")] == [1, 1, 1]
        assert found["policy changes"] > 1
        topics = receipt.json()["topics"]
        state = "unreadable" if on else "erased"
        assert [topics[name]["state"] for name in ("inbound.v1", "timeline.v1")] == [state, state]
        assert topics["inbound.v1"]["records"] >= len(her.said)
        assert not any(needle in receipt.text.lower() for needle in NEEDLES)

        assert await tables_that_tell(folder) == {}
        assert numbers(caller) == before
        for id_ in (one["id"], other["id"]):
            assert caller.call("GET", f"/v1/customers/{id_}").status_code == 404
            assert caller.call("DELETE", f"/v1/customers/{id_}").json() == receipt.json()
        assert caller.call("GET", "/v1/search?q=zanzibarred").json()["hits"] == []
        bob = customer_of(caller, "email:bob@others.example")
        assert bob is not None and bob["name"] == "Bob"

        # All of it once more: sent again by somebody, and read again from the log.
        her.post()
        assert {status(caller, event) for event in her.said} == {"erased", "on_timeline"}
        replayed = run("replay", *system.cli_data, env=system.cli_env)
        assert replayed.returncode == 0, replayed.stderr
        caller.connection.close()
        assert " 0 events came back" in replayed.stdout, replayed.stdout
        verified(system, caller)
        assert await tables_that_tell(folder) == {}
        assert numbers(caller) == before
        if on:
            names, telling = await topics_that_tell(on)
            assert {"threadline.inbound.v1", "threadline.timeline.v1"} <= names and telling == {}
            assert _files_with(on.folder, [needle.encode() for needle in NEEDLES]) == []
        # A row that some transaction may still see stays in the files until that has ended.
        await until(partial(no_file_tells, folder), "her in no file")

        caller.connection.close()
        # Who writes after that is somebody new.
        later = Person(caller)
        later.said = []
        new = later.says("message.received", "20T09:00:00", MAIL, channel="email", message_id="<new@quistorp.example>")
        new["id"] = "after"
        later.post()
        again = customer_of(caller, MAIL)
        assert again is not None and again["id"] not in (one["id"], other["id"]) and len(again["handles"]) == 1
