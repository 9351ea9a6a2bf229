"""What the records of the topics hold that nobody posts: Threadline's own events, timelines, and what is left of both.

Objects of ours name all of their fields. A reader has to be content with more: a later version may add some.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shared.events import DECISIONS, DERIVED_SOURCE, JOINED, POSTED, SEALED_TYPE, TYPE_PREFIX
from shared.tombstones import ERASED, STUB_TYPE

Schema = dict[str, Any]

ANYTHING: Schema = {"type": "object", "additionalProperties": True}
TEXT: Schema = {"type": "string"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
ID: Schema = {"type": "string", "format": "uuid"}
ID_OR_NULL: Schema = {"type": ["string", "null"], "format": "uuid"}
INSTANT: Schema = {"type": "string", "format": "date-time"}
TRUE: Schema = {"const": True}


def said(description: str, schema: Schema) -> Schema:
    """Return a schema with a description."""
    return {**schema, "description": description}


def objects(properties: Schema, optional: Iterable[str] = (), **more: Any) -> Schema:
    """Return the schema of an object with these fields, all but the `optional` ones required."""
    required = [name for name in properties if name not in set(optional)]
    return {"type": "object", "required": required, "properties": properties, **more}


def lists(items: Schema) -> Schema:
    return {"type": "array", "items": items}


# Inbound: what Threadline says to itself

_ACTOR = objects({"type": TEXT, "id": TEXT})
_NODES = lists(said("A handle or session, as kind:value", TEXT))

MADE_HERE_DATA: dict[str, Schema] = {
    **{
        TYPE_PREFIX + kind: objects(
            {
                "actor": _ACTOR,
                "sides": {**lists(_NODES), "minItems": 2, "maxItems": 2, "description": "Whom an agent told apart, or "
                          "said to be one; of who was erased since, nothing is left"},
                "reason": TEXT,
            },
            ["reason"],
        )
        for kind in sorted(DECISIONS)
    },
    TYPE_PREFIX + JOINED: objects(
        {
            "actor": _ACTOR,
            "into": ID,
            "from": said("A whole conversation that becomes part of `into`", ID),
            "entry_ids": said("Entries that go into it", lists(ID)),
            "kept": {"type": "object", "additionalProperties": lists(ID), "description": "Conversation that loses "
                     "entries → those that stay in it though they come later"},
            "reason": TEXT,
        },
        ["from", "entry_ids", "kept", "reason"],
    ),
    TYPE_PREFIX + ERASED: objects(
        {
            "erasure_id": ID,
            "entries": said("Ids of entries that no replay may bring back", lists(ID)),
            "names": said("Keyed hashes of handles and sessions", lists(ID)),
        }
    ),
}  # fmt: skip
"""Full type → schema of the data of what an agent decided or erased, which goes through the log like any event."""


# What is left of a record, or of what it said

STUB = {
    "name": STUB_TYPE,
    "title": "Erased record",
    "summary": "Stands in the place of a record of somebody who was erased, so that offsets stay",
    "payload": objects(
        {"specversion": {"const": "1.0"}, "type": {"const": STUB_TYPE}, "tenant": TEXT_OR_NULL, "entry": ID_OR_NULL}
    ),
}

SEALED = {
    "name": SEALED_TYPE,
    "title": "Sealed record",
    "summary": "With THREADLINE_ENCRYPT_LOG on Kafka: any other record, which only Threadline can open",
    "payload": objects(
        {
            "specversion": {"const": "1.0"},
            "type": {"const": SEALED_TYPE},
            "source": {"const": DERIVED_SOURCE},
            "id": said("Which key opens it", ID),
            "tenant": said("Empty where nobody could tell", TEXT),
            "about": said("The entry that its event is, or the place in quarantine", ID),
            "data_base64": TEXT,
        }
    ),
}

QUARANTINED = {
    "name": "quarantined",
    "title": "Quarantined record",
    "summary": "The record as it was, whatever it was; in its headers, beside its own, why it is here",
    "contentType": "application/octet-stream",
    "headers": objects(
        {
            "threadline-reason": TEXT,
            "threadline-group": said("Who could not read it", TEXT),
            "threadline-topic": TEXT,
            "threadline-position": {"type": "string", "pattern": "^[0-9]+/[0-9]+$", "description": "partition/offset"},
            "threadline-tenant": said("As far as the record tells", TEXT),
            "threadline-value-left-out": said("Why the value is empty", TEXT),
        },
        ["threadline-tenant", "threadline-value-left-out"],
        additionalProperties=True,
    ),
    "payload": {},
}


# The timeline

_TYPES = sorted(TYPE_PREFIX + kind for kind in POSTED | DECISIONS | {JOINED})
_LARGE = ("handle", "subject", "text", "quoted_text", "html", "attachments", "call", "survey", "delivery")
_SOME = {"type": ["object", "null"], "additionalProperties": True}

_ENTRY_FIELDS: Schema = {
    "id": ID,
    "event_id": TEXT,
    "source": TEXT,
    "type": {"enum": _TYPES},
    "occurred_at": INSTANT,
    "recorded_at": INSTANT,
    "received_at": INSTANT,
    "channel": TEXT_OR_NULL,
    "family": TEXT_OR_NULL,
    "contact_id": TEXT_OR_NULL,
    "conversation_id": said("As it was placed; what that has become a part of, the records of conversations say",
                            ID_OR_NULL),
    "stitched": objects({"rule": TEXT, "key": TEXT_OR_NULL}),
    "version": {"type": "integer", "minimum": 1},
    "direction": {"enum": ["in", "out", "internal"]},
    "leaf_id": said("Whose it is, the records of leaves say", ID),
    "automatic": {"type": "boolean"},
    "topic": TEXT_OR_NULL,
    "language": TEXT_OR_NULL,
    "actor": _SOME,
}  # fmt: skip

_ENTRY = objects(
    {
        **_ENTRY_FIELDS,
        "handle": TEXT_OR_NULL,
        "subject": TEXT_OR_NULL,
        "text": TEXT_OR_NULL,
        "quoted_text": TEXT_OR_NULL,
        "html": TEXT_OR_NULL,
        "attachments": lists(ANYTHING),
        "call": _SOME,
        "survey": _SOME,
        "delivery": _SOME,
        "data": said("What was posted, without its texts and attachments", ANYTHING),
    },
    description="The entry as GET …/timeline gives it, without via, customer_id and extra",
)
_LARGE_ENTRY = objects(
    {**_ENTRY_FIELDS, "data": said("What is small of it", ANYTHING), "large": TRUE},
    description="An entry too large for a record: its texts are in the API",
)
_GONE_ENTRY = objects(
    {"id": ID, "leaf_id": ID, "type": {"enum": _TYPES}, "channel": TEXT_OR_NULL, "source": TEXT},
    ["id", "type", "channel", "source"],
    description="What it was, as far as that may still be said. Without the key of a sealed record: its leaf alone",
)
_ANONYMOUS = objects(
    {
        **{name: schema for name, schema in _ENTRY_FIELDS.items() if name != "stitched"},
        "data": said("What numbers are made of", ANYTHING),
    },
    description="The entry without anything that tells whose it was; names that a sender gave are others",
)
_ERASED_ENTRY = objects(
    {**_GONE_ENTRY["properties"], "erased": objects({"erasure_id": ID, "entry": _ANONYMOUS})},
    description="Of somebody who was erased only the numbers are left",
)
_SEALED_BODY = objects(
    {"leaf_id": said("Whose key opens it", ID), "sealed": TEXT},
    description="With THREADLINE_ENCRYPT_LOG: any other body, which only Threadline can open",
)
_LEAF = objects(
    {
        "customer_id": ID,
        "kind": TEXT,
        "value": TEXT,
        "was": said("Whose it was before", ID),
        "change": said("customer.merged where `was` is no more, customer.unmerged where the leaf left them",
                       {"enum": sorted(DECISIONS)}),
    },
    ["was", "change"],
    description="Whose handle or session it is now",
)  # fmt: skip
_ERASED_LEAF = objects(
    {"customer_id": ID, "kind": {"type": "null"}, "value": {"type": "null"}, "erased": TRUE},
    description="Somebody's who was erased",
)
_CONVERSATION = objects(
    {"canonical_id": said("What it has become a part of, or itself", ID), "follow_up_of": ID_OR_NULL}
)

TIMELINE_BODIES: dict[str, tuple[list[Schema], list[Schema]]] = {
    "entry": ([_ENTRY, _LARGE_ENTRY, _SEALED_BODY], [_ERASED_ENTRY, _GONE_ENTRY]),
    "leaf": ([_LEAF, _ERASED_LEAF, _SEALED_BODY], [objects({"leaf_id": ID})]),
    "conversation": ([_CONVERSATION], [_CONVERSATION]),
}
"""Kind of a timeline record → the bodies that it may have, and those that it may have where it says `deleted`."""


def timeline_message(kind: str) -> dict[str, Any]:
    """Return the message of one kind of timeline record."""
    there, gone = TIMELINE_BODIES[kind]

    def data(bodies: list[Schema], deleted: bool) -> Schema:
        return objects(
            {
                "kind": {"const": kind},
                "key": ID,
                "version": {"type": "integer", "minimum": 1},
                "deleted": said("There is no longer such a thing" if deleted else "It is there", {"const": deleted}),
                "recorded_at": said(
                    "When this version of it was recorded", {"type": ["string", "null"], "format": "date-time"}
                ),
                "body": {"anyOf": bodies},
            }
        )

    return {
        "name": f"threadline.timeline.{kind}",
        "title": f"Timeline: {kind}",
        "payload": objects(
            {
                "specversion": {"const": "1.0"},
                "tenant": TEXT,
                "source": {"const": DERIVED_SOURCE},
                "id": said("key and version, joined with a colon", TEXT),
                "type": {"const": f"threadline.timeline.{kind}"},
                "datacontenttype": {"const": "application/json"},
                "data": {"anyOf": [data(there, False), data(gone, True)]},
            }
        ),
    }
