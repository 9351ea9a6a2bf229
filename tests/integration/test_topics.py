"""The AsyncAPI document is held to the topics: what is on them is what it says, and it names all that may be there."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import jsonschema
import orjson
import pytest

from services.cli.traffic.mix import Mix
from services.cli.traffic.world import World, cloudevent, deliveries
from services.conversation.consumer import GROUP
from services.conversation.routes import erasing
from services.ingest.asyncapi import document
from services.ingest.schema import MODELS
from services.ingest.topic_schemas import TIMELINE_BODIES
from shared.events import DECISIONS, JOINED, POSTED, SEALED_TYPE, TYPE_PREFIX, InboundEvent
from shared.log.headers import decode_headers
from shared.log.protocol import INBOUND, QUARANTINE, TIMELINE, Outgoing
from shared.settings import Settings
from shared.timestamps import read_rfc3339
from shared.tombstones import ERASED, STUB_TYPE
from tests.contract.adapters.providers import NOW
from tests.contract.adapters.recorded import recorded
from tests.dialogues import Dialogues
from tests.timeline_app import BATCH, Timelines, running_timelines
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = document("threadline", "1")
MADE_HERE = {TYPE_PREFIX + kind for kind in DECISIONS | {JOINED, ERASED}}


@pytest.fixture(autouse=True)
def nobody_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no metrics service here to wait for."""
    monkeypatch.setattr(erasing, "COUNTED_S", 0.01)


# The document as a judge


class Told(NamedTuple):
    """One record as it lies on a topic."""

    topic: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


def closed(part: Any) -> Any:
    """Return schemas that refuse what they do not name, so that nothing is left out of the document unnoticed."""
    if isinstance(part, list):
        return [closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    inner = {name: closed(value) for name, value in part.items()}
    if part.get("type") == "object" and "properties" in part:
        inner.setdefault("additionalProperties", False)
    return inner


CLOSED = {**DOCUMENT, "components": {**DOCUMENT["components"], "messages": closed(DOCUMENT["components"]["messages"])}}

_formats = jsonschema.FormatChecker(["uuid"])
_formats.checks("date-time", raises=ValueError)(lambda text: not isinstance(text, str) or bool(read_rfc3339(text)))


@cache
def judge(message: str, part: str = "payload") -> jsonschema.Draft7Validator:
    """Return what judges the payload or the headers of a message; what senders post may have fields of its own."""
    schema = {**CLOSED, "allOf": [{"$ref": f"#/components/messages/{message}/{part}"}]}
    return jsonschema.Draft7Validator(schema, format_checker=_formats)


def message_of(record: Told) -> str:
    """Return the name of the message that a record is."""
    if record.topic == QUARANTINE and STUB_TYPE.encode() not in record.value[:100]:
        return "quarantined" if SEALED_TYPE.encode() not in record.value[:300] else SEALED_TYPE
    event = orjson.loads(record.value)
    return str(event["data"]["kind"] if record.topic == TIMELINE else event["type"])


def faults(record: Told) -> list[str]:
    """Return where a record differs from the document."""
    name = message_of(record)
    channel = DOCUMENT["channels"][record.topic.partition(".")[0]]
    found = [] if name in channel["messages"] else [f"{name} is none of the messages of {record.topic}"]
    if name == "quarantined":
        headers = {header: value.decode() for header, value in record.headers}
        return found + [_fault(name, error) for error in judge(name, "headers").iter_errors(headers)]
    return found + [_fault(name, error) for error in judge(name).iter_errors(orjson.loads(record.value))]


def _fault(name: str, error: jsonschema.ValidationError) -> str:
    inner = jsonschema.exceptions.best_match([error]) or error
    return f"{name} {inner.json_path}: {inner.message[:300]}"


async def on_topics(pool: asyncpg.Pool) -> list[Told]:
    rows = await pool.fetch(
        "SELECT p.topic, r.value, r.headers FROM log.record r JOIN log.partition p ON p.id = r.partition_id"
    )
    names = {f"threadline.{topic}": topic for topic in (INBOUND, TIMELINE, QUARANTINE)}
    return [Told(names[row["topic"]], row["value"], decode_headers(row["headers"])) for row in rows]


async def judged(pool: asyncpg.Pool) -> set[tuple[str, str]]:
    """Return (topic, message) of all records there are, each of which is as the document says."""
    records = await on_topics(pool)
    assert {fault for record in records for fault in faults(record)} == set()
    return {(record.topic, message_of(record)) for record in records}


# Traffic


def ann_and_bo(timelines: Timelines) -> list[dict[str, Any]]:
    """Two that an agent will join and take apart; one of them in a thread, with a mail too large for a record."""
    said = timelines.message
    return [
        said("09:00:00", "crm:ann", "email:ann@x.example", text="hello", contact_id="a-1", topic="delivery"),
        said("09:01:00", "crm:ann", text="x" * 300_000, subject="large"),
        said("09:02:00", "crm:ann", html="<p>" + "y" * 200_000 + "</p>", text="z" * 100_000, contact_id="a-1"),
        said("09:02:30", "crm:ann", type="message.sent", contact_id="a-1",
             actor={"type": "agent", "id": "g", "team": "t"}),
        said("09:03:00", "email:bo@x.example", text="who am I?", contact_id="b-1"),
        said("09:04:00", "email:bo@x.example", channel="email", text="again", message_id="b@x.example"),
        said("09:05:00", "email:bo@x.example", type="conversation.resolved", contact_id="b-1",
             actor={"type": "agent", "id": "g"}),
        said("09:05:30", "email:di@x.example", text="and I?"),
        said("09:06:00", "email:cy@x.example", text="alone", contact_id="c-1", customer={"name": "Cy"}),
        said("09:06:30", type="conversation.resolved", contact_id="c-1", actor={"type": "agent", "id": "g"}),
        said("09:07:00", "email:cy@x.example", text="another matter", contact_id="c-2"),
        said("09:08:00", "email:cy@x.example", text="of which this is a part", contact_id="c-2"),
    ]  # fmt: skip


async def decide_and_erase(timelines: Timelines) -> None:
    """Let an agent merge, split and join, put something into quarantine, and erase somebody named by all of it."""

    async def of(handle: str) -> str:
        found = await timelines.customer(handle)
        assert found is not None
        return str(found["id"])

    async def done(method: str, path: str, **body: Any) -> None:
        answer = await timelines.call(method, path, json=body or None)
        assert answer.status_code == 200, answer.text

    ann = await of("crm:ann")
    for other in ("email:bo@x.example", "email:di@x.example"):
        await done("POST", f"/v1/customers/{ann}/merge", **{"with": await of(other), "reason": "one person"})
    for other in ("email:bo@x.example", "email:di@x.example"):  # the first of them names Di
        await done("POST", f"/v1/customers/{ann}/split", handles=[other])
    cy = await timelines.get(f"/v1/customers/{await of('email:cy@x.example')}/timeline", kind="message.received")
    last, other, first = cy["entries"]
    join = f"/v1/conversations/{first['conversation_id']}/join"
    await done("POST", join, entry_ids=[last["id"]], reason="one matter")
    await done("POST", join, conversation_id=other["conversation_id"])
    broken = [Outgoing(b"acme\0email:di@x.example", b'{"from": "di@x.example", "broken', (("traceparent", b"00-1"),))]
    await timelines.platform.log.append(INBOUND, broken)
    held = partial(timelines.platform.pool.fetchval, "SELECT count(*) FROM log.quarantine")
    await until(held, "what cannot be read is in quarantine")
    await done("DELETE", f"/v1/customers/{await of('email:di@x.example')}")


async def post_all(timelines: Timelines, tenant: str, events: Sequence[Mapping[str, Any]]) -> None:
    """Post events and wait until the conversation service has read the whole topic."""
    for start in range(0, len(events), 500):
        headers = {"authorization": f"Bearer {timelines.keys[tenant]}", "content-type": BATCH}
        some = orjson.dumps(events[start : start + 500])
        answer = await timelines.client.post("/v1/events", content=some, headers=headers)
        assert answer.status_code == 202, answer.text
    await until(partial(_all_read, timelines), "all of the inbound topic read", limit_s=120)


BEHIND = """
SELECT count(*) FROM log.partition p
LEFT JOIN log."offset" o ON o.group_name = $2 AND o.topic = p.topic AND o.partition = p.partition
WHERE p.topic = $1 AND p.next_offset > coalesce(o.next_offset, 0)
"""


async def _all_read(timelines: Timelines) -> bool:
    platform = timelines.platform
    return bool(await platform.pool.fetchval(BEHIND, platform.log.name(INBOUND), GROUP) == 0)


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
async def test_every_record_on_every_topic_is_as_the_document_says(
    pool: asyncpg.Pool, settings: Settings, sealed: bool
) -> None:
    async with running_timelines(pool, settings, sealed=sealed) as timelines:
        end = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
        month = World(5, 20, end - 28 * 86_400, end, Mix())
        await post_all(timelines, "globex", [cloudevent(event) for event in deliveries(month)])
        await timelines.post(*ann_and_bo(timelines))
        await judged(pool)
        await decide_and_erase(timelines)
        await until(partial(_all_read, timelines), "all of the inbound topic read")
        seen = await judged(pool)
        kinds = {(TIMELINE, kind) for kind in TIMELINE_BODIES}
        if sealed:
            plain = {(INBOUND, TYPE_PREFIX + ERASED), (INBOUND, STUB_TYPE)}  # the latter of what was no event
            assert seen == {*kinds, *plain, (INBOUND, SEALED_TYPE), (QUARANTINE, SEALED_TYPE)}
        else:
            posted = {(INBOUND, name) for name in MODELS}
            left = {(INBOUND, STUB_TYPE), (QUARANTINE, STUB_TYPE)}
            assert seen - posted == {*kinds, *((INBOUND, name) for name in MADE_HERE), *left}
            assert len(seen & posted) > 25


async def test_every_record_of_the_dialogues_is_as_the_document_says(
    pool: asyncpg.Pool, settings: Settings, shared_data: Path
) -> None:
    dialogues = Dialogues.load(shared_data / "dialogues")
    async with running_timelines(pool, settings) as timelines:
        for tenant in dialogues.tenants:
            policy = await timelines.call(
                "PUT", "/v1/identity/policy", tenant=tenant, json=dialogues.truth["policy"][tenant]
            )
            assert policy.status_code == 200, policy.text
            bodies = [d["body"] for d in dialogues.deliveries if (d["tenant"], d["expect"]) == (tenant, "accepted")]
            await post_all(timelines, tenant, [json.loads(body) for body in bodies])
        assert {topic for topic, _ in await judged(pool)} == {INBOUND, TIMELINE}


@pytest.mark.parametrize("record", recorded(), ids=lambda one: f"{one.provider.name}-{one.name}")
def test_what_a_provider_sends_is_as_the_document_says(record: Any) -> None:
    delivery = record.document["events"]
    account = record.provider.account()
    for told in delivery:
        at = read_rfc3339(told["time"]) if told["time"] else NOW
        event = InboundEvent("acme", account.source, told["id"], told["type"], at, NOW, told["data"])
        assert faults(Told(INBOUND, event.encode())) == []


# All that may be there


def test_the_document_names_every_type_of_record() -> None:
    channels = DOCUMENT["channels"]
    posted = {TYPE_PREFIX + name for name in POSTED}
    assert set(channels["inbound"]["messages"]) == posted | MADE_HERE | {STUB_TYPE, SEALED_TYPE}
    assert set(channels["timeline"]["messages"]) == set(kinds_of_timeline_records())
    assert set(channels["quarantine"]["messages"]) == {"quarantined", STUB_TYPE, SEALED_TYPE}


def test_nothing_is_told_to_a_topic_that_the_document_does_not_name() -> None:
    told = {ast.unparse(call.args[place]) for call, place in _tellings()}
    assert told - {"topic"} == {"INBOUND", "TIMELINE", "QUARANTINE"}


def kinds_of_timeline_records() -> Iterator[str]:
    """Yield the kind that each place in the code gives the record that it makes."""
    for call in _calls("TimelineRecord"):
        given = [keyword.value for keyword in call.keywords if keyword.arg == "kind"] or call.args[1:2]
        assert isinstance(given[0], ast.Constant), ast.unparse(call)
        yield str(given[0].value)


def _tellings() -> Iterator[tuple[ast.Call, int]]:
    for call in _calls("emit"):
        yield call, 1
    for call in _calls("append"):
        if len(call.args) == 2:  # a list takes one
            yield call, 0


def _calls(name: str) -> Iterable[ast.Call]:
    for path in sorted([*(ROOT / "services").rglob("*.py"), *(ROOT / "shared").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
                if called == name:
                    yield node
