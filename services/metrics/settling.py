"""What several deliveries tell of one call, put together: a function of the set of entries, in whatever order.

Adapters see one delivery at a time, so some of what they say needs the rest of the call to be read. `told_late` marks
what was told after it had happened and with no time of its own (a wait, once the talk is over), or what another
delivery tells better; `left` the leg of a conference that went. Times here are microseconds, as in entries.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.metrics.entries import Entry, seconds, unpack


def settled(ordered: Sequence[Entry]) -> Sequence[Entry]:
    """Return entries, sorted by time, with what was told late of calls settled; mostly the very same ones."""
    late = {e.contact for e in ordered if "told_late" in e.data or "left" in e.data}
    late.discard(None)
    if not late:
        return ordered
    found = [e for e in ordered if e.contact not in late]
    for contact in late:
        found.extend(_call([e for e in ordered if e.contact == contact]))
    found.sort(key=_order)
    return found


def _order(entry: Entry) -> tuple[int, str, str]:
    return entry.order


def is_late(entry: Entry) -> bool:
    """Whether an entry says what happened before, at a time that is only when it was told."""
    return entry.data.get("told_late") is True


def _call(entries: Sequence[Entry]) -> list[Entry]:
    """Drop what was told late of what another entry tells at its time; put the rest where it must have been."""
    timely = {e.type for e in entries if not is_late(e)}
    kept = [e for e in entries if not (is_late(e) and e.type in timely)]
    return _handed_over(sorted(_in_their_time(kept), key=_order))


def _in_their_time(entries: Sequence[Entry]) -> list[Entry]:
    answered = next((e for e in entries if e.type == "call.answered"), None)
    queued = next((e for e in entries if e.type == "call.queued"), None)
    waits = (seconds(e.data, "wait_s") for e in (answered, queued) if e is not None and is_late(e))
    wait = next((told for told in waits if told is not None), None)
    if answered is None or wait is None:
        return list(entries)
    at = answered.at
    if is_late(answered):
        at = min(at, _answered_at(entries, queued, wait))
    moves = {id(answered): at}
    if queued is not None and is_late(queued):
        moves[id(queued)] = at - wait
    return [_moved(e, moves[id(e)]) if id(e) in moves else e for e in entries]


def _answered_at(entries: Sequence[Entry], queued: Entry | None, wait: int) -> int:
    """Return when a call was answered after waiting so long: counted from its queueing, else back from its end.

    Where only the end is known, the call is taken to have queued from its first second on.
    """
    if queued is not None and not is_late(queued):
        return queued.at + wait
    ends = [(e.at, seconds(e.data, "duration_s")) for e in entries if e.type == "call.ended"]
    return min((at - max(0, lasted - wait) for at, lasted in ends if lasted is not None), default=2**62)


def _moved(entry: Entry, at: int) -> Entry:
    if at == entry.at:
        return entry
    moved = unpack(entry.pack())
    moved.at = at
    moved.order = (at, entry.source, entry.event_id)
    return moved


def _handed_over(ordered: Sequence[Entry]) -> list[Entry]:
    """Let an agent's going from a call which another one carries on be the transfer that it is."""
    answers: dict[str, Entry] = {}
    ends: dict[str, Entry] = {}
    for entry in ordered:
        leg = entry.data.get("leg")
        if isinstance(leg, str) and entry.type == "call.answered":
            answers.setdefault(leg, entry)
        elif isinstance(leg, str) and entry.data.get("left") is True:
            ends[leg] = entry
    transfers = {}
    for leg, end in ends.items():
        staying = (other for other in answers if other != leg)
        if leg in answers and any(other not in ends or ends[other].order > end.order for other in staying):
            transfers[id(end)] = _transfer(end, answers[leg])
    return [transfers.get(id(e), e) for e in ordered]


def _transfer(leaving: Entry, answered: Entry) -> Entry:
    transfer = unpack(leaving.pack())
    transfer.type = "conversation.transferred"
    transfer.agent, transfer.team = answered.agent, answered.team
    return transfer
