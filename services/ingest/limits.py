"""How much one process takes: a rate that somebody set, and the bytes it may hold while the log is slow. Pure."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from shared.errors import ThreadlineError


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class RateLimit:
    """At most `events_per_s` a second for each tenant, a second's worth at once (or `burst`); None is no limit.

    A batch larger than that passes when the bucket is full, and is paid for afterwards.
    """

    def __init__(self, events_per_s: float | None, burst: float | None = None) -> None:
        self._rate = events_per_s
        self._burst = max(1.0, events_per_s or 0.0) if burst is None else burst
        self._buckets: dict[str, _Bucket] = {}

    def wait_s(self, tenant: str, count: int, now_s: float) -> int:
        """Take `count` events of `tenant` at `now_s` (a monotonic clock): 0 where they may pass, else whole seconds
        to wait, and nothing is taken."""
        if not self._rate:
            return 0
        bucket = self._buckets.setdefault(tenant, _Bucket(self._burst, now_s))
        bucket.tokens = min(self._burst, bucket.tokens + (now_s - bucket.at_s) * self._rate)
        bucket.at_s = now_s
        missing = min(count, self._burst) - bucket.tokens
        if missing > 0:
            return max(1, math.ceil(missing / self._rate))
        bucket.tokens -= count
        return 0


class SenderRates:
    """At most so many events a minute for each sender, a minute's worth at once; the last `REMEMBERED` are known."""

    REMEMBERED = 10_000

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_s(self, sender: str, count: int, per_minute: int, now_s: float) -> int:
        """Take `count` events of `sender` at `now_s` (a monotonic clock), or return the whole seconds to wait."""
        bucket = self._buckets.setdefault(sender, _Bucket(per_minute, now_s))
        self._buckets.move_to_end(sender)
        while len(self._buckets) > self.REMEMBERED:
            self._buckets.popitem(last=False)
        bucket.tokens = min(per_minute, bucket.tokens + (now_s - bucket.at_s) * per_minute / 60)
        bucket.at_s = now_s
        missing = min(count, per_minute) - bucket.tokens
        if missing > 0:
            return max(1, math.ceil(missing * 60 / per_minute))
        bucket.tokens -= count
        return 0


class TooMuch(ThreadlineError):
    """This process holds as much as it may: come back in a moment."""


class Pressure:
    """Bytes of bodies that are being taken. Above `max_bytes` the next one is told to come back."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held_bytes = 0

    def hold(self, declared: str | None, unknown_bytes: int = 65_536) -> int:
        """Count a body whose Content-Length is `declared`; return what to `release` afterwards.

        One alone always passes. Raises TooMuch.
        """
        known = declared is not None and declared.isascii() and declared.isdecimal() and len(declared) < 12
        size_bytes = int(declared) if known and declared else unknown_bytes
        if self.held_bytes and self.held_bytes + size_bytes > self._max_bytes:
            raise TooMuch("this process is taking as much as it can hold: send it again later")
        self.held_bytes += size_bytes
        return size_bytes

    def release(self, size_bytes: int) -> None:
        """Count a body of this size as done."""
        self.held_bytes -= size_bytes
