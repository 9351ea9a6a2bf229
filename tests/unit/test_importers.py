"""Readers of history: which bytes are one mail, where it stands, and which event it becomes."""

from __future__ import annotations

import base64
import io
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.adapters.base import Account, Headers, RawRequest
from services.ingest.adapters.email_raw import EmailRaw
from services.ingest.importers import files, jsonl, mbox
from services.ingest.importers.events import MOST_BYTES as EVENT_BYTES
from services.ingest.importers.events import CannotImport, line_event, mail_account, mail_event
from services.ingest.importers.pieces import MOST_BYTES, NotReadable, Piece

NOW = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)


def a_mail(number: int = 1, body: str = "Hello", sender: str = "Ann <ann@example.com>", extra: str = "") -> bytes:
    return (
        f"From: {sender}\nTo: help@acme.example\nMessage-ID: <m{number}@example.com>\nSubject: Parcel\n"
        f"Date: Mon, 02 Mar 2026 10:00:0{number % 10} +0100\n{extra}\n{body}\n"
    ).encode()


def in_mbox(*mails: bytes, envelope: bytes = b"From ann@example.com Mon Mar  2 09:00:00 2026") -> bytes:
    return b"".join(envelope + b"\n" + mail + b"\n" for mail in mails)


def read(data: bytes) -> list[bytes]:
    return [piece.raw for piece in mbox.read(io.BytesIO(data))]


def event(piece: Piece, *own: str) -> dict[str, object]:
    made: dict[str, object] = orjson.loads(mail_event(piece, mail_account("a", own), NOW).event)
    return made


# mbox


@pytest.mark.parametrize(
    "envelope",
    [
        b"From ann@example.com Mon Mar  2 09:00:00 2026",
        b"From ann at example.com  Mon Mar  2 09:00:00 2026",
        b"From 1234567@xxx Mon Mar 02 09:00:00 +0000 2026",
        b"From MAILER-DAEMON Mon Mar  2 09:00 CET 2026 remote from gate",
        b"From - Mon Mar 02 09:00:00 2026",
        b"From ",
        b"From -",
    ],
)
def test_mails_come_out_as_they_went_in_whoever_wrote_the_mbox(envelope: bytes) -> None:
    mails = [a_mail(1), a_mail(2, "Two\n\nparagraphs"), a_mail(3, "")]
    assert read(in_mbox(*mails, envelope=envelope)) == mails
    crlf = [mail.replace(b"\n", b"\r\n") for mail in mails]
    assert read(in_mbox(*mails, envelope=envelope).replace(b"\n", b"\r\n")) == crlf


@pytest.mark.parametrize(
    "body",
    [
        "Well\n\nFrom what I see it is late.\nYours",
        "Well\n\nFrom now on:\nNote: nothing",
        "Well\n\nFrom Monday\nit rains",
        "Well\nFrom ann@example.com\nSubject: quoted",
        "From the start",
        "Look:\n\nFrom bo@example.com Mon Mar  2 09:00:00 2026\nis how mails begin",
    ],
)
def test_a_sentence_that_starts_with_from_begins_no_mail(body: str) -> None:
    mails = [a_mail(1, body), a_mail(2)]
    assert read(in_mbox(*mails)) == mails


def test_a_mail_begins_also_where_the_writer_left_the_blank_line_out() -> None:
    line = b"From ann@example.com Mon Mar  2 09:00:00 2026\n"
    assert read(line + a_mail(1) + line + a_mail(2)) == [a_mail(1), a_mail(2)]


@pytest.mark.parametrize("block_bytes", [1, 7, 100, 1_000])
def test_mails_are_the_same_wherever_the_blocks_that_are_read_end(
    block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mails = [a_mail(1, "Well\n\nFrom now on\nFrom here"), a_mail(2, "x" * 3_000), a_mail(3, "\n\n"), a_mail(4)]
    monkeypatch.setattr(mbox, "_BLOCK_BYTES", block_bytes)
    assert read(b"\n\r\n" + in_mbox(*mails)) == mails
    assert read(in_mbox(*mails).replace(b"\n", b"\r\n")) == [mail.replace(b"\n", b"\r\n") for mail in mails]


def test_quoted_from_lines_lose_one_mark_of_the_quote() -> None:
    stored = a_mail(1, ">From here\n>>From there\n> From a person\ntext >From")
    assert read(in_mbox(stored)) == [a_mail(1, "From here\n>From there\n> From a person\ntext >From")]


def test_places_name_number_and_byte_and_progress_ends_with_the_file() -> None:
    data = in_mbox(a_mail(1), a_mail(2))
    pieces = list(mbox.read(io.BytesIO(data)))
    assert [piece.place for piece in pieces] == ["message 1 (byte 0)", f"message 2 (byte {len(data) // 2})"]
    assert [piece.done for piece in pieces] == [len(data) // 2, len(data)]
    assert pieces[0].delivered_at == datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def test_an_empty_mbox_has_no_mails_and_another_file_is_refused() -> None:
    assert read(b"") == read(b"\n\n") == []
    with pytest.raises(NotReadable):
        read(b"Subject: I am one mail\n\nFrom me\n")


def test_a_mail_beyond_the_limit_is_named_and_the_next_one_is_read() -> None:
    big = a_mail(1, "x" * 1_000_000 + "\n" + ("y" * 99 + "\n") * (MOST_BYTES // 100))
    first, second = mbox.read(io.BytesIO(in_mbox(big, a_mail(2))))
    assert first.fault is not None and str(MOST_BYTES) in first.fault
    assert (first.raw, second.raw) == (b"", a_mail(2))


class Endless(io.RawIOBase):
    """An mbox of 200 MB that exists nowhere: `read` makes it up."""

    def __init__(self) -> None:
        self.left = 2_000

    def read(self, size: int = -1, /) -> bytes:
        if not self.left:
            return b""
        self.left -= 1
        return in_mbox(a_mail(1, ("z" * 9_999 + "\n") * 10))


def test_memory_holds_one_mail_and_not_the_file() -> None:
    tracemalloc.start()
    try:
        assert sum(1 for _ in mbox.read(Endless())) == 2_000  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=400).map(lambda tail: b"From a Mon Mar  2 09:00:00 2026\n" + tail))
def test_no_byte_of_an_mbox_is_lost_or_read_twice(data: bytes) -> None:
    pieces = list(mbox.read(io.BytesIO(data)))
    assert pieces[-1].done == len(data)
    assert sum(len(piece.raw) for piece in pieces) <= len(data)


@given(st.lists(st.text("From >:\nab", max_size=60), min_size=1, max_size=5))
def test_what_a_quoting_writer_wrote_is_read_back_whatever_the_bodies_say(bodies: list[str]) -> None:
    mails = [a_mail(number, body) for number, body in enumerate(bodies)]
    quoted = [b"".join(_quote(line) for line in mail.splitlines(keepends=True)) for mail in mails]
    assert read(in_mbox(*quoted)) == mails


def _quote(line: bytes) -> bytes:
    return b">" + line if line.lstrip(b">").startswith(b"From ") else line


# Files


def test_a_maildir_gives_new_and_cur_by_age_and_nothing_half_written(tmp_path: Path) -> None:
    for name in ("cur/1700000002.b:2,S", "new/1700000001.a", "cur/.hidden", "tmp/1700000000.c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(a_mail())
    pieces = list(files.read(files.in_maildir(tmp_path), tmp_path))
    assert [piece.place for piece in pieces] == ["new/1700000001.a", "cur/1700000002.b:2,S"]
    assert pieces[0].delivered_at == datetime.fromtimestamp(1_700_000_001, UTC)
    assert [piece.done for piece in pieces] == [1, 2]
    with pytest.raises(NotReadable):
        files.in_maildir(tmp_path / "cur")


def test_a_maildir_gives_the_folders_in_it_and_nothing_that_nobody_sent_or_wants(tmp_path: Path) -> None:
    wanted = ["cur/1700000001.a:2,S", ".Sent/cur/1700000002.b", ".Work.Old/new/1700000003.c", "Other/cur/1700000004.d"]
    unwanted = [".Trash/cur/1700000005.e", ".INBOX.Junk/new/1700000006.f", "Drafts/cur/1700000007.g",
                "cur/1700000008.h:2,DS", ".Sent/cur/1700000009.i:2,ST", ".Sent/tmp/1700000010.j"]  # fmt: skip
    for name in (*wanted, *unwanted):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(a_mail())
    assert [piece.place for piece in files.read(files.in_maildir(tmp_path), tmp_path)] == wanted
    # What is named itself is wanted.
    assert [file.name for file in files.in_maildir(tmp_path / ".Trash")] == ["1700000005.e"]


def test_an_eml_is_one_file_or_all_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("deep/b.EML", "a.eml", "note.txt"):
        (tmp_path / name).write_bytes(a_mail())
    places = [piece.place for piece in files.read(files.of_eml(tmp_path), tmp_path)]
    assert places == ["a.eml", "deep/b.EML"]
    (one,) = files.read(files.of_eml(tmp_path / "note.txt"), tmp_path / "note.txt")
    assert (one.place, one.raw) == ("note.txt", a_mail())
    (tmp_path / "none").mkdir()
    with pytest.raises(NotReadable):
        files.of_eml(tmp_path / "none")


def test_a_file_that_cannot_be_read_is_named_and_the_next_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "b.eml").write_bytes(a_mail())
    first, second = files.read([tmp_path / "gone.eml", tmp_path / "b.eml"], tmp_path)
    assert first.fault is not None and first.place == "gone.eml"
    assert second.raw == a_mail()


def test_json_lines_keep_their_numbers_over_blank_and_overlong_lines() -> None:
    long = b'"' + b"x" * jsonl.LONGEST_LINE + b'"'
    pieces = list(jsonl.read(io.BytesIO(b'\xef\xbb\xbf{"a":1}\r\n\n' + long + b"\n  {}\n[1]")))
    assert [(piece.place, piece.raw) for piece in pieces] == [
        ("line 1", b'{"a":1}'), ("line 3", b""), ("line 4", b"{}"), ("line 5", b"[1]"),
    ]  # fmt: skip
    assert pieces[1].fault is not None
    assert pieces[-1].done == len(long) + 22


# Events


@pytest.mark.parametrize("mail", [a_mail(), b"Subject: no id\n\nHi\n", a_mail().replace(b"Date", b"X-Date")])
def test_an_imported_mail_is_the_event_that_the_adapter_gives(mail: bytes) -> None:
    account = Account("acme", "email_raw", "a", ("password",))
    (draft,) = EmailRaw().parse(RawRequest("POST", "", "", Headers(), mail, NOW), account).events
    made = event(Piece("", mail, 0))
    assert (made["id"], made["source"], made["type"]) == (draft.id, "/email_raw/a", draft.type)
    estimated = {"time_estimated": True} if draft.time is None else {}
    assert made["data"] == {**draft.data, **estimated}


def test_the_time_is_the_mails_own_else_the_mailboxes_else_now() -> None:
    delivered = datetime(2020, 1, 2, tzinfo=UTC)
    undated = a_mail().replace(b"Date", b"X-Date")
    assert event(Piece("", a_mail(), 0, delivered))["time"] == "2026-03-02T09:00:01.000000Z"
    assert event(Piece("", undated, 0, delivered))["time"] == "2020-01-02T00:00:00.000000Z"
    assert event(Piece("", undated, 0))["time"] == "2026-03-03T12:00:00.000000Z"
    assert event(Piece("", undated, 0, datetime(1970, 1, 1, tzinfo=UTC)))["time"] == "2026-03-03T12:00:00.000000Z"
    ahead = a_mail().replace(b"2026", b"2036")
    assert event(Piece("", ahead, 0, delivered))["time"] == "2020-01-02T00:00:00.000000Z"


def test_mail_from_our_own_address_was_sent_by_an_agent_to_the_customer() -> None:
    mail = a_mail(sender="Bo <Help+bo@acme.example>").replace(b"To: help@acme.example", b"To: ann@example.com")
    made = event(Piece("", mail, 0), "help@acme.example")
    data = made["data"]
    assert isinstance(data, dict)
    assert (made["type"], data["actor"]["type"]) == ("threadline.message.sent", "agent")
    assert data["customer"]["handles"][0]["value"] == "ann@example.com"
    assert event(Piece("", mail, 0))["type"] == "threadline.message.received"


@pytest.mark.parametrize("raw", [b"", b" \n", b"\x00\x01\x02", b"no header at all\n"])
def test_what_is_no_mail_is_said_so(raw: bytes) -> None:
    with pytest.raises(CannotImport):
        event(Piece("", raw, 0))


@pytest.mark.parametrize("line", [b"{", b"\xff", b'{"n":123456789012345678901234567890}', b"NaN"])
def test_a_line_that_is_no_json_is_said_so(line: bytes) -> None:
    with pytest.raises(CannotImport):
        line_event(Piece("", line, 0))


def test_a_json_line_is_posted_as_it_stands() -> None:
    line = b'{"b" : 1,  "a": "\\ud800"}'
    assert line_event(Piece("", line, 0)).event is line


def test_files_go_with_the_event_as_far_as_there_is_room_and_the_largest_by_themselves() -> None:
    sizes = (3_000_000, 10, 900_001, 2_999_999, 0)
    parts = "".join(
        f"--b\nContent-Type: a/b\nContent-Transfer-Encoding: base64\nContent-Disposition: attachment\n\n{written}\n"
        for written in (base64.b64encode(b"x" * size).decode() for size in sizes)
    )
    mail = a_mail(body=f"--b\n\nHi\n{parts}--b--", extra='Content-Type: multipart/mixed; boundary="b"\n')
    made = mail_event(Piece("", mail, 0), mail_account("a", ()), NOW)
    assert [(file.place, len(file.content)) for file in made.files] == [(0, sizes[0])]
    listed = orjson.loads(made.event)["data"]["attachments"]
    contents = [file.get("content") for file in listed]
    assert [len(base64.b64decode(one)) for one in contents[1:]] == list(sizes[1:]) and contents[0] is None
    assert len(made.event) < EVENT_BYTES


def test_an_event_that_no_request_can_hold_is_said_so() -> None:
    with pytest.raises(CannotImport, match="at most"):
        event(Piece("", a_mail(body="x" * 6_000_000), 0))


@given(st.binary(max_size=300))
def test_any_bytes_become_an_event_or_a_reason(raw: bytes) -> None:
    try:
        assert event(Piece("", raw, 0))["id"]
    except CannotImport as error:
        assert str(error)


def test_the_iterator_of_a_folder_reads_no_file_ahead(tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_bytes(a_mail())
    pieces: Iterator[Piece] = files.read([tmp_path / "a.eml", tmp_path / "b.eml"], tmp_path)
    next(pieces)
    (tmp_path / "b.eml").write_bytes(a_mail())
    assert next(pieces).fault is None
