"""What a file or folder of history looks like, and what to say where it was given as another kind than it is."""

from __future__ import annotations

import io
import re
import shlex
from enum import StrEnum
from itertools import islice
from pathlib import Path

from services.ingest.importers import files, mbox
from services.ingest.importers.pieces import MOST_BYTES, NotReadable


class Kind(StrEnum):
    """What the history is kept in."""

    MBOX = "mbox"
    MAILDIR = "maildir"
    EML = "eml"
    JSONL = "jsonl"


NAMES = {Kind.MBOX: "an mbox", Kind.MAILDIR: "a maildir", Kind.EML: "mail as .eml", Kind.JSONL: "events in JSON"}

_BEGINNING_BYTES = 65_536
_BLANK = b"\xef\xbb\xbf \t\r\n"
_PACKED = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")
_FIELD = re.compile(rb"[!-9;-~]+[ \t]?:")
_OF_MAIL = re.compile(rb"^(?:from|date|received|message-id|return-path)[ \t]?:", re.IGNORECASE | re.MULTILINE)
_END_OF_HEADERS = re.compile(rb"\r?\n\r?\n")


def looks_like(path: Path) -> Kind | None:
    """Return which kind of history `path` looks like by what is in it, None where like none. Raises OSError."""
    if path.is_dir():
        return Kind.MAILDIR if files.maildirs(path) else Kind.EML if files.has_eml(path) else None
    return begins_like(_beginning(path))


def begins_like(content: bytes) -> Kind | None:
    """Return which kind of file begins so, None where none does."""
    content = content.lstrip(_BLANK)
    if content.startswith(b"From "):
        return Kind.MBOX
    if content.startswith((b"{", b"[")):
        return Kind.JSONL
    headers = _END_OF_HEADERS.split(content, maxsplit=1)[0]
    return Kind.EML if _FIELD.match(headers) and _OF_MAIL.search(headers) else None


def check(kind: Kind, path: Path) -> None:
    """Raise NotReadable, with what to type instead, where `path` is clearly no history of this kind. Raises OSError."""
    if path.is_dir():
        _check_folder(kind, path)
    elif path.is_file():  # what comes through a pipe can be read once only
        _check_file(kind, path)


def _check_folder(kind: Kind, path: Path) -> None:
    found = looks_like(path)
    if found is kind or (kind is Kind.EML and files.has_eml(path)):
        return
    if found is not None:
        raise _instead(kind, found, path)
    if kind in (Kind.MBOX, Kind.JSONL):
        raise NotReadable("it is a folder: name a file in it")


def _check_file(kind: Kind, path: Path) -> None:
    beginning = _beginning(path)
    found = begins_like(beginning)
    if found is None and beginning.startswith(_PACKED):
        raise NotReadable("it is packed: unpack it first")
    # What begins with a `From ` line may be one mail that was taken out of an mbox: `several_mails` tells.
    one_mail = kind is Kind.EML and found is Kind.MBOX and path.stat().st_size <= MOST_BYTES
    if found is not None and found is not kind and not one_mail:
        raise _instead(kind, found, path)
    if kind is Kind.MAILDIR:
        raise NotReadable("it is a file, and a maildir is a folder with `cur` and `new` in it")
    if kind is Kind.JSONL and found is kind:
        _check_lines(beginning.lstrip(_BLANK), path)


def several_mails(raw: bytes) -> bool:
    """Tell whether what was given as one mail is an mbox with more than one."""
    return raw.startswith(b"From ") and len(list(islice(mbox.read(io.BytesIO(raw)), 2))) > 1


def _check_lines(beginning: bytes, path: Path) -> None:
    """Raise NotReadable where it is JSON as tools and people write it: an array, or an event over several lines."""
    if beginning.startswith(b"["):
        what, how = "one array of JSON", "'.[]'"
    elif beginning.split(b"\n", 1)[0].strip() == b"{":
        what, how = "JSON over several lines", "."
    else:
        return
    lines = f"`jq -c {how} {shlex.quote(str(path))} > events.jsonl` writes such lines"
    raise NotReadable(f"it is {what} and not one event a line: {lines}")


def _instead(kind: Kind, found: Kind, path: Path) -> NotReadable:
    typed = f"`threadline import {found} {shlex.quote(str(path))}`"
    return NotReadable(f"it is not {NAMES[kind]} but looks like {NAMES[found]}: type {typed}, the rest as it was")


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_BEGINNING_BYTES)
