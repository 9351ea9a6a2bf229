"""The brief for whoever picks up: assembled from entries alone, without a model, and pure.

Entries come in as the API renders them, oldest first; see services/conversation/entries.py for their shape.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from shared.events import DERIVED_SOURCE, TYPE_PREFIX

Shown = dict[str, Any]

RECENT = 20
"""Entries that the brief shows at its end unless asked otherwise."""


def summary(
    conversation: dict[str, Any] | None,
    entries: Sequence[Shown],
    topics: Sequence[str] = (),
    surveys: Sequence[Shown] = (),
    automatic: Collection[str] = (),
) -> dict[str, Any]:
    """Return what happened so far in one conversation, given its entries, oldest first.

    `topics` and `surveys` (entries, oldest first) are the customer's, whatever conversation they belong to.
    `automatic` are the ids of entries that a machine wrote in the customer's name.
    """
    said = [entry for entry in entries if not _is(entry, "conversation.opened")]
    question = last_question([entry for entry in said if entry["id"] not in automatic])
    waiting_since = conversation["waiting_since"] if conversation else None
    return {
        "channels": conversation["channels"] if conversation else [],
        "started_at": conversation["opened_at"] if conversation else None,
        "waiting_since": waiting_since,
        "last_customer_question": question,
        "unanswered": question is not None and waiting_since is not None,
        "asked": asked(said),
        "promises": [entry for entry in said if _is(entry, "callback.requested") or _is_promise(entry)],
        "agents": agents(said),
        "transfers": [_transfer(entry) for entry in said if _is(entry, "conversation.transferred")],
        "escalations": escalations(said),
        "surveys": [_survey(entry) for entry in surveys],
        "topics": list(topics),
    }


def last_question(entries: Sequence[Shown]) -> Shown | None:
    """Return the last message of the customer that no person has answered, or else their last message."""
    messages = [entry for entry in entries if from_customer(entry)]
    return messages[-1] if messages else None


def from_customer(entry: Shown) -> bool:
    """Tell whether a customer wrote it (machines that answer for them do not count)."""
    return _is(entry, "message.received") and (entry["actor"] or {}).get("type") not in ("automated", "bot")


def asked(entries: Iterable[Shown]) -> list[dict[str, Any]]:
    """Return which fields the customer was already asked for, and when for the first time."""
    first: dict[str, str] = {}
    for entry in entries:
        field = entry["extra"].get("field")
        if _is(entry, "info.requested") and isinstance(field, str):
            first.setdefault(field, entry["occurred_at"])
    return [{"field": field, "at": at} for field, at in first.items()]


def agents(entries: Iterable[Shown]) -> list[dict[str, Any]]:
    """Return the agents who took part, the last one first. Who only decided what belongs together did not."""
    latest: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry["source"] == DERIVED_SOURCE:
            continue
        actor = entry["actor"] or {}
        id_ = actor.get("id") if actor.get("type") == "agent" else (entry["call"] or {}).get("agent_id")
        if isinstance(id_, str) and id_:
            before = latest.pop(id_, {})
            latest[id_] = {
                "id": id_,
                "name": actor.get("name") or before.get("name"),
                "team": actor.get("team") or before.get("team"),
                "last_at": entry["occurred_at"],
            }
    return list(reversed(latest.values()))


def escalations(entries: Sequence[Shown]) -> list[dict[str, Any]]:
    """Return the changes of channel; each is acknowledged when an agent first acts on the new channel."""
    found = []
    for index, entry in enumerate(entries):
        if not _is(entry, "conversation.escalated"):
            continue
        to_channel = entry["extra"].get("to_channel")
        picked_up = next((later for later in entries[index + 1 :] if _picks_up(later, to_channel)), None)
        found.append(
            {
                "from_channel": entry["extra"].get("from_channel"),
                "to_channel": to_channel,
                "reason": entry["extra"].get("reason") or entry["text"],
                "at": entry["occurred_at"],
                "acknowledged_at": picked_up["occurred_at"] if picked_up else None,
            }
        )
    return found


def _is(entry: Shown, kind: str) -> bool:
    return bool(entry["type"] == TYPE_PREFIX + kind)


def _is_promise(entry: Shown) -> bool:
    """An agent's message that its sender marked as one: nobody guesses promises from words."""
    return _is(entry, "message.sent") and bool(entry["extra"].get("promise"))


def _picks_up(entry: Shown, channel: str | None) -> bool:
    acts = _is(entry, "call.answered") or (_is(entry, "message.sent") and (entry["actor"] or {}).get("type") == "agent")
    looks = _is(entry, "agent.context_viewed")
    return looks or (acts and (channel is None or entry["channel"] == channel))


def _transfer(entry: Shown) -> dict[str, Any]:
    return {
        "from": entry["extra"].get("from"),
        "to": entry["extra"].get("to"),
        "reason": entry["extra"].get("reason"),
        "at": entry["occurred_at"],
    }


def _survey(entry: Shown) -> dict[str, Any]:
    return {**(entry["survey"] or {}), "at": entry["occurred_at"]}
