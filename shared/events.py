"""The only contract between services: what the inbound and the timeline topic carry.

Both topics carry CloudEvents 1.0 (structured JSON). Inbound: one accepted event each. Timeline: a changelog of
entries (whole, versioned), of leaves (leaf → customer) and of conversations (conversation → canonical conversation).
A reader that keeps the newest version of each has the truth.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from shared.errors import Rejected

TYPE_PREFIX = "threadline."

MADE_HERE = frozenset({"customer.merged", "customer.unmerged", "schedule.changed", "policy.changed"})
"""Event types that Threadline makes and nobody may post."""

COMINGS_AND_GOINGS = frozenset({"customer.subscribed", "customer.unsubscribed", "customer.entered", "customer.left"})
"""What a customer does on a channel without saying anything: allows or forbids that one writes to them (follow, block,
opt-in), enters a place where one meets them (opens the chat, comes by a link or code, joins a group) or leaves it. On
the timeline; no message, no activity in a conversation, nothing that a KPI counts."""

PROVIDER_TIMES = frozenset({"provider_time", "provider_time_s", "provider_time_ms"})
"""Fields of the data in which a channel adapter keeps the provider's time as it was written, each with its unit."""

POSTED = COMINGS_AND_GOINGS | frozenset(
    {
        "message.received", "message.sent", "message.status", "message.edited", "message.deleted", "message.reacted",
        "acknowledgement.sent",
        "conversation.opened", "conversation.assigned", "conversation.transferred", "conversation.escalated",
        "conversation.pending", "conversation.resolved", "conversation.reopened", "conversation.merged",
        "call.queued", "call.answered", "call.held", "call.abandoned", "call.overflowed", "call.ended",
        "callback.requested", "callback.completed", "ivr.ended",
        "survey.sent", "survey.answered",
        "bot.answered", "bot.handed_over",
        "selfservice.viewed", "selfservice.deflected",
        "agent.joined", "agent.left", "agent.status", "agent.context_viewed", "agent.blocked",
        "info.requested", "suggestion.offered", "suggestion.accepted",
        "channel.availability", "cost.recorded", "revenue.recorded",
        "customer.started", "customer.churned", "customer.identified",
        "remedy.chosen",
    }
)  # fmt: skip
"""Event types (without the prefix) that an integration may post."""

FAMILY = {
    "chat": "chat", "web": "chat", "slack": "chat", "teams": "chat",
    "email": "email",
    "phone": "phone",
    "sms": "social", "whatsapp": "social", "messenger": "social", "instagram": "social", "telegram": "social",
    "x": "social", "line": "social", "viber": "social", "wechat": "social", "social": "social",
    "self_service": "self_service", "portal": "self_service", "search": "self_service", "app": "self_service",
}  # fmt: skip
"""Channel → family. A channel that is not listed is its own family."""

KEPT_FILES = "/v1/attachments/"
"""What the `url` of an attachment begins with whose bytes are kept here (shared/attachments.py); its id follows."""

SEALED_TYPE = f"{TYPE_PREFIX}sealed"
"""Type of a record that is sealed (shared/log/record_keys.py); who reads the log through ours never sees it."""

DECISIONS = frozenset({"customer.merged", "customer.unmerged"})
"""Types by which an agent says who is one person and who is not; `data.sides` are two lists of nodes."""

JOINED = "conversation.joined"
"""Type by which an agent puts a wrong stitching right: entries, or a whole conversation, belong into another one."""

DERIVED_SOURCE = "/threadline"
"""`source` of entries that Threadline derives (opened, reopened, escalated, merged …); outside the ledger."""


def family_of(channel: str | None) -> str | None:
    """Return the family of `channel`."""
    return FAMILY.get(channel, channel) if channel else None


@lru_cache(maxsize=16_384)
def rfc3339(at: datetime) -> str:
    """Write an aware datetime as RFC 3339 in UTC with microseconds and `Z`."""
    # Kept for a while: one event's times are written into its digest, its record and its row.
    # orjson pads years before 1000 on every platform, costs a fifth of isoformat, and leaves out a fraction of zero.
    text = orjson.dumps(at.astimezone(UTC), option=orjson.OPT_UTC_Z)[1:-2].decode()
    return text + ("Z" if at.microsecond else ".000000Z")


def parse_rfc3339(text: str) -> datetime:
    """Read what `rfc3339` writes. Raises ValueError."""
    return datetime.fromisoformat(text).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class InboundEvent:
    """One accepted event, as ingest appends it and conversation reads it.

    `type` is the full CloudEvents type (`threadline.message.received`). `data` is the event's data, validated, with
    NUL and lone surrogates replaced, otherwise as given (unknown fields included). `region` is the default region of
    the channel account for phone numbers, where it has one: it wins over the policy's. Where `dataref` is set, `data`
    is empty and stands in the blob of that name (shared/blobs.py): the event was too large for a record. `files` are
    bytes of attachments, each with its place among them: ingest keeps them elsewhere (shared/attachments.py) before it
    appends, and no record carries them.
    """

    tenant: str
    source: str
    id: str
    type: str
    occurred_at: datetime
    received_at: datetime
    data: dict[str, Any]
    subject: str | None = None
    traceparent: str | None = None
    region: str | None = None
    dataref: str | None = None
    files: tuple[tuple[int, bytes], ...] = field(default=(), repr=False, compare=False)

    def with_files(self, data: dict[str, Any], files: tuple[tuple[int, bytes], ...]) -> InboundEvent:
        """Return the event with other data and files."""
        # `dataclasses.replace` takes three times as long.
        return InboundEvent(
            self.tenant, self.source, self.id, self.type, self.occurred_at, self.received_at, data,
            self.subject, self.traceparent, self.region, self.dataref, files,
        )  # fmt: skip

    def encode(self) -> bytes:
        """Return the record's value: a structured CloudEvent."""
        event: dict[str, Any] = {
            "specversion": "1.0",
            "tenant": self.tenant,
            "source": self.source,
            "id": self.id,
            "type": self.type,
            "time": rfc3339(self.occurred_at),
            "receivedat": rfc3339(self.received_at),
            "datacontenttype": "application/json",
            "data": self.data,
        }
        for name, value in (
            ("subject", self.subject),
            ("traceparent", self.traceparent),
            ("region", self.region),
            ("dataref", self.dataref),
        ):
            if value is not None:
                event[name] = value
        return orjson.dumps(event)

    @classmethod
    def decode(cls, value: bytes) -> InboundEvent:
        """Read a record's value. Raises Rejected with the reason where it is not one of ours."""
        try:
            event = orjson.loads(value)
            if event["type"] == SEALED_TYPE:
                raise Rejected("the record is sealed, and its key is not in this database")
            data = event["data"]
            if not isinstance(data, dict):
                raise Rejected("the record's data is not a JSON object")
            return cls(
                tenant=_text(event, "tenant"),
                source=_text(event, "source"),
                id=_text(event, "id"),
                type=_text(event, "type"),
                occurred_at=parse_rfc3339(_text(event, "time")),
                received_at=parse_rfc3339(_text(event, "receivedat")),
                data=data,
                subject=event.get("subject"),
                traceparent=event.get("traceparent"),
                region=event.get("region"),
                dataref=event.get("dataref"),
            )
        except Rejected:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise Rejected(
                f"the record is not an event of the inbound topic: {type(error).__name__} {error}"
            ) from error


def _text(event: dict[str, Any], name: str) -> str:
    value = event[name]
    if not isinstance(value, str) or not value:
        raise Rejected(f"the record's attribute {name} is not a non-empty string")
    return value


@dataclass(frozen=True, slots=True)
class TimelineRecord:
    """One line of the timeline changelog.

    kind "entry": `key` is the entry id, `body` the entry (see services/conversation/entries.py for its shape: the
    API's entry without `via` and `customer_id`, plus `leaf_id` and `data`, the posted data without texts).
    kind "leaf": `key` is the leaf id, `body` {"customer_id", "kind", "value"}, and where it was another customer's
    {"was", "change"}: `customer.merged` where that one is no more, `customer.unmerged` where the leaf left them.
    kind "conversation": `key` is a conversation id, `body` {"canonical_id", "follow_up_of"}.
    `deleted` is true where there is no longer such a thing (a derived entry that no longer holds, an erasure). Of an
    erased entry the body has {"erased": {"erasure_id", "entry"}}: its numbers, and nothing that tells whose they were.
    Of records with equal (tenant, kind, key) the highest `version` is the truth, in whatever order they are read.
    """

    tenant: str
    kind: str
    key: str
    version: int
    body: dict[str, Any]
    deleted: bool = False
    recorded_at: datetime | None = None

    def encode(self) -> bytes:
        """Return the record's value: a structured CloudEvent."""
        return orjson.dumps(
            {
                "specversion": "1.0",
                "type": f"threadline.timeline.{self.kind}",
                "source": DERIVED_SOURCE,
                "id": f"{self.key}:{self.version}",
                "tenant": self.tenant,
                "datacontenttype": "application/json",
                "data": {
                    "kind": self.kind,
                    "key": self.key,
                    "version": self.version,
                    "deleted": self.deleted,
                    "recorded_at": rfc3339(self.recorded_at) if self.recorded_at else None,
                    "body": self.body,
                },
            }
        )

    @classmethod
    def decode(cls, value: bytes) -> TimelineRecord:
        """Read a record's value. Raises Rejected with the reason where it is not one of ours."""
        try:
            event = orjson.loads(value)
            data = event["data"]
            return cls(
                tenant=event["tenant"],
                kind=data["kind"],
                key=data["key"],
                version=data["version"],
                body=data["body"],
                deleted=data["deleted"],
                recorded_at=parse_rfc3339(data["recorded_at"]) if data.get("recorded_at") else None,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Rejected(f"the record is not a line of the timeline topic: {type(error).__name__} {error}") from error
