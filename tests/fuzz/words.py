"""What a fuzzer starts from: words that the readers of strangers' bytes know, and deliveries as providers send them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from tests.contract.adapters.recorded import recorded
from tests.fuzz.targets import EVENTS, MEDIA, PROVIDERS

WORDS = (
    b"From: a@b.example\n", b"To: ", b"Date: Tue, 7 Jan 2025 10:03:00 +0100\n", b"References: <a@b> ",
    b"In-Reply-To: <a@b>\n", b"Message-ID: <a@b>\n", b"Content-Type: multipart/mixed; boundary=x\n",
    b"Content-Type: text/html; charset=utf-7\n", b"Content-Type: multipart/report; boundary=x\n",
    b"Content-Type: message/delivery-status\n", b"message/rfc822", b"Content-Transfer-Encoding: base64\n",
    b"Content-Transfer-Encoding: quoted-printable\n", b"\n", b"\r\n", b"\n\n", b"\n ",
    b"Content-Disposition: attachment; filename*0*=utf-8''%", b"; name*1=", b"; charset=iso-2022-jp",
    b"; charset=gb18030", b"=?utf-8?q?", b"=?utf-8?b?", b"?=", b"--x\n", b"--x--\n", b"<a@b>", b"(", b")", b'"',
    b"\\", b",", b";", b":", b"\0", b"On Tue, 7 Jan 2025 at 10:03 Ann <a@b.example> wrote:\n", b"> ", b">From ",
    b"-----Original Message-----\n", b"Sent: 2025\nTo: a\nSubject: b\n", b"Begin forwarded message:\n", b"_____\n",
    b"Am 7.1.2025 um 10:03 schrieb ", b"<div>", b"</div>", b"<b a=1>", b"</p>", b"<blockquote>", b"<pre>", b"<style>",
    b"<!--", b"-->", b"&", b"&amp;", b"<br>", b"<ul><li>", b"<table>", b"<a href='",
    b'Content-Disposition: form-data; name="', b'"\r\n\r\n', b"\r\n--x\r\n", b"--x\r\n", b"headers", b"email",
    b"charsets", b"envelope", b"body-mime=", b"message-headers=", b"body-plain=", b"From=", b"&a=", b"MessageSid=",
    b"From=whatsapp:%2B", b"CallSid=", b"CallStatus=", b"QueueResult=", b"TranscriptionEvent=", b"%00", b"%ED",
    b"\xed\xa0\x80", b'{"specversion":"1.0","id":"1","source":"/a","type":"threadline.message.received","time":"',
    b'"}', b"2026-03-03T09:00:00Z", b'","data":{"channel":"chat","text":"',
    b'"customer":{"handles":[{"kind":"email","value":"', b"[", b"]", b"{", b"}", b"\\ud800", b"\\u0000", b"1e999",
    b"99999999999999999999", b"null", b"NaN", b'"data_base64":"', b"entry", b"changes", b"messaging", b"events",
    b"timestamp", b"message", b"event-data", b"<xml><MsgType>", b"<![CDATA[",
    b"Event: QueueCallerJoin\nUniqueid: 1\n", b"|NONE|ABANDON|1",
)  # fmt: skip


@contextmanager
def dictionary() -> Iterator[Path]:
    """A file of WORDS as libFuzzer reads them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "words")
        path.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS))
        yield path


def seeds(name: str) -> Iterator[bytes]:
    """Yield inputs of the target `name` with which nothing is wrong."""
    for record in recorded():
        if record.provider.name not in PROVIDERS:
            continue  # the template for new adapters
        signing = record.signing
        if name == "delivery":
            media = next((number for number, one in enumerate(MEDIA) if one[:9] == signing.content_type[:9]), 0)
            yield bytes([0, 0, 0, PROVIDERS.index(record.provider.name), media]) + signing.body
        elif name == "mail" and record.provider.name == "email_raw":
            yield bytes(3) + signing.body
        elif name == "reply":
            yield from (
                bytes(3) + text.encode() for event in record.document["events"] if (text := event["data"].get("text"))
            )
        elif name == "html":
            yield from (
                bytes(3) + html.encode() for event in record.document["events"] if (html := event["data"].get("html"))
            )
        elif name == "events":
            for event in record.document["events"]:
                posted = {"specversion": "1.0", "source": "/a", **event, "time": "2026-03-03T09:00:00Z"}
                yield bytes([0, 0, 0, EVENTS.index("application/json")]) + orjson.dumps(posted)
