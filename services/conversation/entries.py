"""Entries: the lines of a timeline, as rows, as API answers and as records of the timeline topic."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from services.conversation.facts import Facts, facts_from
from services.conversation.markup import sanitised
from services.conversation.policy import Policy
from services.conversation.stitching import Placement
from shared.entry_ids import entry_id_of
from shared.events import (
    COMINGS_AND_GOINGS,
    DERIVED_SOURCE,
    FAMILY,
    KEPT_FILES,
    PROVIDER_TIMES,
    TYPE_PREFIX,
    InboundEvent,
    TimelineRecord,
    rfc3339,
)
from shared.quoting import split_reply

_OWN_FIELDS = frozenset(
    {"channel", "customer", "actor", "message_id", "contact_id", "conversation_id", "thread", "headers", "subject",
     "text", "html", "language", "topic", "attachments", "extra"}
)  # fmt: skip
_CALL_FIELDS = (
    "queue", "ivr_session", "agent_id", "wait_s", "hold_s", "wrap_s", "duration_s", "talk_s", "to_queue", "outcome",
)  # fmt: skip
_SURVEY_FIELDS = ("survey_id", "metric", "kind", "kinds", "score", "scale", "comment")
_DELIVERY_FIELDS = ("status", "error", "error_code", "reason_code")
_TEXTS = frozenset({"text", "html", "quoted_text", "attachments", "headers"})


class Entry(NamedTuple):
    """One stored line. `conversation_id` is the one it was placed in, before merges of conversations."""

    tenant: str
    entry_id: UUID
    occurred_at: datetime
    received_at: datetime
    recorded_at: datetime
    leaf_id: UUID
    conversation_id: UUID | None
    cause_id: UUID | None
    version: int
    automatic: bool
    by_conversation: bool
    source: str
    event_id: str
    type: str
    channel: str | None
    contact_id: str | None
    region: str | None
    rule: str
    stitch_key: str | None
    digest: bytes
    new_text: str | None
    quoted_text: str | None
    html: str | None
    data: dict[str, Any]

    @property
    def derived(self) -> bool:
        return self.cause_id is not None

    def event(self) -> InboundEvent:
        """Return the event that this entry was made from."""
        return InboundEvent(
            tenant=self.tenant,
            source=self.source,
            id=self.event_id,
            type=self.type,
            occurred_at=self.occurred_at,
            received_at=self.received_at,
            data=self.data,
            region=self.region,
        )

    def facts(self, policy: Policy) -> Facts:
        """Read the event again under `policy`."""
        order = (self.occurred_at, self.source, self.event_id)
        return facts_from(self.entry_id, order, self.type, self.region, self.data, policy)

    @property
    def place(self) -> tuple[UUID, UUID | None, str, str | None, bool, bool]:
        """Return what `moved` may change, in its order."""
        return self.leaf_id, self.conversation_id, self.rule, self.stitch_key, self.automatic, self.by_conversation

    def moved(
        self,
        leaf_id: UUID,
        conversation_id: UUID | None,
        rule: str,
        key: str | None,
        automatic: bool,
        *,
        by_conversation: bool,
    ) -> Entry:
        """Return the next version of this entry, placed elsewhere."""
        return self._replace(
            leaf_id=leaf_id,
            conversation_id=conversation_id,
            rule=rule,
            stitch_key=key,
            automatic=automatic,
            by_conversation=by_conversation,
            version=self.version + 1,
        )


COLUMNS = Entry._fields
"""Attribute names in the order of the table's columns; `tenant` is its tenant_id."""


def digest_of(event: InboundEvent) -> bytes:
    """Return a digest of what the sender said, to tell a repetition from other content under the same id.

    Where the sender told no time, the time of receipt is none of what was said: it is another at each repetition.
    """
    untold = event.data.get("time_estimated") is True or event.occurred_at == event.received_at
    told = None if untold else rfc3339(event.occurred_at)
    data = event.data
    if not data.keys().isdisjoint(PROVIDER_TIMES):
        # It says `told` once more; events from before it was kept are to be known again.
        data = {name: value for name, value in data.items() if name not in PROVIDER_TIMES}
    if data.get("attachments"):
        # Likewise for events from before files were kept.
        data = {**data, "attachments": _as_said(data["attachments"])}
    said = (event.type, told, data)
    return blake2b(orjson.dumps(said, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def _as_said(attachments: Any) -> Any:
    """Return attachments without the URLs that ingest gave them: no sender said those."""
    if not isinstance(attachments, list):
        return attachments
    return [
        {name: value for name, value in one.items() if name != "url"}
        if isinstance(one, dict) and str(one.get("url")).startswith(KEPT_FILES)
        else one
        for one in attachments
    ]


def made_from(
    event: InboundEvent,
    facts: Facts,
    leaf_id: UUID,
    placement: Placement,
    recorded_at: datetime,
    digest: bytes,
    *,
    by_conversation: bool,
) -> Entry:
    """Make the entry of a new event. `by_conversation`: nothing in it says whose it is, its conversation does."""
    new_text, quoted_text = _texts(event, facts)
    html = event.data.get("html")
    return Entry(
        tenant=event.tenant,
        entry_id=facts.entry_id,
        occurred_at=event.occurred_at,
        received_at=event.received_at,
        recorded_at=recorded_at,
        leaf_id=leaf_id,
        conversation_id=placement.conversation_id,
        cause_id=None,
        version=1,
        automatic=facts.automatic,
        by_conversation=by_conversation,
        source=event.source,
        event_id=event.id,
        type=event.type,
        channel=facts.channel,
        contact_id=facts.contact,
        region=event.region,
        rule=placement.rule,
        stitch_key=placement.key,
        digest=digest,
        new_text=new_text,
        quoted_text=quoted_text,
        html=sanitised(html) if isinstance(html, str) and html else None,
        data=event.data,
    )


def _texts(event: InboundEvent, facts: Facts) -> tuple[str | None, str | None]:
    text = event.data.get("text")
    if facts.channel != "email" or not facts.is_message or not isinstance(text, str):
        return None, None
    new, quoted = split_reply(text, event.data.get("subject"))
    return (new, quoted) if quoted else (None, None)


def derived(cause: Entry, kind: str, data: dict[str, Any], secret: bytes, owner_leaf: UUID) -> Entry:
    """Make an entry that follows from another: `kind` is e.g. `conversation.opened`."""
    event_id = f"{kind}:{cause.entry_id}"
    return cause._replace(
        entry_id=entry_id_of(secret, cause.tenant, DERIVED_SOURCE, event_id),
        leaf_id=owner_leaf,
        cause_id=cause.entry_id,
        version=1,
        automatic=True,
        by_conversation=True,
        source=DERIVED_SOURCE,
        event_id=event_id,
        type=TYPE_PREFIX + kind,
        rule="derived",
        stitch_key=None,
        digest=b"",
        new_text=None,
        quoted_text=None,
        html=None,
        data=data,
    )


def direction_of(type_: str, actor: str | None) -> str:
    """Return `in` for what the customer did, `out` for what reached the customer, else `internal`."""
    kind = type_.removeprefix(TYPE_PREFIX)
    if kind in ("message.sent", "acknowledgement.sent", "survey.sent", "bot.answered"):
        return "out"
    if kind in COMINGS_AND_GOINGS:
        return "in"
    if kind.startswith(("message.", "survey.answered", "call.", "callback.", "selfservice.", "remedy.")):
        return "out" if actor in ("agent", "bot") and kind.startswith("message.") else "in"
    return "internal"


@lru_cache(maxsize=1024)
def _nature(type_: str, actor: str | None) -> tuple[str, str | None]:
    """Return the direction of an entry, and which of `call`, `survey` and `delivery` it tells of."""
    kind = type_.removeprefix(TYPE_PREFIX)
    family = kind.partition(".")[0]
    about = family if family in ("call", "survey") else "delivery" if kind == "message.status" else None
    return direction_of(type_, actor), about


def _picked(data: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any] | None:
    return {name: data[name] for name in fields if data.get(name) is not None} or None


def extra_of(data: dict[str, Any]) -> dict[str, Any]:
    """Return what a sender gave beyond the known fields."""
    known = data.keys() <= _OWN_FIELDS  # most are, and this is asked for every entry of a page
    extra = {} if known else {name: value for name, value in data.items() if name not in _OWN_FIELDS}
    given = data.get("extra")
    if isinstance(given, dict):
        extra.update(given)
    elif given is not None:
        extra["extra"] = given
    return extra


LINE = (
    "entry_id", "occurred_at", "recorded_at", "conversation_id", "derived", "version", "source", "event_id", "type",
    "channel", "contact_id", "rule", "stitch_key", "new_text", "quoted_text", "html", "data",
)  # fmt: skip
"""As much of an entry as is shown: a reader's page is spared the rest."""

_BLANK: dict[str, Any] = dict.fromkeys((
    "id", "event_id", "source", "type", "occurred_at", "recorded_at", "channel", "family", "contact_id",
    "conversation_id", "stitched", "version", "direction", "actor", "handle", "subject", "text", "quoted_text", "html",
    "attachments", "call", "survey", "delivery",
))  # fmt: skip


def shown(line: Sequence[Any], extra: dict[str, Any] | None) -> dict[str, Any]:
    """Return an entry as the API gives it, without `extra` and what depends on the reader (`via`, `customer_id`).

    `line`: LINE, its id as text and its times as RFC 3339; the conversation that its own is part of, as text; whether
    an agent joined its own whole into another. `extra` is looked for only if something needs it where it is None.
    """
    (
        entry_id, occurred_at, recorded_at, conversation_id, derived, version, source, event_id, type_,
        channel, contact_id, rule, stitch_key, new_text, quoted_text, html, data, canonical_id, joined_whole,
    ) = line  # fmt: skip
    actor, customer = data.get("actor"), data.get("customer")
    direction, about = _nature(type_, actor.get("type") if actor else None)
    if joined_whole and not derived:
        rule, stitch_key = "joined", f"conversation:{conversation_id}"
    # A copy of what is the same for all costs a fifth less than a new dict: this is half of what is done for a page.
    said = _BLANK.copy()
    said["id"] = entry_id
    said["event_id"] = event_id
    said["source"] = source
    said["type"] = type_
    said["occurred_at"] = occurred_at
    said["recorded_at"] = recorded_at
    said["channel"] = channel
    said["family"] = FAMILY.get(channel, channel) if channel else None
    said["contact_id"] = contact_id
    said["conversation_id"] = canonical_id
    said["stitched"] = {"rule": rule, "key": stitch_key}
    said["version"] = version
    said["direction"] = direction
    said["actor"] = actor
    if customer and (handles := customer.get("handles")):
        said["handle"] = f"{handles[0]['kind']}:{handles[0]['value']}"
    said["subject"] = data.get("subject")
    said["text"] = data.get("text") if new_text is None else new_text
    said["quoted_text"] = quoted_text
    said["html"] = html
    said["attachments"] = data.get("attachments") or []
    if about is not None:
        said[about] = _told_of(about, data, extra)
    return said


def _told_of(about: str, data: dict[str, Any], extra: dict[str, Any] | None) -> dict[str, Any] | None:
    if about == "call":
        return _picked(data, _CALL_FIELDS)
    if about == "survey":
        return _picked(data, _SURVEY_FIELDS)
    return _picked({**data, **(extra_of(data) if extra is None else extra)}, _DELIVERY_FIELDS)


def record_of(
    entry: Entry, recorded_at: datetime, *, deleted: bool = False, version: int | None = None
) -> TimelineRecord:
    """Return the entry as a record of the timeline topic, where this version of it is recorded at `recorded_at`."""
    if deleted:
        # Whoever was told of it must hear that it is gone, so what it was is said, and nothing of what was in it.
        about = {"type": entry.type, "channel": entry.channel, "source": entry.source}
        body: dict[str, Any] = {"id": str(entry.entry_id), "leaf_id": str(entry.leaf_id), **about}
    else:
        body = _body(entry)
        body["leaf_id"] = str(entry.leaf_id)
        body["automatic"] = entry.automatic
        body["received_at"] = rfc3339(entry.received_at)
        body["topic"] = entry.data.get("topic")
        body["language"] = entry.data.get("language")
        data = entry.data
        without = data if _TEXTS.isdisjoint(data) else {n: value for n, value in data.items() if n not in _TEXTS}
        body["data"] = without
    return TimelineRecord(
        tenant=entry.tenant,
        kind="entry",
        key=str(entry.entry_id),
        version=version or entry.version,
        body=body,
        deleted=deleted,
        recorded_at=recorded_at,
    )


def _body(entry: Entry) -> dict[str, Any]:
    placed = str(entry.conversation_id) if entry.conversation_id else None
    line = (
        str(entry.entry_id),
        rfc3339(entry.occurred_at),
        rfc3339(entry.recorded_at),
        entry.conversation_id,
        entry.derived,
        entry.version,
        entry.source,
        entry.event_id,
        entry.type,
        entry.channel,
        entry.contact_id,
        entry.rule,
        entry.stitch_key,
        entry.new_text,
        entry.quoted_text,
        entry.html,
        entry.data,
    )
    return shown((*line, placed, False), None)
