"""A generated mailbox like a help desk's, for measurements: threads, quotes, HTML, attachments, long headers.

Of the mails half are text and HTML, four in ten text alone (8-bit or quoted-printable), and one in ten has a file of
some tens of kilobytes; headers are as long as providers make them (2 kB). The same seed gives the same bytes.
"""

from __future__ import annotations

import base64
import quopri
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import BinaryIO

DESK = "help@acme.example"
BEGAN = datetime(2025, 1, 6, 8, 0, tzinfo=UTC)
PACE = timedelta(seconds=40)
PEOPLE = 4_000
LIVE_THREADS = 40
MOST_IN_A_THREAD = 6
MOST_QUOTED = 6_000
FILE_BYTES = (4_000, 60_000)
NAMES = ("Ann Jansen", "José Núñez", "Zoë de Vries", "Paweł Wójcik", "Chen Wei")
SUBJECTS = ("Parcel", "Invoice", "Änderung", "Return", "Login")
SENTENCES = (
    "The parcel that I ordered on Monday has still not arrived, although it should have.",
    "Could you look where it is, and tell me when I can expect it?",
    "Ich habe Ihnen schon zweimal geschrieben und keine Antwort erhalten.",
    "De rekening klopt niet: er staat twee keer verzendkosten op.",
    "J’ai essayé de me connecter, mais le mot de passe n’est pas accepté.",
    "Thank you for your quick answer; that solves it for me.",
    "We have looked into it, and the carrier says that it was left with your neighbour.",
    "Please send me the number of your order, which begins with AC and has eight digits.",
)


def write(file: BinaryIO, mails: int, seed: int = 1) -> int:
    """Write an mbox of so many mails and return its size in bytes."""
    size_bytes = 0
    for number, mail in enumerate(generated(mails, seed)):
        size_bytes += file.write(f"From MAILER-DAEMON {BEGAN + number * PACE:%a %b %d %H:%M:%S %Y}\n".encode())
        size_bytes += file.write(mail.replace(b"\nFrom ", b"\n>From ") + b"\n\n")
    return size_bytes


def generated(mails: int, seed: int = 1) -> Iterator[bytes]:
    """Yield so many mails, in the order in which they were sent."""
    chance = random.Random(seed)
    threads = [_Thread(-1, chance)]
    for number in range(mails):
        if chance.random() < 0.4:
            threads.append(_Thread(number, chance))
        thread = chance.choice(threads[-LIVE_THREADS:])
        yield thread.next(number, chance)


class _Thread:
    """One matter between a person and the desk, who write in turns."""

    def __init__(self, number: int, chance: random.Random) -> None:
        person = chance.randrange(PEOPLE)
        self.person = f"person{person}@mail{person % 20}.example"
        self.name = chance.choice(NAMES)
        self.subject = f"{chance.choice(SUBJECTS)} {number}"
        self.ids: list[str] = []
        self.last = ""

    def next(self, number: int, chance: random.Random) -> bytes:
        if len(self.ids) >= MOST_IN_A_THREAD:
            self.ids, self.last = [], ""
        at = BEGAN + number * PACE
        sender, to = (DESK, self.person) if len(self.ids) % 2 else (self.person, DESK)
        text = self._text(at, to, chance)
        own = f"{number}.{chance.getrandbits(64):016x}@mail.example"
        head = self._headers(own, sender, to, format_datetime(at), chance)
        self.ids.append(own)
        self.last = text[:MOST_QUOTED]
        return head.encode() + _body(text, chance)

    def _text(self, at: datetime, to: str, chance: random.Random) -> str:
        said = "\n\n".join(" ".join(chance.choices(SENTENCES, k=4)) for _ in range(chance.randint(1, 4)))
        quoted = "\n".join(f"> {line}".rstrip() for line in self.last.split("\n"))
        told = f"\nOn {at:%a, %d %b %Y at %H:%M}, {to} wrote:\n{quoted}\n" if self.last else ""
        return f"{said}\n\n-- \n{self.name}\n{told}"

    def _headers(self, own: str, sender: str, to: str, stamp: str, chance: random.Random) -> str:
        hop = (
            f"Received: from mx.mail.example (mx.mail.example [192.0.2.1])\n\tby in.acme.example with ESMTPS id "
            f"{chance.getrandbits(64):x}\n\tfor <{to}>;\n\t{stamp}\n"
        )
        seal = base64.encodebytes(chance.randbytes(256)).decode().strip().replace("\n", "\n\t")
        earlier = "\n ".join(f"<{one}>" for one in self.ids)
        answered = f"In-Reply-To: <{self.ids[-1]}>\nReferences: {earlier}\n" if self.ids else ""
        return (
            f"Return-Path: <{sender}>\nDelivered-To: {to}\n{hop * 4}"
            f"ARC-Seal: i=1; a=rsa-sha256; t=1736150400; cv=none; d=mail.example; s=arc;\n\tb={seal}\n"
            f"DKIM-Signature: v=1; a=rsa-sha256; d=mail.example; s=s1; h=from:to:subject;\n\tb={seal}\n"
            "Authentication-Results: mx.acme.example;\n\tdkim=pass header.i=@mail.example;\n\tspf=pass\n"
            f"MIME-Version: 1.0\nFrom: {_word(self.name)} <{sender}>\nTo: <{to}>\nDate: {stamp}\n"
            f"Message-ID: <{own}>\nSubject: {_word(('Re: ' if self.ids else '') + self.subject)}\n{answered}"
        )


def _word(text: str) -> str:
    return text if text.isascii() else f"=?UTF-8?B?{base64.b64encode(text.encode()).decode()}?="


def _body(text: str, chance: random.Random) -> bytes:
    kind = chance.random()
    if kind < 0.2:
        return b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n" + text.encode()
    if kind < 0.4:
        return _part("plain", text)
    boundary = f"b{chance.getrandbits(96):x}"
    both = _multipart("alternative", boundary, [_part("plain", text), _part("html", _html(text))])
    if kind < 0.9:
        return both
    return _multipart("mixed", boundary + "m", [both, _file(chance.randbytes(chance.randint(*FILE_BYTES)))])


def _part(kind: str, text: str) -> bytes:
    head = f"Content-Type: text/{kind}; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n"
    return head.encode() + quopri.encodestring(text.encode())


def _file(data: bytes) -> bytes:
    head = 'Content-Type: application/pdf; name="scan.pdf"\nContent-Disposition: attachment; filename="scan.pdf"\n'
    return f"{head}Content-Transfer-Encoding: base64\n\n".encode() + base64.encodebytes(data)


def _multipart(kind: str, boundary: str, parts: list[bytes]) -> bytes:
    inner = b"".join(b"--%s\n%s\n" % (boundary.encode(), part) for part in parts)
    return f'Content-Type: multipart/{kind}; boundary="{boundary}"\n\n'.encode() + inner + f"--{boundary}--\n".encode()


def _html(text: str) -> str:
    lines = "".join(
        f'<div style="font-family:Arial,sans-serif;font-size:10pt"><span>{line or "<br>"}</span></div>'
        for line in text.replace("<", "&lt;").split("\n")
    )
    return f"<html><head><style>p{{margin:0}}</style></head><body>{lines}</body></html>"
