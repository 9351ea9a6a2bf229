"""Days that are over, packed: the sums of one series and local day in one row, and what they leave to be read by hour.

A packed day is what its hours come to, nothing else: whatever changes one of its hours takes it away in the same
transaction (store.drop_days), and it is packed again later (packing.py). So a day that is there is exact, one that is
not there costs time. Days are told by their instants: any zone's midnight will do.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from services.metrics.buckets import Strip
from services.metrics.entries import HOUR

LONGEST_DAY = 25 * HOUR
"""The day on which summer time ends."""

_HEAD = struct.Struct("<HIqq")
"""Length of the channel's name in bytes, number of cells, their sums."""


class Packed(NamedTuple):
    """The cells of one channel, and the sums of their n and totals."""

    channel: str
    strip: Strip
    n: int
    total: int


def pack(channels: Mapping[str, Strip]) -> bytes | None:
    """Return the cells by channel as bytes; None where a number needs more than 64 bits."""
    parts = []
    try:
        for channel, (buckets, numbers, totals) in sorted(channels.items()):
            name = channel.encode()
            parts += [_HEAD.pack(len(name), len(buckets), sum(numbers), sum(totals)), name]
            for column in _columns(buckets, numbers, totals):
                if sys.byteorder == "big":
                    column.byteswap()
                parts.append(column.tobytes())
    except (struct.error, OverflowError):
        return None
    return b"".join(parts)


def unpack(body: bytes) -> Iterator[Packed]:
    """Yield what was packed of each channel."""
    at = 0
    while at < len(body):
        length, count, n, total = _HEAD.unpack_from(body, at)
        at += _HEAD.size + length
        channel = body[at - length : at].decode()
        columns = _columns((), (), ())
        for column in columns:
            end = at + count * column.itemsize
            column.frombytes(body[at:end])
            if sys.byteorder == "big":
                column.byteswap()
            at = end
        yield Packed(channel, Strip(*columns), n, total)


def _columns(buckets: Sequence[int], numbers: Sequence[int], totals: Sequence[int]) -> list[array[int]]:
    """Return the columns of cells: 16, 64 and 64 bits each. Raises OverflowError."""
    return [array("h", buckets), array("q", numbers), array("q", totals)]


@dataclass
class Gaps:
    """What has to be read besides packed days: whole hours [first, until), and pieces [since, until) of an hour in µs,
    each of one series."""

    hours: list[tuple[int, int, int]] = field(default_factory=list)
    pieces: list[tuple[int, int, int]] = field(default_factory=list)

    def leave(self, series: int, start: int, end: int, edges: Sequence[int], days: Iterable[tuple[int, int]]) -> None:
        """Add what `days` (in order, apart from each other) leave of [start, end); `edges` cut it into windows."""
        cuts = [edge for edge in edges if edge % HOUR]
        at = start
        for since, until in (*days, (end, end)):
            inside = [cut for cut in cuts if at < cut < since]
            for left, right in zip((at, *inside), (*inside, since), strict=True):
                self._add(series, left, right)
            at = until

    def _add(self, series: int, start: int, end: int) -> None:
        first, until = -(-start // HOUR), end // HOUR
        if first >= until:
            self._piece(series, start, end)
            return
        self._piece(series, start, first * HOUR)
        self.hours.append((series, first, until))
        self._piece(series, until * HOUR, end)

    def _piece(self, series: int, start: int, end: int) -> None:
        if start >= end:
            return
        if self.pieces and self.pieces[-1][::2] == (series, start):
            start = self.pieces.pop()[1]
        self.pieces.append((series, start, end))
