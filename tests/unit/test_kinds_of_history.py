"""What a history looks like, and what is said of one that was given as another kind than it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.cli.importing import history
from services.cli.trying import kind_of
from services.ingest.importers.events import CannotImport, mail_account, mail_event
from services.ingest.importers.kinds import Kind, check
from services.ingest.importers.pieces import MOST_BYTES, NotReadable, Piece
from shared.errors import SetupError

MAIL = b"Received: by mx\nFrom: Ann <ann@example.com>\nMessage-ID: <m1@example.com>\nSubject: Parcel\n\nHello\n"
ENVELOPE = b"From ann@example.com Mon Mar  2 09:00:00 2026\n"
EVENT = b'{"specversion": "1.0", "id": "1"}\n'


def a_folder(path: Path, name: str, content: bytes = MAIL) -> None:
    (path / name).parent.mkdir(parents=True)
    (path / name).write_bytes(content)


MADE: dict[str, Callable[[Path], object]] = {
    "mbox": lambda path: path.write_bytes(ENVELOPE + MAIL + b"\n" + ENVELOPE + MAIL),
    "mail": lambda path: path.write_bytes(MAIL),
    "lines": lambda path: path.write_bytes(EVENT + EVENT),
    "array": lambda path: path.write_bytes(b"\xef\xbb\xbf\n[\n" + EVENT + b",\n" + EVENT + b"]"),
    "pretty": lambda path: path.write_bytes(b'{\n  "id": "1"\n}\n'),
    "packed": lambda path: path.write_bytes(b"PK\x03\x04mbox"),
    "note": lambda path: path.write_bytes(b"Note: buy milk\n\nand bread\n"),
    "maildir": lambda path: a_folder(path, "cur/1772442000.a:2,S"),
    "mails": lambda path: a_folder(path, "2026/a.eml"),
    "mboxes": lambda path: a_folder(path, "Inbox", ENVELOPE + MAIL),
}
LIKE = {
    "mbox": Kind.MBOX, "mail": Kind.EML, "lines": Kind.JSONL, "array": Kind.JSONL, "pretty": Kind.JSONL,
    "maildir": Kind.MAILDIR, "mails": Kind.EML,
}  # fmt: skip

# One mail of an mbox has its `From ` line too.
WRONG = [
    (name, kind)
    for name, found in LIKE.items()
    for kind in Kind
    if found is not kind and (name, kind) != ("mbox", Kind.EML)
]


@pytest.mark.parametrize(("name", "kind"), WRONG)
def test_a_history_given_as_another_kind_says_what_it_looks_like_and_what_to_type(
    tmp_path: Path, name: str, kind: Kind
) -> None:
    path = tmp_path / "my history"
    MADE[name](path)
    with pytest.raises(SetupError) as refused, history(kind, path, "a", ()):
        pass
    assert str(path) in str(refused.value)
    assert f"`threadline import {LIKE[name]} '{path}'`" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("array", Kind.JSONL, r"jq -c '\.\[\]'"),
        ("pretty", Kind.JSONL, r"jq -c \. "),
        ("packed", Kind.MBOX, "unpack it first"),
        ("packed", Kind.MAILDIR, "unpack it first"),
        ("mboxes", Kind.MBOX, "name a file in it"),
        ("note", Kind.MAILDIR, "it is a file"),
    ],
)
def test_what_no_kind_takes_says_what_to_do(tmp_path: Path, name: str, kind: Kind, told: str) -> None:
    MADE[name](tmp_path / "history")
    with pytest.raises(NotReadable, match=told):
        check(kind, tmp_path / "history")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("mbox", Kind.MBOX), ("mail", Kind.EML), ("lines", Kind.JSONL), ("maildir", Kind.MAILDIR), ("mails", Kind.EML),
     ("note", Kind.EML), ("note", Kind.MBOX), ("note", Kind.JSONL), ("mboxes", Kind.EML)],
)  # fmt: skip
def test_what_may_be_of_its_kind_is_left_to_its_reader(tmp_path: Path, name: str, kind: Kind) -> None:
    MADE[name](tmp_path / "history")
    check(kind, tmp_path / "history")


def test_mails_that_stand_in_an_mbox_are_not_taken_for_one_mail(tmp_path: Path) -> None:
    account, now = mail_account("a", ()), datetime(2026, 3, 3, tzinfo=UTC)
    assert b"m1@example.com" in mail_event(Piece("", ENVELOPE + MAIL, 0), account, now).event
    with pytest.raises(CannotImport, match="`threadline import mbox`"):
        mail_event(Piece("", ENVELOPE + MAIL + b"\n" + ENVELOPE + MAIL, 0), account, now)
    with (tmp_path / "large").open("wb") as file:
        file.write(ENVELOPE + MAIL)
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(NotReadable, match="threadline import mbox"):
        check(Kind.EML, tmp_path / "large")


def test_what_comes_through_a_pipe_is_read_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    end = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        os.write(end, MAIL)
        check(Kind.MBOX, tmp_path / "pipe")
        assert os.read(end, 1_000) == MAIL
    finally:
        os.close(end)


def test_the_kind_of_a_history_is_guessed_from_its_beginning_and_its_name(tmp_path: Path) -> None:
    (tmp_path / "boxes" / "Sent" / "cur").mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    for name, text in (("box", "From a\n"), ("a.eml", "x"), ("a.jsonl", "x"), ("export", '\n{"a"'), ("none", ""),
                       ("box.eml", "From a\n"), ("note", "Dear")):  # fmt: skip
        (tmp_path / name).write_text(text)
    MADE["maildir"](tmp_path / "maildir")
    MADE["mail"](tmp_path / "mail")
    expected = {
        "maildir": Kind.MAILDIR, "boxes": Kind.MAILDIR, "folder": Kind.EML, "box": Kind.MBOX, "a.eml": Kind.EML,
        "a.jsonl": Kind.JSONL, "export": Kind.JSONL, "none": Kind.MBOX, "box.eml": Kind.MBOX, "mail": Kind.EML,
    }  # fmt: skip
    assert {name: kind_of(tmp_path / name) for name in expected} == expected
    with pytest.raises(SetupError):
        kind_of(tmp_path / "note")
