"""What stays of an erased entry: the numbers and labels that KPIs are made of, and nothing that tells whose."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

KEPT = frozenset({
    "score", "scale", "survey_id", "metric", "kind", "kinds", "hold_s", "wrap_s", "handle_s", "duration_s",
    "from_channel", "to_channel", "from_contact", "to_contact", "session_id", "outcome", "sentiment",
    "suggestion_id", "sections", "system", "field", "amount_minor", "currency", "period_start", "period_end",
    "period", "exposure", "waiting_on", "to_agent", "to_team", "fcr_eligible", "state", "open", "device",
    "ivr_session", "corrects_event_id", "initiator", "wait_s", "time_estimated", "told_late", "hold", "leg", "left",
})  # fmt: skip
"""Fields of posted data that a KPI reads."""

_NAMES = frozenset({
    "survey_id", "from_contact", "to_contact", "session_id", "suggestion_id", "ivr_session", "corrects_event_id",
})  # fmt: skip
"""Those of them that name something: they keep that two are equal, and lose which."""

_LABELS = ("segment", "agent_id", "team_id", "team")
_SHOWN = (
    "id", "type", "occurred_at", "recorded_at", "received_at", "channel", "family", "conversation_id", "version",
    "direction", "leaf_id", "automatic",
)  # fmt: skip


def anonymous(
    body: Mapping[str, Any], event_id: str, pseudonym: Callable[[str], str], telling: Collection[str]
) -> dict[str, Any]:
    """Return the body of a timeline record of kind "entry" without whatever tells whose it was.

    `event_id` takes the place of the event's own, `pseudonym` that of any other name that the sender gave; a label
    with one of `telling` (handles and names of the person) as a word in it goes.
    """

    words = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in telling) or "(?!)", re.IGNORECASE)

    def harmless(value: Any) -> bool:
        return not isinstance(value, str) or words.search(value) is None

    def kept(name: str, value: Any) -> Any:
        if name in _NAMES and isinstance(value, str | int) and not isinstance(value, bool):
            return pseudonym(str(value))
        if isinstance(value, list):
            return [item for item in value if isinstance(item, str | int | float) and harmless(item)]
        return value if isinstance(value, str | int | float) and harmless(value) else None

    data = body.get("data") or {}
    left = {name: kept(name, value) for name, value in data.items() if name in KEPT or name in _LABELS}
    attributes = (data.get("customer") or {}).get("attributes")
    segment = attributes.get("segment") if isinstance(attributes, dict) else None
    if segment is not None and harmless(segment):
        left.setdefault("segment", segment)
    actor = body.get("actor") or {}
    ours = actor.get("type") in ("agent", "bot", "automated")
    contact = body.get("contact_id")
    source = body["source"]
    return {
        **{name: body.get(name) for name in _SHOWN},
        **{name: body.get(name) for name in ("topic", "language") if harmless(body.get(name))},
        "event_id": event_id,
        "source": source if harmless(source) else pseudonym(source),
        "contact_id": pseudonym(str(contact)) if contact else None,
        "actor": {name: actor.get(name) for name in (("type", "id", "team") if ours else ("type",))} if actor else None,
        "data": {name: value for name, value in left.items() if value is not None},
    }
