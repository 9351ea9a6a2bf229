"""Mail that lies in files of its own: a maildir, one `.eml`, or a folder of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from services.ingest.importers.pieces import MOST_BYTES, NotReadable, Piece, too_large

_UNIX_S = re.compile(r"(\d{9,10})\.")


UNWANTED = frozenset({"trash", "junk", "spam", "drafts", "deleted", "deleted items", "deleted messages", "junk e-mail"})
"""Folders below a maildir whose mail nobody sent or wants, by the last part of their names."""


def in_maildir(folder: Path) -> list[Path]:
    """Return the mails of a maildir and of the folders in it, the oldest first as far as their names tell.

    Left out are folders that are `UNWANTED` and mails marked as draft or trash. Raises NotReadable where there is no
    maildir, OSError.
    """
    boxes = [box for box in maildirs(folder) if box == folder or not is_unwanted(box)]
    if not boxes:
        raise NotReadable("it is no maildir: that is a folder with `cur` and `new` in it")
    parts = [part for box in boxes for part in (box / "cur", box / "new") if part.is_dir()]
    found = [file for part in parts for file in part.iterdir() if _is_mail(file)]
    return sorted(found, key=lambda file: (_delivered_s(file) or 0, file.name))


def maildirs(folder: Path) -> list[Path]:
    """Return `folder` and the folders directly in it that are maildirs (`.Sent` of Maildir++, `Sent` of others)."""
    inside = sorted(one for one in folder.iterdir() if one.name not in ("cur", "new", "tmp") and one.is_dir())
    return [one for one in (folder, *inside) if (one / "cur").is_dir() or (one / "new").is_dir()]


def is_unwanted(folder: Path) -> bool:
    """Tell whether the name of a folder in a maildir says that its mail belongs on no timeline."""
    return folder.name.rpartition(".")[2].lower() in UNWANTED


def _is_mail(file: Path) -> bool:
    _, _, flags = file.name.rpartition(":2,")
    marked = ":2," in file.name and not {"D", "T"}.isdisjoint(flags)
    return not file.name.startswith(".") and not marked and file.is_file()


def of_eml(path: Path) -> list[Path]:
    """Return `path` itself, or the `.eml` files in and below it in order of their names. Raises NotReadable."""
    if not path.is_dir():
        return [path]
    found = sorted(_eml_below(path))
    if not found:
        raise NotReadable("there is no .eml file in it")
    return found


def has_eml(folder: Path) -> bool:
    """Tell whether there is an `.eml` file in or below a folder."""
    return any(True for _ in _eml_below(folder))


def _eml_below(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.suffix.lower() == ".eml" and file.is_file())


def read(files: Sequence[Path], root: Path) -> Iterator[Piece]:
    """Yield one piece for each file, a fault where it cannot be read. Places are paths below `root`."""
    for done, file in enumerate(files, start=1):
        place = str(file.relative_to(root)) if file != root else file.name
        try:
            about = file.stat()
            if about.st_size > MOST_BYTES:
                yield Piece(place, b"", done, fault=too_large(about.st_size))
                continue
            at = datetime.fromtimestamp(_delivered_s(file) or about.st_mtime, UTC)
            yield Piece(place, file.read_bytes(), done, at)
        except (OSError, ValueError, OverflowError) as error:
            yield Piece(place, b"", done, fault=f"it cannot be read: {getattr(error, 'strerror', None) or error}")


def _delivered_s(file: Path) -> int | None:
    """Return the Unix seconds with which a maildir's file names begin."""
    match = _UNIX_S.match(file.name)
    return int(match[1]) if match else None
