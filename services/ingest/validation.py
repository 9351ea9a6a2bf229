"""Is this a CloudEvent that Threadline takes? Pure: a parsed event in, an InboundEvent or the list of faults out."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from services.ingest.reading import MAX_ATTRIBUTE_BYTES, MAX_DEPTH, NotJson, fault_in_shape, read_json
from services.ingest.schema import MODELS
from shared.errors import ThreadlineError
from shared.events import DERIVED_SOURCE, MADE_HERE, TYPE_PREFIX, InboundEvent
from shared.timestamps import read_rfc3339

AHEAD = timedelta(hours=24)
"""An event may be this far ahead of the server's clock: senders' clocks go wrong by hours, not by days."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at `pointer` (an RFC 6901 pointer below the event, "" for the event itself)."""

    pointer: str
    detail: str


class InvalidEvent(ThreadlineError):
    """The event cannot be taken; `faults` says why, at least one."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.pointer} {fault.detail}" for fault in faults))
        self.faults = tuple(faults)


class Attributes(BaseModel):
    """The CloudEvents attributes that matter here; extension attributes beyond `traceparent` are not kept."""

    model_config = ConfigDict(strict=True, extra="ignore")

    specversion: str
    id: str
    source: str
    type: str
    time: str
    subject: str | None = None
    datacontenttype: str | None = None
    traceparent: str | None = None
    data_base64: str | None = None


_ATTRIBUTES = Attributes.__pydantic_validator__
_DATA = {name: model.__pydantic_validator__ for name, model in MODELS.items()}


def validate(event: object, tenant: str, received_at: datetime, region: str | None = None) -> InboundEvent:
    """Return the event as it goes to the log.

    `event` is a parsed structured CloudEvent whose texts are already clean (services/ingest/reading.py); its `data`
    is taken over, not copied. `received_at` is the server's clock. How deeply the data is nested shows when it is
    `encoded`. Raises InvalidEvent.
    """
    if not isinstance(event, dict):
        raise InvalidEvent([Fault("", f"must be a JSON object, not {_kind(event)}")])
    try:
        attributes: Attributes = _ATTRIBUTES.validate_python(event)
    except ValidationError as error:
        raise InvalidEvent(faults_of(error, event)) from None
    faults = list(_attribute_faults(attributes))
    occurred_at = received_at
    try:
        occurred_at = read_rfc3339(attributes.time)
        if occurred_at - received_at > AHEAD:
            faults.append(Fault("/time", "lies more than 24 hours ahead of the server's clock"))
        elif not is_a_time(occurred_at):
            faults.append(Fault("/time", "lies in the year 1: that is a program's zero, not when something happened"))
    except ValueError as error:
        faults.append(Fault("/time", str(error)))
    try:
        data = _data(event, attributes)
        check_data(attributes.type, data)
    except InvalidEvent as error:
        faults.extend(error.faults)
    if faults:
        raise InvalidEvent(faults)
    # Not before: of an event whose type is unknown nothing says what its data looks like.
    _leave_out_nobody(data)
    return InboundEvent(
        tenant=tenant,
        source=attributes.source,
        id=attributes.id,
        type=attributes.type,
        occurred_at=occurred_at,
        received_at=received_at,
        data=data,
        subject=attributes.subject,
        traceparent=_traceparent(attributes.traceparent),
        region=region,
    )


def is_a_time(at: datetime) -> bool:
    """Tell whether something can have happened at `at`.

    The first instant of the year 1 is what programs say that have no time. PostgreSQL's driver takes it for minus
    infinity, and most time zones have no local time for it.
    """
    return at.year > 1


def encoded(event: InboundEvent) -> bytes:
    """Return the event's record. Raises InvalidEvent where its data is nested more deeply than readers can take."""
    try:
        value = event.encode()
    except TypeError as error:
        fault = fault_in_shape(event.data)
        if fault is None:
            raise
        raise InvalidEvent([Fault("/data", fault)]) from error
    # Nothing is nested deeper than it has brackets, and counting those costs a tenth of walking through the values.
    if value.count(b"{") + value.count(b"[") > MAX_DEPTH:
        fault = fault_in_shape(event.data)
        if fault is not None:
            raise InvalidEvent([Fault("/data", fault)])
    return value


def _attribute_faults(attributes: Attributes) -> list[Fault]:
    faults = []
    if attributes.specversion != "1.0":
        faults.append(Fault("/specversion", 'must be "1.0": other versions of CloudEvents are not read'))
    for name, value in (("id", attributes.id), ("source", attributes.source)):
        if not value:
            faults.append(Fault(f"/{name}", "must not be empty"))
        elif len(value) * 4 > MAX_ATTRIBUTE_BYTES and len(value.encode()) > MAX_ATTRIBUTE_BYTES:
            faults.append(Fault(f"/{name}", f"is longer than {MAX_ATTRIBUTE_BYTES} bytes of UTF-8"))
    if attributes.source == DERIVED_SOURCE:
        faults.append(Fault("/source", f"{DERIVED_SOURCE} stands for what Threadline derives itself: take another"))
    if attributes.type not in MODELS:
        faults.append(Fault("/type", _about_type(attributes.type)))
    if attributes.datacontenttype not in (None, "application/json") and not _is_json(attributes.datacontenttype):
        faults.append(Fault("/datacontenttype", "must be application/json: the data of all types here is JSON"))
    return faults


def _about_type(name: str) -> str:
    bare = name.removeprefix(TYPE_PREFIX)
    if bare in MADE_HERE:
        return f"{TYPE_PREFIX}{bare} is made by Threadline itself and cannot be posted"
    if TYPE_PREFIX + name in MODELS:
        return f"is unknown: did you mean {TYPE_PREFIX}{name}?"
    return "is unknown: the types are listed in /asyncapi.json"


def _is_json(media_type: str | None) -> bool:
    essence = (media_type or "").partition(";")[0].strip().lower()
    return essence.endswith(("/json", "+json"))


def _traceparent(value: str | None) -> str | None:
    # W3C Trace Context: one that cannot be read is as if it had not been sent.
    return value if value is not None and _TRACEPARENT.fullmatch(value) else None


def _data(event: dict[str, Any], attributes: Attributes) -> dict[str, Any]:
    data = event.get("data")
    if attributes.data_base64 is not None:
        if data is not None:
            raise InvalidEvent([Fault("/data_base64", "stands beside data: give one of the two")])
        data = _decoded(attributes.data_base64)
    if data is None:
        raise InvalidEvent([Fault("/data", "is missing: an object, {} at least")])
    if not isinstance(data, dict):
        raise InvalidEvent([Fault("/data", f"must be a JSON object, not {_kind(data)}")])
    return data


def _decoded(text: str) -> object:
    try:
        return read_json(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        detail = str(error) if isinstance(error, NotJson) else "is not base64"
        raise InvalidEvent([Fault("/data_base64", detail)]) from error


def check_data(event_type: str, data: dict[str, Any]) -> None:
    """Return only where `data` is what an event of this type may hold. Raises InvalidEvent, pointers below `/data`."""
    validator = _DATA.get(event_type)
    if validator is None:
        return
    try:
        validator.validate_python(data)
    except ValidationError as error:
        raise InvalidEvent(faults_of(error, data, "/data")) from None


def _leave_out_nobody(data: dict[str, Any]) -> None:
    """Leave out handles whose value is null: a sender without an address must not lose the message by it."""
    customer = data.get("customer") or {}
    handles = customer.get("handles") or ()
    if any(handle["value"] is None for handle in handles):
        customer["handles"] = [handle for handle in handles if handle["value"] is not None]


def faults_of(error: ValidationError, root: object, prefix: str = "") -> list[Fault]:
    """Return what pydantic found wrong with `root`, one fault per place, in sentences for the sender."""
    found: dict[str, str] = {}
    for detail in error.errors(include_url=False, include_input=True):
        found.setdefault(prefix + _pointer(detail, root), _sentence(detail))
    return [Fault(pointer, sentence) for pointer, sentence in found.items()]


def _pointer(detail: ErrorDetails, root: object) -> str:
    """Follow the location down the value itself: pydantic's location also names branches of unions, which no sender
    knows about."""
    pointer = ""
    value = root
    steps: tuple[Any, ...] = detail["loc"]
    if detail["type"] == "at_field":
        steps = (*steps, detail["ctx"]["field"])
    for step in steps:
        if isinstance(value, dict) and isinstance(step, str):
            pointer += "/" + step.replace("~", "~0").replace("/", "~1")
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int):
            pointer += f"/{step}"
            value = value[step] if step < len(value) else None
    return pointer


def _sentence(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind in _WANTED:
        return f"must be {_WANTED[kind]}, not {_kind(detail['input'])}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind in ("at_field", "sentence"):
        return detail["msg"]
    return detail["msg"][:1].lower() + detail["msg"][1:]


_WANTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}

_KINDS: dict[type, str] = {
    str: "a string", bool: "true or false", int: "a number", float: "a number", list: "an array", dict: "an object",
    type(None): "null",
}  # fmt: skip


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "something else")
