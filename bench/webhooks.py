"""Deliveries per second over the webhook path, beside the same events posted to `/v1/events`, each one in a request.

`python -m bench.webhooks [PROVIDER …]` starts a real `threadline ingest`, and loads webhook and events in turns over
loopback with requests that are signed beforehand. Medians; the ratio of one run is the figure. `python -m bench
webhooks` does it for all providers. Of those that gather events before they call, so do rows with BATCH_EVENTS in each
delivery, beside the same events in one CloudEvents batch.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from itertools import cycle
from random import Random
from shutil import rmtree
from time import perf_counter
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import orjson
import psutil
import uvloop

from bench.ingest import BATCH, CALLERS, KEY, ROUNDS, STRUCTURED, answer, first_line, request, server
from bench.report import Row, show
from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import Draft, receive
from shared import directory
from shared.events import rfc3339
from tests.contract.adapters.providers import FORM, PROVIDERS, Provider, Signing
from tests.contract.adapters.recorded import recorded

DELIVERIES = 3_000
SECONDS = 0.7
TEXT = "Some criminal withdrew 300 dollars from an ATM using my lost debit card! " * 3


def _line(*numbers: int) -> Signing:
    return Signing(orjson.dumps({"destination": "U0", "events": [_line_event(number) for number in numbers]}))


def _line_event(number: int) -> dict[str, object]:
    return {
        "type": "message", "mode": "active", "timestamp": 1772532000123, "webhookEventId": f"01{number:024}",
        "deliveryContext": {"isRedelivery": False}, "replyToken": "r",
        "source": {"type": "user", "userId": f"U{number % 999}"},
        "message": {"id": str(number), "type": "text", "quoteToken": "q", "text": TEXT},
    }  # fmt: skip


def _twilio(number: int) -> Signing:
    form = {
        "ToCountry": "NL", "SmsMessageSid": f"SM{number:032x}", "NumMedia": "0", "FromCity": "",
        "SmsStatus": "received", "Body": TEXT, "FromCountry": "NL", "To": "+31970102030",
        "MessageSid": f"SM{number:032x}", "AccountSid": "AC1",
        "From": f"+316{number % 999:08}", "ApiVersion": "2010-04-01",
    }  # fmt: skip
    return Signing(urlencode(form).encode(), FORM)


def _whatsapp(*numbers: int) -> Signing:
    entries = [{"id": "1", "changes": [{"field": "messages", "value": _whatsapp_value(one)}]} for one in numbers]
    return Signing(orjson.dumps({"object": "whatsapp_business_account", "entry": entries}))


def _whatsapp_value(number: int) -> dict[str, object]:
    sender = f"316{number % 999:08}"
    return {
        "messaging_product": "whatsapp", "metadata": {"display_phone_number": "31970102030", "phone_number_id": "1"},
        "contacts": [{"profile": {"name": "Ann"}, "wa_id": sender}],
        "messages": [
            {"from": sender, "id": f"wamid.{number}", "timestamp": "1772532000", "type": "text", "text": {"body": TEXT}}
        ],
    }  # fmt: skip


def _telegram(number: int) -> Signing:
    person = {"id": number % 999 + 1, "is_bot": False, "first_name": "Ann", "language_code": "nl"}
    chat = {"id": number % 999 + 1, "type": "private", "first_name": "Ann"}
    message = {"message_id": number + 1, "from": person, "chat": chat, "date": 1772532000, "text": TEXT}
    return Signing(orjson.dumps({"update_id": number + 1, "message": message}))


def _mail(number: int) -> Signing:
    head = (
        f"Return-Path: <p{number % 999}@x.example>\nReceived: from mx.x.example by mx.acme.example; "
        f"Tue, 3 Mar 2026 10:00:00 +0100\nFrom: Ann <p{number % 999}@x.example>\nTo: support@acme.example\n"
        f"Message-ID: <{number}@x.example>\nSubject: My card\nDate: Tue, 3 Mar 2026 10:00:00 +0100\nMIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=utf-8\n\n"
    )
    return Signing(head.encode() + TEXT.encode(), "message/rfc822")


def _chat(number: int) -> Signing:
    said = {"type": "message", "client_message_id": f"3b241101-e2bb-4255-8caf-{number:012}", "text": TEXT}
    return Signing(orjson.dumps({"events": [said]}))


def _postmark(number: int) -> Signing:
    person = {"Email": f"p{number % 999}@x.example", "Name": "Ann", "MailboxHash": ""}
    us = {"Email": "support@acme.example", "Name": "", "MailboxHash": ""}
    return Signing(
        orjson.dumps(
            {
                "FromName": "Ann", "MessageStream": "inbound", "From": person["Email"], "FromFull": person,
                "To": us["Email"], "ToFull": [us], "Cc": "", "CcFull": [], "Bcc": "", "BccFull": [],
                "OriginalRecipient": us["Email"], "Subject": "My card", "MessageID": f"73e6d360-66eb-11e1-{number:016}",
                "ReplyTo": "", "MailboxHash": "", "Date": "Tue, 3 Mar 2026 10:00:00 +0100", "TextBody": TEXT,
                "HtmlBody": "", "StrippedTextReply": "", "Tag": "",
                "Headers": [{"Name": "Message-ID", "Value": f"<{number}@x.example>"}], "Attachments": [],
            }
        )
    )  # fmt: skip


def _sendgrid_events(*numbers: int) -> Signing:
    return Signing(orjson.dumps([_sendgrid_event(number) for number in numbers]))


def _sendgrid_event(number: int) -> dict[str, object]:
    return {
        "email": "ann@x.example", "timestamp": 1772532000, "smtp-id": "<14c5d75ce93@x.example>", "event": "delivered",
        "sg_event_id": f"{number:022}", "sg_message_id": "14c5d75ce93.dfd.64b469", "response": "250 OK",
    }  # fmt: skip


def _as_recorded(provider: str, name: str, written: str, unique: str) -> Callable[[int], Signing]:
    """Return what makes a recorded delivery one of its own: by `unique`, with a number in it, for what is `written`."""
    signing = next(one.signing for one in recorded() if (one.provider.name, one.name) == (provider, name))
    assert written.encode() in signing.body, (provider, written)
    return lambda number: replace(
        signing,
        body=signing.body.replace(written.encode(), unique.replace("N", f"{number:06}").encode()),
        token=f"{number:050}",
    )


_FILE_PART = re.compile(rb'--[^\r\n]+\r\nContent-Disposition: form-data; name="attachment1".*?%PDF\r\n', re.DOTALL)


def _replaced(delivered: Callable[[int], Signing], written: re.Pattern[bytes], by: bytes) -> Callable[[int], Signing]:
    """Return what makes the same deliveries with `by` for what is `written` once in them."""

    def changed(number: int) -> Signing:
        signing = delivered(number)
        body, found = written.subn(lambda _: by, signing.body)
        assert found == 1
        return replace(signing, body=body)

    return changed


DELIVERED: dict[str, Callable[[int], Signing]] = {
    "line": _line, "twilio": _twilio, "whatsapp_cloud": _whatsapp, "telegram": _telegram, "email_raw": _mail,
    "chat": _chat, "postmark": _postmark, "sendgrid_events": _sendgrid_events,
    **{
        provider: _as_recorded(provider, name, written, unique)
        for provider, name, written, unique in (
            ("asterisk", "ami_text", "1772531880.100000", "1772531880.N"),
            ("instagram", "message_as_a_change", "random_mid", "mid_N"),
            ("mailgun", "route", "mg1%40x", "mgN%40x"),
            ("messenger", "text_with_reply", "m_1", "m_N"),
            ("sendgrid_inbound", "fields_in_different_charsets", "sg1@x", "sgN@x"),
            ("slack", "message_in_channel", "1772531880.000200", "1772531880.N"),
            ("standard_webhooks", "csat", "Quick help", "Quick help, N"),
            ("teams", "message", "1485983408511", "1485983N"),
            ("viber", "text", "4912661846655238145", "4912661846655N"),
            ("wechat", "text", "6054768590064713728", "6054768590064N"),
            ("x", "activity_dm", "2080765901528535098", "2080765901528N"),
        )
    },
}  # fmt: skip
"""Provider → its delivery of one event, by a number that makes it unique."""

BATCHED = {"sendgrid_events": _sendgrid_events, "line": _line, "whatsapp_cloud": _whatsapp}
"""Provider that gathers events before it calls → its delivery of some, by a number for each."""
BATCH_EVENTS = 20

FILE_BYTES = 30_000
BESIDES = {
    "sendgrid_inbound": {
        "without a file": _replaced(DELIVERED["sendgrid_inbound"], _FILE_PART, b""),
        f"with a file of {FILE_BYTES // 1_000} kB": _replaced(
            DELIVERED["sendgrid_inbound"], re.compile(b"%PDF"), Random(5).randbytes(FILE_BYTES)
        ),
    }
}  # fmt: skip
"""Provider → its other deliveries. The file in the recorded one has four bytes; at `/v1/events` base64 costs more."""
BESIDES_DELIVERIES = 300

OPTIONS = {"chat": {"events_per_minute": 10_000_000}}
"""What an account needs besides, so that all may come from one sender."""


def both(provider: Provider, deliveries: Iterable[Signing], path: str, port: int) -> tuple[list[bytes], list[bytes]]:
    """Return whole requests of the deliveries, and of the events that the adapter makes of them, of each in one."""
    adapter, account = ADAPTERS[provider.name], provider.account()
    webhooks, posts = [], []
    now = datetime.now(UTC)
    for delivery in deliveries:
        signed = provider.sign(replace(delivery, at=now), provider.secrets[0])
        events = [
            {
                "specversion": "1.0", "id": draft.id, "source": f"/bench/{provider.name}", "type": draft.type,
                "time": rfc3339(draft.time or now), "data": _with_its_files(draft),
            }
            for draft in receive(adapter, replace(signed, received_at=now), account).events
        ]  # fmt: skip
        alone = len(events) == 1
        posts.append(request(port, orjson.dumps(events[0] if alone else events), STRUCTURED if alone else BATCH))
        target = f"{path}?{signed.query}" if signed.query else path
        lines = [f"{name}: {value}" for name, value in signed.headers.items()]
        head = "\r\n".join([f"POST {target} HTTP/1.1", f"Host: 127.0.0.1:{port}", *lines])
        webhooks.append(f"{head}\r\nContent-Length: {len(signed.body)}\r\n\r\n".encode() + signed.body)
    return webhooks, posts


def _with_its_files(draft: Draft) -> dict[str, Any]:
    """Return the data as who posts the event would send it: with the bytes of the files that the delivery brings."""
    given = draft.data.get("attachments", ())
    contents = draft.contents or (None,) * len(given)
    files = [
        one if content is None else {**one, "content": b64encode(content).decode()}
        for one, content in zip(given, contents, strict=True)
    ]
    return {**draft.data, "attachments": files} if files else draft.data


async def load(port: int, requests: Sequence[bytes], process: psutil.Process) -> tuple[float, float]:
    """Load the server by callers who each wait for their answer before the next.

    Return the requests that it took per second, and the microseconds of its own CPU time that each cost.
    """
    done, waiting = 0, cycle(requests)
    end = perf_counter() + SECONDS

    async def caller() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while perf_counter() < end:
            writer.write(next(waiting))
            status = await answer(reader)
            if status not in (200, 202):
                raise RuntimeError(f"the server answered {status}")
            done += 1
        writer.close()

    began, busy_s = perf_counter(), _busy_s(process)
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return done / (perf_counter() - began), (_busy_s(process) - busy_s) / done * 1e6


def _busy_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _account(port: int, provider: Provider) -> str:
    """Make the provider's account and return its webhook path."""
    account = provider.account()
    body = {
        "secrets": list(account.secrets), "public_url": account.public_url, "options": dict(account.options),
        "own_addresses": list(account.own_addresses), "default_region": account.default_region,
    }  # fmt: skip
    answered = httpx.put(
        f"http://127.0.0.1:{port}/v1/channels/{provider.name}/acme", json=body, timeout=30,
        headers={"authorization": f"Bearer {KEY}"}, trust_env=False,
    )  # fmt: skip
    return str(answered.raise_for_status().json()["webhook_path"])


async def measure(port: int, process: psutil.Process, names: Sequence[str] = ()) -> list[Row]:
    """Measure these providers, or all, and then one delivery of each in turn."""
    found, each = [], list[Row]()
    for name in names or DELIVERED:
        provider = replace(PROVIDERS[name], options={**PROVIDERS[name].options, **OPTIONS.get(name, {})})
        path = await asyncio.to_thread(_account, port, provider)
        deliveries = map(DELIVERED[name], range(DELIVERIES))
        rate, cost = await _compared(f"{name}: webhook", port, process, both(provider, deliveries, path, port))
        each.append(rate)
        found += rate, cost
        for which, delivery in BESIDES.get(name, {}).items():
            deliveries = map(delivery, range(BESIDES_DELIVERIES))
            found += await _compared(f"{name}: webhook {which}", port, process, both(provider, deliveries, path, port))
        if name in BATCHED:
            numbers = [range(first, first + BATCH_EVENTS) for first in range(0, DELIVERIES, BATCH_EVENTS)]
            deliveries = (BATCHED[name](*some) for some in numbers)
            title = f"{name}: webhook of {BATCH_EVENTS} events"
            found += await _compared(title, port, process, both(provider, deliveries, path, port))
    return [*found, _in_turn(each)] if len(each) > 1 else found


def _in_turn(each: Sequence[Row]) -> Row:
    """Return how many deliveries a second come in where each of these providers has as many as any other."""
    webhook, plain = (len(each) / sum(1 / rate for rate in rates) for rates in zip(*map(_rates, each), strict=True))
    return Row(f"one of each of {len(each)}: webhook", webhook, "deliveries/s", each[0].against, plain)


def _rates(row: Row) -> tuple[float, float]:
    assert row.base is not None
    return row.value, row.base


async def _compared(
    title: str, port: int, process: psutil.Process, requests: tuple[Sequence[bytes], Sequence[bytes]]
) -> list[Row]:
    """Load with webhooks and with events; they take turns, so that drift meets both alike."""
    taken: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for round_ in range(ROUNDS + 1):
        for loads, given in zip(taken, requests, strict=True):
            one = await load(port, given, process)
            if round_:  # the first one warms
                loads.append(one)
    (rate, cost_us), (plain_rate, plain_us) = (map(statistics.median, zip(*loads, strict=True)) for loads in taken)
    return [
        Row(title, rate, "deliveries/s", "its events at /v1/events", plain_rate),
        Row(f"{title}, CPU of ingest for one", cost_us, "µs", "its events at /v1/events", plain_us),
    ]


def rows(names: Sequence[str] = ()) -> Sequence[Row]:
    """Measure these providers, or all, and return the rows."""
    folder = directory.temporary("threadline-bench-")
    environment = {"THREADLINE_BOOTSTRAP_KEY": KEY, "THREADLINE_LOG_LEVEL": "warning"}
    try:
        with ExitStack() as stack:
            command = ("-m", "services.cli.main", "ingest", "--data", str(folder), "--port", "0")
            process = stack.enter_context(server(*command, **environment))
            port = urlsplit(first_line(process).rpartition(" ")[2]).port or 0
            return uvloop.run(measure(port, psutil.Process(process.pid), names))
    finally:
        rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    show(rows(sys.argv[1:]))
