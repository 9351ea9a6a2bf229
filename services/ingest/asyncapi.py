"""The AsyncAPI document of the three topics, generated from the models that validate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from services.ingest.reading import MAX_ATTRIBUTE_BYTES
from services.ingest.schema import MODELS
from services.ingest.topic_schemas import (
    INSTANT,
    MADE_HERE_DATA,
    QUARANTINED,
    SEALED,
    STUB,
    TEXT,
    TIMELINE_BODIES,
    objects,
    said,
    timeline_message,
)
from shared.events import DERIVED_SOURCE, SEALED_TYPE
from shared.log.protocol import INBOUND, QUARANTINE, TIMELINE
from shared.tombstones import STUB_TYPE

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
    posted = {name: _inbound_message(name, data_schemas[name], POSTED_ATTRIBUTES) for name in sorted(MODELS)}
    made_here = {name: _inbound_message(name, data, OWN_ATTRIBUTES) for name, data in MADE_HERE_DATA.items()}
    left = {STUB_TYPE: STUB, SEALED_TYPE: SEALED}
    timeline = {kind: timeline_message(kind) for kind in TIMELINE_BODIES}
    inbound = {**posted, **made_here, **left}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Threadline topics",
            "version": version,
            "description": "What ingest, conversation and metrics say to each other. All records are CloudEvents 1.0 "
            "in structured JSON. With Kafka these are its topics, without it topics of the same names in PostgreSQL. "
            "With THREADLINE_ENCRYPT_LOG on Kafka records of the inbound and the quarantine topic have the type "
            "threadline.sealed, and on any log the bodies of timeline records are sealed: only Threadline itself can "
            "open them. Readers ignore fields that are not named here.",
        },
        "defaultContentType": "application/cloudevents+json",
        "channels": {
            "inbound": {
                "address": f"{prefix}.{INBOUND}",
                "description": "Accepted events, at least once each. Key: tenant and sender handle. Readers know a "
                "repetition by (tenant, source, id).",
                "messages": _references(inbound),
            },
            "timeline": {
                "address": f"{prefix}.{TIMELINE}",
                "description": "A changelog. Key: tenant and leaf. Of records with equal (tenant, kind, key) the "
                "highest version is the truth, in whatever order they are read.",
                "messages": _references(timeline),
            },
            "quarantine": {
                "address": f"{prefix}.{QUARANTINE}",
                "description": "What was genuine and could not be understood, with the reason.",
                "messages": _references(["quarantined", *left]),
            },
        },
        "operations": {
            "takeEvents": _operation("receive", "inbound", "The conversation service takes accepted events"),
            "readTimeline": _operation("receive", "timeline", "Metrics, and any other reader, follow the timelines"),
            "readQuarantine": _operation("receive", "quarantine", "Operators look at what could not be understood"),
        },
        "components": {
            "messages": {**inbound, **timeline, "quarantined": QUARANTINED},
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
    schemas = dict(definitions["$defs"])
    # Taken out at the door: a record names what is kept, and carries no bytes.
    del schemas["Attachment"]["properties"]["content"]
    return schemas, by_type


def _references(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


POSTED_ATTRIBUTES = attribute_schemas()
OWN_ATTRIBUTES = {**POSTED_ATTRIBUTES, "source": {"const": DERIVED_SOURCE}}
"""Of what Threadline says to itself."""

ADDED = {
    "tenant": said("The company whose key sent it", TEXT),
    "receivedat": said("When ingest accepted it", INSTANT),
    "datacontenttype": {"const": "application/json"},
    "region": said("Default region of the channel account for phone numbers", TEXT),
    "dataref": said("Where the data is too large for a record: the blob's name; `data` is then empty", TEXT),
}
"""Attributes that ingest adds."""


def _inbound_message(name: str, data: dict[str, Any], attributes: dict[str, Any]) -> dict[str, Any]:
    payload = objects(
        {**attributes, **ADDED, "type": {"const": name}, "data": {"type": "object", "additionalProperties": True}},
        ["subject", "traceparent", "region", "dataref"],
    )
    return {
        "name": name,
        "title": name.removeprefix("threadline.").replace(".", " ").replace("_", " ").capitalize(),
        # Where the data stands aside there is nothing here that its schema could ask for.
        "payload": {**payload, "if": {"not": {"required": ["dataref"]}}, "then": {"properties": {"data": data}}},
    }
