"""What /openapi.json says about the routes of ingest that read their bodies themselves."""

from __future__ import annotations

from typing import Any

from services.ingest.asyncapi import attribute_schemas, inlined
from services.ingest.cloudevents import BATCH, MAX_BATCH_EVENTS, STRUCTURED
from services.ingest.schema import Data

EXAMPLE: dict[str, Any] = {
    "specversion": "1.0",
    "id": "m-1001",
    "source": "/chat/acme",
    "type": "threadline.message.received",
    "time": "2026-03-03T08:02:00Z",
    "data": {
        "channel": "chat",
        "customer": {"handles": [{"kind": "email", "value": "ann@example.com", "verified": True}]},
        "actor": {"type": "customer"},
        "contact_id": "session-7",
        "text": "Where is my parcel?",
    },
}

_DATA = {
    **inlined(Data.model_json_schema(by_alias=True)),
    "description": "The fields that every type may have; each type's own are in /asyncapi.json. Others are kept.",
    "additionalProperties": True,
}

EVENT_SCHEMA: dict[str, Any] = {
    "title": "CloudEvent",
    "type": "object",
    "required": ["specversion", "id", "source", "type", "time", "data"],
    "properties": {**attribute_schemas(), "data": _DATA},
}

REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        STRUCTURED: {"schema": EVENT_SCHEMA, "example": EXAMPLE},
        BATCH: {
            "schema": {"type": "array", "maxItems": MAX_BATCH_EVENTS, "items": {"type": "object"}},
            "example": [EXAMPLE],
        },
        "application/json": {
            "schema": {"type": "object", "description": "A structured event or, beside ce-* headers, the data alone"},
            "example": EXAMPLE,
        },
    },
}

BINARY_HEADERS: list[dict[str, Any]] = [
    {"name": f"ce-{name}", "in": "header", "required": False, "schema": schema,
     "description": "Binary mode only: percent-encoded UTF-8"}
    for name, schema in attribute_schemas().items()
]  # fmt: skip

ACCEPTED_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["accepted"],
    "properties": {
        "accepted": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["source", "id"],
                "properties": {"source": {"type": "string"}, "id": {"type": "string"}},
            },
        }
    },
}

ANY_FILE: dict[str, Any] = {
    "required": True,
    "content": {"*/*": {"schema": {"type": "string", "format": "binary", "description": "The bytes of the file"}}},
}

KEPT_FILE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["size_bytes", "sha256", "url"],
    "properties": {
        "name": {"type": "string"},
        "media_type": {"type": "string"},
        "size_bytes": {"type": "integer"},
        "sha256": {"type": "string"},
        "url": {"type": "string", "description": "`/v1/attachments/{id}`, which gives the file back"},
    },
}

CHANNEL_URL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["provider", "account", "webhook_url", "webhook_path"],
    "properties": {name: {"type": "string"} for name in ("provider", "account", "webhook_url", "webhook_path")},
}

CHANNEL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": [*CHANNEL_URL_SCHEMA["required"], "secrets", "public_url", "own_addresses", "default_region", "options",
                 "created_at", "changed_at"],
    "properties": {
        **CHANNEL_URL_SCHEMA["properties"],
        "secrets": {"type": "integer", "description": "How many are active; they are never shown"},
        **{name: {"type": ["string", "null"]} for name in ("public_url", "default_region")},
        "own_addresses": {"type": "array", "items": {"type": "string"}},
        "options": {"type": "object", "description": "Those that look secret are starred out"},
        **{name: {"type": "string", "format": "date-time"} for name in ("created_at", "changed_at")},
    },
}  # fmt: skip

CHANNELS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["channels"],
    "properties": {"channels": {"type": "array", "items": CHANNEL_SCHEMA}},
}

STATUS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["status", "customer_id", "conversation_id", "entry_id", "reason"],
    "properties": {
        "status": {"enum": ["accepted", "on_timeline", "quarantined", "erased"]},
        **{name: {"type": ["string", "null"]} for name in ("customer_id", "conversation_id", "entry_id", "reason")},
    },
}


def response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the description of an answer in JSON."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


# Each provider has its own: JSON, text, XML or nothing.
TAKEN: dict[int | str, dict[str, Any]] = {
    200: {"description": "Taken, said as this provider expects it", "content": {"*/*": {}}},
    202: response("Taken: raw mail", ACCEPTED_SCHEMA),
}


def problems(**statuses: str) -> dict[int | str, dict[str, Any]]:
    """Return the descriptions of answers that are problems: `s413="…"`."""
    return {
        int(name[1:]): {"description": text, "content": {"application/problem+json": {}}}
        for name, text in statuses.items()
    }
