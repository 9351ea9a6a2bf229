"""Calls: one contact by telephone, from the queue to its end. An answer that comes late beats an abandonment."""

from __future__ import annotations

from collections.abc import Sequence

from services.metrics.buckets import Dims, Sink, bucket_of, without_agent
from services.metrics.entries import SECOND, Entry, seconds
from services.metrics.facts import corrected
from services.metrics.kpis.definition import ALL, NO_AGENT, Definition, Entity, Shape
from shared.business import Rules

SERVICE_LEVEL = 20 * SECOND
SHORT = 5 * SECOND


class Call:
    """The entries of one call, by what they say; of several of a kind the first counts, of hang-ups the last."""

    __slots__ = (
        "abandoned",
        "answered",
        "called_back",
        "ended",
        "entries",
        "held",
        "key",
        "overflowed",
        "queued",
        "requested",
    )

    def __init__(self, key: str, entries: Sequence[Entry]) -> None:
        self.key = key
        self.entries = corrected(entries)
        self.queued = self._first("call.queued")
        self.answered = self._first("call.answered")
        self.abandoned = self._first("call.abandoned")
        self.overflowed = self._first("call.overflowed")
        self.requested = self._first("callback.requested")
        self.called_back = self._first("callback.completed")
        self.ended = next((e for e in reversed(self.entries) if e.type == "call.ended"), None)
        self.held = [e for e in self.entries if e.type == "call.held"]

    def _first(self, kind: str) -> Entry | None:
        return next((e for e in self.entries if e.type == kind), None)

    @property
    def is_call(self) -> bool:
        """Whether any of it is a call event (and not only a callback)."""
        return any(e.type.startswith("call.") for e in self.entries)

    def dims(self, entry: Entry | None) -> Dims:
        """Channel phone, agent and team of whoever answered (or of `entry`), the customer's from any entry."""
        who = self.answered or entry
        return Dims(
            next((e.channel for e in self.entries if e.channel), "phone"),
            (who.team if who else None) or next((e.team for e in self.entries if e.team), None),
            who.agent if who else None,
            next((e.segment for e in self.entries if e.segment), None),
            next((e.language for e in self.entries if e.language), None),
        )

    def waited(self, until: Entry) -> int | None:
        """Return the time from the queue to `until`; None without a queuing.

        A wait that was measured where the call was counts more than times at which we heard of it.
        """
        told = seconds(until.data, "wait_s") if until.data.get("time_estimated") is True else None
        if told is not None:
            return told
        return max(0, until.at - self.queued.at) if self.queued else None

    def left(self) -> tuple[Entry, int] | None:
        """Return (abandonment, wait) where the caller gave up: unanswered, no overflow, no call-back asked for."""
        if self.abandoned is None or self.answered or self.overflowed or self.requested:
            return None
        wait = self.waited(self.abandoned)
        return None if wait is None else (self.abandoned, wait)

    def hold(self) -> int:
        """Return the time on hold: as the end says, else the sum of the holds, else between hold and taking up."""
        told = seconds(self.ended.data, "hold_s") if self.ended else None
        if told is not None:
            return told
        return sum(seconds(e.data, "duration_s") or 0 for e in self.held) if self.held else self._between_holds()

    def _between_holds(self) -> int:
        """Return for how long any leg of the talk was on hold; a hold that nothing ends lasts until the call's end."""
        if self.answered is None or self.ended is None:
            return 0
        first, last = self.answered.at, max(self.answered.at, self.ended.at)
        legs: set[str] = set()
        since = total = 0
        for entry in self.entries:
            if not is_hold(entry):
                continue
            at, before = min(max(entry.at, first), last), bool(legs)
            (legs.add if entry.data["hold"] is True else legs.discard)(str(entry.data.get("leg")))
            if legs and not before:
                since = at
            elif before and not legs:
                total += at - since
        return total + (last - since if legs else 0)

    def handled(self) -> int | None:
        """Return talk, hold and wrap-up of an answered call that ended; hold lies inside ended − answered."""
        if self.answered is None or self.ended is None:
            return None
        return max(0, self.ended.at - self.answered.at) + (seconds(self.ended.data, "wrap_s") or 0)


def is_hold(entry: Entry) -> bool:
    """Whether an entry says that the caller was put on hold (`hold` true) or taken up again (false)."""
    return entry.type == "message.status" and isinstance(entry.data.get("hold"), bool) and entry.contact is not None


def answers(call: Call, rules: Rules, sink: Sink) -> None:
    """Answered within 20 s or not; speed of answer; abandoned, short or not."""
    if call.answered is not None:
        wait = call.waited(call.answered)
        if wait is not None:
            at, dims, why = call.answered.at, call.dims(call.answered), (call.queued, call.answered)
            plain = without_agent(dims)
            sink.add("service_level_ratio", at, plain, 1, int(wait <= SERVICE_LEVEL), why)
            sink.add("abandonment_ratio", at, plain, 1, 0, why)
            sink.time("asa", at, dims, wait, why)
        return
    left = call.left()
    if left is None:
        return
    entry, wait = left
    dims, why = without_agent(call.dims(entry)), (call.queued, entry)
    if wait < SHORT:
        sink.add("short_abandons", entry.at, dims, 1, 1, why)
        return
    sink.add("service_level_ratio", entry.at, dims, 1, 0, why)
    sink.add("abandonment_ratio", entry.at, dims, 1, 1, why)
    sink.time("time_to_abandon", entry.at, dims, wait, why)


def patience(call: Call, rules: Rules, sink: Sink) -> None:
    """How each wait in the queue ended: given up (total 1) or cut short by an answer or a move (censored, total 0)."""
    leaving = call.answered or call.overflowed or call.requested or call.abandoned
    if leaving is None:
        return
    wait = call.waited(leaving)
    gave_up = leaving is call.abandoned
    if wait is None or (gave_up and wait < SHORT):
        return
    dims, why = without_agent(call.dims(leaving)), (call.queued, leaving)
    sink.add("patience_600s_ratio", leaving.at, dims, 1, int(gave_up), why, bucket=bucket_of(wait))


def handling(call: Call, rules: Rules, sink: Sink) -> None:
    """Hold and handling time of an answered call, where it ended."""
    handled = call.handled()
    if handled is None or call.ended is None:
        return
    holds = call.held or [e for e in call.entries if is_hold(e)]
    dims, why = call.dims(call.answered), (call.answered, *holds, call.ended)
    sink.time("hold_time", call.ended.at, dims, call.hold(), why)
    sink.time("aht", call.ended.at, dims, handled, why)
    sink.add("handle_minutes", call.ended.at, without_agent(dims), 1, handled, why)


def callbacks(call: Call, rules: Rules, sink: Sink) -> None:
    """Calls queued, call-backs asked for, and the time until they came."""
    if call.queued is not None:
        dims = without_agent(call.dims(call.queued))
        sink.add("callback_ratio", call.queued.at, dims, 1, 0, (call.queued,))
    if call.requested is not None:
        dims = without_agent(call.dims(call.requested))
        sink.add("callback_ratio", call.requested.at, dims, 0, 1, (call.requested,))
        if call.called_back is not None and call.called_back.order > call.requested.order:
            why = (call.requested, call.called_back)
            at = call.called_back.at
            sink.time("callback_ratio:time_to_callback", at, dims, at - call.requested.at, why)


def contact(call: Call, rules: Rules, sink: Sink) -> None:
    """The call as a contact, where it started."""
    first = call.queued or next((e for e in call.entries if e.type.startswith("call.")), None)
    if first is not None:
        sink.add("contacts", first.at, without_agent(call.dims(None)), 1, 1, (first,))


DEFINITIONS = (
    Definition(
        "service_level_ratio", "Share of calls answered within 20 s", "answered ≤ 20 s / (answered + abandoned)", "1",
        "up", "answered or abandoned", NO_AGENT, Shape.ratio, ((Entity.call, answers),),
        benchmark="80/20", benchmark_source="industry",
    ),
    Definition(
        "asa", "Average speed of answer", "answered − queued", "s", "down", "answered", ALL, Shape.mean,
        histogram=True,
    ),
    Definition(
        "abandonment_ratio", "Share of calls given up in the queue (after 5 s or more)",
        "abandoned / (answered + abandoned); call-backs and overflow excluded", "1", "down", "abandoned or answered",
        NO_AGENT, Shape.ratio,
    ),
    Definition(
        "short_abandons", "Calls given up within 5 s", "Σ abandoned < 5 s", "n", "none", "abandoned", NO_AGENT,
        Shape.counted,
    ),
    Definition(
        "time_to_abandon", "Wait of callers who gave up", "abandoned − queued", "s", "none", "abandoned", NO_AGENT,
        Shape.mean, histogram=True,
    ),
    Definition(
        "patience_600s_ratio", "Share of callers whose patience ends within 600 s, answered ones counted as censored",
        "1 − Kaplan–Meier survival of waits at the threshold", "1", "down", "leaving the queue", NO_AGENT,
        Shape.special, ((Entity.call, patience),), parameters={"threshold_s": ()},
        benchmark="53% quit after 10 min", benchmark_source="2",
    ),
    Definition(
        "hold_time", "Time on hold of an answered call", "Σ hold per answered call", "s", "down", "ended", ALL,
        Shape.mean, histogram=True, benchmark="some refuse 1 min", benchmark_source="2",
    ),
    Definition(
        "callback_ratio", "Share of queued calls that asked for a call-back; time_to_callback: how long it took",
        "callback.requested / queued", "1", "none", "requested", NO_AGENT, Shape.ratio, ((Entity.call, callbacks),),
        parameters={"variant": ("time_to_callback",)}, ttl_s=86_400, benchmark="named without a figure",
        benchmark_source="2",
    ),
)  # fmt: skip
