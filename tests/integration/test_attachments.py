"""The bytes of files that came with events: kept before the 202, given back as they came, gone with their person."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import asyncpg
import httpx
import pytest

from services.conversation.erasure.retention import forget_once
from services.conversation.routes import erasing
from services.conversation.routes.attachments import attachments_router, safe_type
from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import RawRequest
from services.ingest.again import read_again, request_of
from services.ingest.asyncapi import document
from services.ingest.openapi import EVENT_SCHEMA
from shared.errors import LogUnavailable
from shared.settings import Settings
from tests.contract.adapters.providers import FORM, NOW, PROVIDERS, Provider, Signing, request
from tests.ingest_app import Ingest, an_event, running_ingest
from tests.timeline_app import Timelines, running_timelines
from tests.waiting import until

CONTENT = bytes(range(256)) * 4 + "\r\n.\r\nFröm an X-ray\0".encode()
SHA256 = sha256(CONTENT).hexdigest()


def a_mail(content: bytes = CONTENT) -> bytes:
    """A mail with one file, as mail programs send it."""
    return (
        b"From: ann@x.example\r\nTo: support@acme.example\r\nMessage-ID: <files@x.example>\r\n"
        b"Date: Tue, 03 Mar 2026 09:58:00 +0000\r\nSubject: files\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/mixed; boundary="b1"\r\n\r\n--b1\r\nContent-Type: text/plain\r\n\r\nsee there\r\n'
        b'--b1\r\nContent-Type: image/png; name="x.png"\r\nContent-Transfer-Encoding: base64\r\n'
        b"Content-Disposition: attachment; filename*=utf-8''r%C3%B6ntgen.png\r\n\r\n"
        + base64.encodebytes(content).replace(b"\n", b"\r\n")
        + b"--b1--\r\n"
    )


def part(name: str, content: bytes, more: str = "") -> bytes:
    return f'--xYzZY\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"


FILE = '; filename="x.png"\r\nContent-Type: image/png'
HEADERS = a_mail().partition(b"\r\n\r\n")[0].replace(b'multipart/mixed; boundary="b1"', b"text/plain")
MULTIPART = "multipart/form-data; boundary=xYzZY"


def mailgun_route(secret: str) -> RawRequest:
    """Mailgun's parsed form with a file: multipart, which the suite's signer does not make."""
    signed_form = PROVIDERS["mailgun"].sign(Signing(b"a=b", FORM), secret).body.decode()
    proof = dict(parse_qsl(signed_form))
    pairs = [pair.partition(b": ")[::2] for pair in HEADERS.split(b"\r\n")]
    fields = {**proof, "message-headers": json.dumps([[name.decode(), value.decode()] for name, value in pairs]),
              "body-plain": "see there", "attachment-count": "1"}  # fmt: skip
    body = b"".join(part(name, value.encode()) for name, value in fields.items())
    return request(Signing(body + part("attachment-1", CONTENT, FILE) + b"--xYzZY--\r\n", MULTIPART), {})


def signed(name: str, body: bytes, content_type: str | None = None) -> Callable[[str], RawRequest]:
    provider = PROVIDERS[name]
    return lambda secret: provider.sign(Signing(body, content_type or provider.content_type), secret)


POSTMARK = {
    "MessageID": "pm-1", "From": "ann@x.example", "Date": "Tue, 3 Mar 2026 10:58:00 +0100", "TextBody": "see there",
    "Attachments": [{"Name": "x.png", "ContentType": "image/png", "Content": base64.b64encode(CONTENT).decode()}],
}  # fmt: skip
DELIVERIES = {
    "email_raw": signed("email_raw", a_mail()),
    "sendgrid_inbound": signed(
        "sendgrid_inbound",
        part("headers", HEADERS) + part("text", b"see there") + part("attachment1", CONTENT, FILE) + b"--xYzZY--\r\n",
    ),
    "sendgrid_inbound raw": signed("sendgrid_inbound", part("email", a_mail()) + b"--xYzZY--\r\n"),
    "mailgun": mailgun_route,
    "mailgun raw": signed("mailgun", urlencode([("recipient", "a@b.example"), ("body-mime", a_mail())]).encode()),
    "postmark": signed("postmark", json.dumps(POSTMARK).encode()),
    "postmark raw": signed("postmark", json.dumps({"MessageID": "pm-2", "RawEmail": a_mail().decode()}).encode()),
}


@pytest.fixture
async def ingest(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Ingest]:
    async with running_ingest(pool, settings) as running:
        running.clock.time = NOW
        running.app.include_router(attachments_router(running.platform))
        yield running


async def fetched(ingest: Ingest, url: str, key: str = "timeline:read") -> httpx.Response:
    return await ingest.client.get(url, headers={"authorization": f"Bearer {ingest.keys[key]}"})


async def a_path(ingest: Ingest, provider: Provider) -> str:
    body = {"secrets": list(provider.secrets[:1])}
    headers = {"authorization": f"Bearer {ingest.keys['admin']}"}
    made = await ingest.client.put(f"/v1/channels/{provider.name}/acme", json=body, headers=headers)
    return str(made.json()["webhook_path"])


@pytest.mark.parametrize("name", DELIVERIES)
async def test_the_file_of_a_mail_comes_back_byte_for_byte_and_is_kept_once(ingest: Ingest, name: str) -> None:
    provider = PROVIDERS[name.split()[0]]
    path = await a_path(ingest, provider)

    async def deliver(status: int) -> None:
        delivery = DELIVERIES[name](provider.secrets[0])
        answer = await ingest.client.post(path, content=delivery.body, headers=list(delivery.headers.items()))
        assert answer.status_code == status, answer.text

    ingest.log.error = LogUnavailable("away")
    await deliver(503)
    ingest.log.error = None
    taken = 202 if provider.name == "email_raw" else 200
    await deliver(taken)
    await deliver(taken)
    assert await ingest.platform.pool.fetchval("SELECT count(*) FROM ingest.attachment") == 1
    first, *others = await ingest.inbound()
    assert all(other.data == first.data for other in others)
    (file,) = first.data["attachments"]
    assert (file["media_type"], file["size_bytes"], file["sha256"]) == ("image/png", len(CONTENT), SHA256)
    assert "content" not in file
    answer = await fetched(ingest, file["url"])
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''{quote(file['name'])}"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert answer.headers["cache-control"] == "no-store"
    assert (await fetched(ingest, file["url"], "globex")).status_code == 404
    assert (await fetched(ingest, file["url"], "events:write")).status_code == 403
    assert (await ingest.client.get(file["url"])).status_code == 401


async def test_whoever_knows_a_file_and_its_event_cannot_tell_its_url(ingest: Ingest) -> None:
    await ingest.post(an_event(attachments=[{"name": "a", "content": base64.b64encode(CONTENT).decode()}]))
    (event,) = await ingest.inbound()
    url = event.data["attachments"][0]["url"]
    named = "\0".join((event.tenant, event.source, event.id, "0", SHA256)).encode()
    assert sha256(named).hexdigest()[:32] != url.rpartition("/")[2].replace("-", "")


async def test_an_integration_may_send_files_and_says_nothing_else_of_them(ingest: Ingest) -> None:
    content = base64.b64encode(CONTENT).decode()
    given = [
        {"name": "own", "url": "https://files.example/1", "own": 1},
        {"name": "a.bin", "media_type": "a/b", "content": content, "size_bytes": 1, "own": 2},
        {"name": "none", "content": None},
        {"name": "empty", "content": ""},
        {"name": "ö" * 100_000 + ".pdf", "content": content},
    ]
    assert (await ingest.post(an_event(attachments=given))).status_code == 202
    (event,) = await ingest.inbound()
    own, file, none, empty, long = event.data["attachments"]
    assert (own, none) == (given[0], {"name": "none"})
    url = file.pop("url")
    assert file == {"name": "a.bin", "media_type": "a/b", "size_bytes": len(CONTENT), "sha256": SHA256, "own": 2}
    assert (await fetched(ingest, url)).content == CONTENT
    assert (await fetched(ingest, long["url"])).headers["content-disposition"].endswith("%C3%B6.pdf")
    assert (empty["size_bytes"], (await fetched(ingest, empty["url"])).content) == (0, b"")


@pytest.mark.parametrize(
    ("file", "detail"),
    [
        ({"content": "%%%"}, "is not base64"),
        ({"content": "QUJ"}, "is not base64"),
        ({"content": "é"}, "is not base64"),
        ({"content": 1}, "must be a string, not a number"),
        ({"content": "QUJD", "url": "https://files.example/1"}, "stands beside url: give one of the two"),
    ],
)
async def test_what_is_no_file_is_refused_where_it_stands(ingest: Ingest, file: dict[str, Any], detail: str) -> None:
    answer = await ingest.post(an_event(attachments=[{"name": "fine", "content": "QUJD"}, file]))
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": "#/data/attachments/1/content", "detail": detail}]
    assert await ingest.platform.pool.fetchval("SELECT count(*) FROM ingest.attachment") == 0


@pytest.mark.parametrize(
    ("written", "safe"),
    [
        ("Image/PNG; name=x", "image/png"),
        ("application/vnd.openxmlformats-officedocument.wordprocessingml.document",) * 2,
        ("text/html", "application/octet-stream"),
        ("image/svg+xml", "application/octet-stream"),
        ("text/javascript", "application/octet-stream"),
        ("multipart/related", "application/octet-stream"),
        ("a/b\r\nX-Evil: 1", "application/octet-stream"),
        ("é/b", "application/octet-stream"),
        (None, "application/octet-stream"),
    ],
)
def test_no_browser_is_told_to_run_what_a_stranger_sent(written: str | None, safe: str) -> None:
    assert safe_type(written) == safe


# Sent by itself


async def put_by_itself(
    ingest: Ingest, content: bytes = CONTENT, key: str = "events:write", media_type: str = "image/png", **query: str
) -> httpx.Response:
    given = {"source": "/chat/acme", "id": "e1", "place": "0", **query}
    headers = {"authorization": f"Bearer {ingest.keys[key]}", "content-type": media_type}
    return await ingest.client.post("/v1/events/attachments", content=content, params=given, headers=headers)


async def test_a_file_larger_than_a_request_of_events_comes_by_itself_and_is_named_by_its_event(
    ingest: Ingest,
) -> None:
    large = CONTENT * 6_000
    answers = [await put_by_itself(ingest, large, name="röntgen.png", place="1") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    file = answers[0].json()
    assert file == answers[1].json() == {
        "name": "röntgen.png", "media_type": "image/png", "size_bytes": len(large), "sha256": sha256(large).hexdigest(),
        "url": file["url"],
    }  # fmt: skip
    assert await ingest.platform.pool.fetchval("SELECT count(*) FROM ingest.attachment") == 1
    assert (await ingest.post(an_event(attachments=[{"name": "by reference"}, file]))).status_code == 202
    (event,) = await ingest.inbound()
    assert event.data["attachments"][1] == file
    answer = await fetched(ingest, file["url"])
    assert (answer.content, answer.headers["content-type"]) == (large, "image/png")
    assert (await fetched(ingest, file["url"], "globex")).status_code == 404


async def test_a_file_has_the_id_that_it_would_have_within_its_event(ingest: Ingest) -> None:
    alone = (await put_by_itself(ingest)).json()["url"]
    await ingest.post(an_event(attachments=[{"content": base64.b64encode(CONTENT).decode()}]))
    (event,) = await ingest.inbound()
    assert event.data["attachments"][0]["url"] == alone


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"source": ""}, "#/query/source"),
        ({"id": "é" * 501}, "#/query/id"),
        ({"place": "-1"}, "#/query/place"),
        ({"place": "first"}, "#/query/place"),
    ],
)
async def test_a_file_of_no_event_is_refused(ingest: Ingest, query: dict[str, str], pointer: str) -> None:
    answer = await put_by_itself(ingest, **query)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_a_file_needs_the_scope_of_events_and_is_no_larger_than_a_mail(ingest: Ingest) -> None:
    assert (await put_by_itself(ingest, key="timeline:read")).status_code == 403
    assert (await ingest.client.post("/v1/events/attachments?source=s&id=1&place=0")).status_code == 401
    assert (await put_by_itself(ingest, b"x" * (40 * 1024 * 1024 + 1))).status_code == 413
    assert await ingest.platform.pool.fetchval("SELECT count(*) FROM ingest.attachment") == 0


# On timelines


@pytest.fixture
async def timelines(
    pool: asyncpg.Pool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Timelines]:
    monkeypatch.setattr(erasing, "COUNTED_S", 0.01)  # there is no metrics service to wait for
    async with running_timelines(pool, settings) as running:
        yield running


def with_file(timelines: Timelines, at: str, handle: str, content: bytes = CONTENT) -> dict[str, Any]:
    file = {"name": "a.bin", "media_type": "a/b", "content": base64.b64encode(content).decode()}
    return timelines.message(at, handle, attachments=[file])


async def test_a_timeline_and_an_export_show_where_the_file_is_and_an_erasure_takes_it_away(
    timelines: Timelines, pool: asyncpg.Pool
) -> None:
    said = with_file(timelines, "09:00:00", "crm:ann")
    await timelines.post(said, with_file(timelines, "09:01:00", "crm:bo"))
    ann, bo = await timelines.customer("crm:ann"), await timelines.customer("crm:bo")
    assert ann is not None and bo is not None
    urls = {}
    for one in (ann, bo):
        page = await timelines.get(f"/v1/customers/{one['id']}/timeline", kind="message.received")
        (urls[one["id"]],) = [file["url"] for entry in page["entries"] for file in entry["attachments"]]
    answer = await timelines.call("GET", urls[ann["id"]])
    assert (answer.status_code, answer.content) == (200, CONTENT)
    export = (await timelines.call("GET", f"/v1/customers/{ann['id']}/export")).text
    assert urls[ann["id"]] in export and urls[bo["id"]] not in export

    receipt = await timelines.call("DELETE", f"/v1/customers/{ann['id']}")
    assert receipt.json()["found"]["attachments"] == 1
    assert (await timelines.call("GET", urls[ann["id"]])).status_code == 404
    assert (await timelines.call("GET", urls[bo["id"]])).status_code == 200
    # Sent again it is known as erased, and its file is not kept either.
    headers = {"authorization": f"Bearer {timelines.keys['acme']}", "content-type": "application/cloudevents+json"}
    assert (await timelines.client.post("/v1/events", json=said, headers=headers)).status_code == 202

    async def gone() -> bool:
        waiting = (await timelines.status(said))["status"] == "accepted"
        return not waiting and bool(await pool.fetchval("SELECT count(*) = 1 FROM ingest.attachment"))

    await until(gone, "the file is gone again")


async def test_who_is_forgotten_by_age_is_forgotten_with_their_files(timelines: Timelines, pool: asyncpg.Pool) -> None:
    await timelines.post(with_file(timelines, "09:00:00", "crm:ann"))
    assert await pool.fetchval("SELECT count(*) FROM ingest.attachment") == 1
    assert await forget_once(timelines.platform, timedelta(days=1)) == 1
    assert await pool.fetchval("SELECT count(*) FROM ingest.attachment") == 0


async def test_a_mail_from_before_files_were_kept_is_a_repetition_and_another_file_is_not(
    timelines: Timelines, pool: asyncpg.Pool
) -> None:
    new = with_file(timelines, "09:00:00", "crm:ann")
    facts = {"name": "a.bin", "media_type": "a/b", "size_bytes": len(CONTENT), "sha256": SHA256}
    before = {**new, "data": {**new["data"], "attachments": [facts]}}
    await timelines.post(before)
    await timelines.post(new)
    other = with_file(timelines, "09:00:00", "crm:ann", b"another")
    await timelines.post({**other, "id": new["id"]})
    # One after the other, since all are from one sender.
    kept = "SELECT data -> 'attachments' -> 0 ->> 'size_bytes' FROM conversation.conflict"
    await until(partial(pool.fetch, kept), "the other content is kept")
    assert [row[0] for row in await pool.fetch(kept)] == [str(len(b"another"))]


def test_the_door_is_told_of_bytes_and_the_topics_of_none() -> None:
    at_the_door = EVENT_SCHEMA["properties"]["data"]["properties"]["attachments"]["anyOf"][0]["items"]["properties"]
    on_the_topic = document("threadline", "1")["components"]["schemas"]["Attachment"]["properties"]
    assert set(at_the_door) - set(on_the_topic) == {"content"}


def test_a_delivery_read_again_from_the_quarantine_brings_its_files() -> None:
    account = PROVIDERS["email_raw"].account()
    found = read_again(ADAPTERS["email_raw"], request_of(a_mail(), None, NOW), account, "files@x.example")
    assert [event.files for event, _ in found.events] == [((0, CONTENT),)]
