"""An entry of the timeline in the compact form that KPIs are computed from.

`compact` keeps of an entry what some KPI reads and nothing else (no texts, no names, no addresses). Times are
microseconds since 1970 UTC as integers: sums of integers are exact, so a recount agrees to the last digit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from shared.anonymity import KEPT
from shared.errors import Rejected
from shared.events import TYPE_PREFIX, parse_rfc3339
from shared.instants import SECOND as SECOND
from shared.instants import instant as instant
from shared.instants import micros as micros

HOUR = 3600 * SECOND

_LONGEST_S = 10 * 366 * 86_400
_MOST_MINOR = 10**15

UNKNOWN = object()


class Entry:
    """One posted entry. `type` is without the prefix; `agent` and `team` are those of a human agent."""

    __slots__ = (
        "agent", "at", "automatic", "bot", "channel", "contact", "conversation", "data", "event_id", "human", "id",
        "language", "leaf", "order", "part", "recorded", "segment", "source", "team", "topic", "type",
    )  # fmt: skip

    def __init__(
        self,
        id: str,
        at: int,
        source: str,
        event_id: str,
        type: str,
        channel: str | None,
        contact: str | None,
        conversation: str | None,
        leaf: str | None,
        recorded: int,
        automatic: bool,
        human: bool,
        bot: bool,
        agent: str | None,
        team: str | None,
        topic: str | None,
        language: str | None,
        segment: str | None,
        data: dict[str, Any],
    ) -> None:
        self.id = id
        self.at = at
        self.source = source
        self.event_id = event_id
        self.type = type
        self.channel = channel
        self.contact = contact
        self.conversation = conversation
        self.leaf = leaf
        self.recorded = recorded
        self.automatic = automatic
        self.human = human
        self.bot = bot
        self.agent = agent
        self.team = team
        self.topic = topic
        self.language = language
        self.segment = segment
        self.data = data
        self.order = (at, source, event_id)
        self.part: Any = UNKNOWN
        """The call, survey, agent or amount it is part of, once evaluation.group_of has looked."""

    def pack(self) -> list[Any]:
        """Return what `unpack` reads back, ready for JSON; conversation and leaf are stored beside it."""
        return [
            self.id, self.at, self.source, self.event_id, self.type, self.channel, self.contact, self.conversation,
            self.leaf, self.recorded, self.automatic, self.human, self.bot, self.agent, self.team, self.topic,
            self.language, self.segment, self.data,
        ]  # fmt: skip


def unpack(packed: list[Any]) -> Entry:
    """Return the entry that `pack` wrote."""
    return Entry(*packed)


def compact(body: Mapping[str, Any]) -> Entry:
    """Read the body of a timeline record of kind "entry". Raises Rejected with what is wrong with it."""
    try:
        return _compact(body)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Rejected(f"the entry cannot be read: {type(error).__name__} {error}") from error


def _compact(body: Mapping[str, Any]) -> Entry:
    data: dict[str, Any] = body.get("data") or {}
    actor: dict[str, Any] = body.get("actor") or {}
    kind = actor.get("type")
    type_ = body["type"].removeprefix(TYPE_PREFIX)
    channel = text(body.get("channel"))
    if channel is None and type_.startswith("call."):
        channel = "phone"
    agent = text(actor.get("id")) if kind == "agent" else None
    occurred = micros(parse_rfc3339(body["occurred_at"]))
    recorded = body.get("recorded_at")
    return Entry(
        body["id"],
        occurred,
        body["source"],
        body["event_id"],
        type_,
        channel,
        name(body.get("contact_id")),
        body.get("conversation_id"),
        body.get("leaf_id"),
        micros(parse_rfc3339(recorded)) if recorded else occurred,
        bool(body.get("automatic")) or kind == "automated",
        kind == "agent" or (kind is None and not body.get("automatic")),
        kind == "bot",
        agent or text(data.get("agent_id")),
        text(actor.get("team")) or text(data.get("team_id")) or text(data.get("team")),
        text(body.get("topic")),
        text(body.get("language")),
        _segment(data),
        {name: value for name, value in data.items() if name in KEPT and value is not None},
    )


def _segment(data: Mapping[str, Any]) -> str | None:
    own = text(data.get("segment"))
    if own is not None:
        return own
    customer = data.get("customer")
    attributes = customer.get("attributes") if isinstance(customer, dict) else None
    return text(attributes.get("segment")) if isinstance(attributes, dict) else None


LABEL_LENGTH = 100
"""Characters of a label that count: five of them and a tenant fit into one row of an index."""


def text(value: Any) -> str | None:
    """Return a label: a non-empty text of at most 100 characters, a number as text, anything else None."""
    if value is None:
        return None
    if isinstance(value, str):
        if "\0" in value:  # which PostgreSQL cannot hold
            value = value.replace("\0", "\ufffd")
        return value[:LABEL_LENGTH] or None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return None


def name(value: Any) -> str | None:
    """Return a name given by a sender (a contact, a survey); one that is too long is told apart by its digest."""
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        return None
    found = str(value).replace("\0", "\ufffd")
    if len(found) <= NAME_LENGTH:
        return found
    return found[: NAME_LENGTH - 33] + "#" + hashlib.blake2b(found.encode(), digest_size=16).hexdigest()


NAME_LENGTH = 300


def seconds(data: Mapping[str, Any], name: str) -> int | None:
    """Return the field `name`, given in seconds, in microseconds; None where it is no duration of 0 s to 10 years."""
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST_S:
        return None
    return value * SECOND if isinstance(value, int) else round(value * SECOND)


def minor(data: Mapping[str, Any], name: str = "amount_minor") -> int | None:
    """Return an amount of money in minor units; None where it is none."""
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_MOST_MINOR < value < _MOST_MINOR:
        return None
    return round(value)


def when(data: Mapping[str, Any], name: str) -> int | None:
    """Return the RFC 3339 instant in the field `name` in microseconds; None where there is none."""
    value = data.get(name)
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
        return micros(at if at.tzinfo else at.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None
