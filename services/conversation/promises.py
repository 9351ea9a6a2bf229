"""What a conversation was promised, and until when: the agreement in force at its opening. Pure.

It counts as KPIs do (docs/kpis.md): a person's message or an answered call is a reply, a resolution is paused while it
is the customer's turn, and who was written to first was promised nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.business import Rules, due, used_up
from shared.events import TYPE_PREFIX, rfc3339
from shared.instants import instant, micros

STEPS = tuple(
    TYPE_PREFIX + kind
    for kind in (
        "message.received", "message.sent", "call.answered", "conversation.pending", "conversation.resolved",
        "conversation.reopened",
    )
)  # fmt: skip
"""Types of the entries that change whose turn it is."""

REOPEN_WITHIN = 28 * 86_400_000_000

NOTHING: dict[str, Any] = {"first_reply_due_at": None, "resolution_due_at": None, "breached": False}


@dataclass(frozen=True, slots=True)
class Step:
    """One entry as far as promises go. `waiting_on` is that of `conversation.pending`."""

    occurred_at: datetime
    type: str
    actor: str | None = None
    waiting_on: str | None = None


def promised(rules: Rules, opened_at: datetime, steps: Sequence[Step], now: datetime) -> dict[str, Any]:
    """Return `sla` of a conversation with these steps, in the order in which they happened."""
    start = micros(opened_at)
    sla = rules.sla_at(start)
    messages = [step for step in steps if step.type.startswith(f"{TYPE_PREFIX}message.")]
    if sla is None or (messages and _by_person(messages[0]) and messages[0] is steps[0]):
        return NOTHING
    reply_due = due(rules, sla, start, sla.first_reply) if sla.first_reply is not None else None
    replied = next((micros(step.occurred_at) for step in steps if _is_reply(step)), None)
    resolution_due = None
    if sla.resolution is not None:
        turns, resolved = _turns(start, steps)
        resolution_due = used_up(rules, sla, turns, resolved)
    late = reply_due is not None and (micros(now) if replied is None else replied) > reply_due
    return {
        "first_reply_due_at": _shown(reply_due),
        "resolution_due_at": _shown(resolution_due),
        "breached": late or (resolution_due is not None and resolution_due < micros(now)),
    }


def _by_person(step: Step) -> bool:
    return step.type == f"{TYPE_PREFIX}message.sent" and step.actor == "agent"


def _is_reply(step: Step) -> bool:
    return _by_person(step) or step.type == f"{TYPE_PREFIX}call.answered"


def _turns(start: int, steps: Iterable[Step]) -> tuple[list[tuple[int, int | None]], int | None]:
    """Return the spans in which it was our turn, and the first resolution."""
    turns: list[tuple[int, int | None]] = []
    ours: int | None = start
    first: int | None = None
    resolved: int | None = None
    for step in steps:
        at, kind = micros(step.occurred_at), step.type.removeprefix(TYPE_PREFIX)
        if kind == "conversation.resolved" and resolved is None:
            resolved = at
            first = first if first is not None else at
            theirs = True
        elif kind == "conversation.reopened" and resolved is not None:
            resolved, theirs = None, False
        elif kind == "message.received":
            resolved, theirs = (None if _may_reopen(resolved, at) else resolved), False
        elif kind == "conversation.pending" and resolved is None:
            theirs = step.waiting_on == "customer"
        elif _is_reply(step) and resolved is None:
            theirs = True
        else:
            continue
        if theirs and ours is not None:
            turns.append((ours, at))
        ours = None if theirs else at if ours is None else ours
    return [*turns, (ours, None)] if ours is not None else turns, first


def _may_reopen(resolved: int | None, at: int) -> bool:
    return resolved is None or at - resolved <= REOPEN_WITHIN


def _shown(at: int | None) -> str | None:
    return rfc3339(instant(at)) if at is not None else None
