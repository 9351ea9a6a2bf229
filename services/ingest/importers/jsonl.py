"""JSON lines: one structured CloudEvent a line, taken as it stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from services.ingest.importers.pieces import Piece

LONGEST_LINE = 5 * 1024 * 1024
"""No longer line could be posted."""


def read(file: BinaryIO) -> Iterator[Piece]:
    """Yield the lines that are not blank, without their ends; a fault for one that is too long. Raises OSError."""
    number = at = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        at += len(line)
        fault = None
        while not line.endswith(b"\n") and (rest := file.readline(LONGEST_LINE)):
            at += len(rest)
            fault = f"it is longer than {LONGEST_LINE} bytes, which is more than one event may have"
            line = rest
        if fault is not None:
            yield Piece(f"line {number}", b"", at, fault=fault)
            continue
        line = line.removeprefix(b"\xef\xbb\xbf").strip()
        if line:
            yield Piece(f"line {number}", line, at)
