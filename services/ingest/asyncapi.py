"""The AsyncAPI document of the three topics, generated from the models that validate."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from services.ingest.schema import MODELS
from services.ingest.validation import MAX_ATTRIBUTE_BYTES
from shared.log.protocol import INBOUND, QUARANTINE, TIMELINE

REF = "#/components/schemas/"


def attribute_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON schemas of the CloudEvents attributes that a sender gives."""
    short = {"type": "string", "minLength": 1, "maxLength": MAX_ATTRIBUTE_BYTES}
    return {
        "specversion": {"const": "1.0"},
        "id": {**short, "description": "Unique within the source"},
        "source": {**short, "description": "The channel account, e.g. /email/support@acme.example"},
        "type": {"enum": sorted(MODELS)},
        "time": {"type": "string", "format": "date-time", "description": "When it happened, by the sender's clock"},
        "subject": {"type": "string"},
        "traceparent": {"type": "string", "description": "W3C Trace Context"},
    }


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return `schema` with its `$defs` put where they are referred to, so that it can stand in another document."""
    definitions = schema.get("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, list):
            return [resolve(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolve(definitions[part["$ref"].rpartition("/")[2]])
        return {name: resolve(value) for name, value in part.items() if name != "$defs"}

    resolved: dict[str, Any] = resolve(schema)
    return resolved


def document(prefix: str, version: str) -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document; `prefix` is the first part of the topics' names."""
    schemas, data_schemas = _data_schemas()
    messages = {name: _inbound_message(name, data_schemas[name]) for name in sorted(MODELS)}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Threadline topics",
            "version": version,
            "description": "What ingest, conversation and metrics say to each other. All records are CloudEvents 1.0 "
            "in structured JSON. With Kafka these are its topics, without it topics of the same names in PostgreSQL. "
            "With THREADLINE_ENCRYPT_LOG on Kafka records of the inbound and the quarantine topic have the type "
            "threadline.sealed, with tenant, about and data_base64, which only Threadline itself can open.",
        },
        "defaultContentType": "application/cloudevents+json",
        "channels": {
            "inbound": {
                "address": f"{prefix}.{INBOUND}",
                "description": "Accepted events, at least once each. Key: tenant and sender handle. Readers know a "
                "repetition by (tenant, source, id).",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            },
            "timeline": {
                "address": f"{prefix}.{TIMELINE}",
                "description": "A changelog. Key: tenant and leaf. Of records with equal (tenant, kind, key) the "
                "highest version is the truth, in whatever order they are read.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _TIMELINE},
            },
            "quarantine": {
                "address": f"{prefix}.{QUARANTINE}",
                "description": "What was genuine and could not be understood, with the reason.",
                "messages": {"quarantined": {"$ref": "#/components/messages/quarantined"}},
            },
        },
        "operations": {
            "takeEvents": _operation("receive", "inbound", "The conversation service takes accepted events"),
            "readTimeline": _operation("receive", "timeline", "Metrics, and any other reader, follow the timelines"),
            "readQuarantine": _operation("receive", "quarantine", "Operators look at what could not be understood"),
        },
        "components": {
            "messages": {**messages, **_TIMELINE, "quarantined": _QUARANTINED},
            "schemas": schemas,
        },
    }


def _operation(action: str, channel: str, summary: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": summary}


def _data_schemas() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return all schemas by name, and per event type the reference to its data's."""
    models = sorted(set(MODELS.values()), key=lambda model: model.__name__)
    references, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=REF + "{model}"
    )
    by_type = {name: dict(references[(model, "validation")]) for name, model in MODELS.items()}
    return dict(definitions["$defs"]), by_type


def _inbound_message(name: str, data: dict[str, Any]) -> dict[str, Any]:
    made_by_ingest = {
        "tenant": {"type": "string", "description": "The company whose key sent it"},
        "receivedat": {"type": "string", "format": "date-time", "description": "When ingest accepted it"},
        "region": {"type": "string", "description": "Default region of the channel account for phone numbers"},
        "dataref": {"type": "string", "description": "Where the data is too large for a record: the blob's name; "
                    "`data` is then empty"},
    }  # fmt: skip
    return {
        "name": name,
        "title": name.removeprefix("threadline.").replace(".", " ").replace("_", " ").capitalize(),
        "payload": {
            "type": "object",
            "required": ["specversion", "tenant", "source", "id", "type", "time", "receivedat", "data"],
            "properties": {**attribute_schemas(), **made_by_ingest, "type": {"const": name}, "data": data},
        },
    }


def _timeline_message(kind: str, body: str) -> dict[str, Any]:
    return {
        "name": f"threadline.timeline.{kind}",
        "title": f"Timeline: {kind}",
        "payload": {
            "type": "object",
            "required": ["specversion", "tenant", "source", "id", "type", "data"],
            "properties": {
                "specversion": {"const": "1.0"},
                "tenant": {"type": "string"},
                "source": {"const": "/threadline"},
                "id": {"type": "string", "description": "key and version, joined with a colon"},
                "type": {"const": f"threadline.timeline.{kind}"},
                "data": {
                    "type": "object",
                    "required": ["kind", "key", "version", "deleted", "recorded_at", "body"],
                    "properties": {
                        "kind": {"const": kind},
                        "key": {"type": "string"},
                        "version": {"type": "integer", "minimum": 1},
                        "deleted": {"type": "boolean", "description": "There is no longer such a thing"},
                        "recorded_at": {"type": ["string", "null"], "format": "date-time"},
                        "body": {"type": "object", "description": body},
                    },
                },
            },
        },
    }


_TIMELINE = {
    "entry": _timeline_message(
        "entry",
        "The entry as GET …/timeline gives it, without via and customer_id, with leaf_id and the posted data. Of one "
        "that was erased (deleted) only {erased: {erasure_id, entry}}: its numbers, and nothing that tells whose",
    ),
    "leaf": _timeline_message(
        "leaf",
        "{customer_id, kind, value}: whose handle or contact it is now. Where it was another customer's, {was, change} "
        "too: `customer.merged` where that customer is no more, `customer.unmerged` where it left them",
    ),
    "conversation": _timeline_message("conversation", "{canonical_id, follow_up_of}: what it has become a part of"),
}

_QUARANTINED = {
    "name": "quarantined",
    "title": "Quarantined record",
    "payload": {
        "type": "object",
        "description": "The record as it was, its reason and position in the headers",
    },
}
