"""What every reader of history gives: one message or line at a time, with its place for the person who looks for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

MOST_BYTES = 40 * 1024 * 1024
"""Largest mail that is read, as large as one that comes by webhook."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One message or line as it stands in the history.

    `place` names it for a person, `done` is how far reading has come with it (bytes, or files), `delivered_at` when the
    mailbox got it, where it says so. Where `fault` is set it could not be read, and `raw` is empty.
    """

    place: str
    raw: bytes
    done: int
    delivered_at: datetime | None = None
    fault: str | None = None


class NotReadable(ValueError):
    """The file or folder is not what it was said to be; the text is a sentence for the person at the terminal."""


def too_large(size_bytes: int) -> str:
    """Return the fault of a mail above MOST_BYTES."""
    return f"it has {size_bytes} bytes, and at most {MOST_BYTES} are read"
