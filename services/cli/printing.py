"""Writing to a terminal what others wrote: nothing of it may move the cursor, ring, or pass for a line of ours."""

from __future__ import annotations

from collections.abc import Sequence


def safe(text: str) -> str:
    """Return `text` on one line, whatever does not print written as an escape."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in text)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def safe_lines(text: str) -> str:
    """Return `text` with its line breaks kept, and whatever else does not print written as an escape."""
    return "\n".join(safe(line.replace("\t", "    ")) for line in text.replace("\r\n", "\n").split("\n"))


def shortened(text: str, most: int) -> str:
    """Return `text` cut to `most` characters, with a mark where it was cut."""
    return text if len(text) <= most else text[: most - 1] + "…"


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print `rows`, the first being the headings, in columns as wide as they need."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
