"""What ingest takes and what it refuses, with the pointer that tells the sender where."""

from __future__ import annotations

import base64
import copy
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.reading import MAX_DEPTH, NotJson, cleaned, read_json
from services.ingest.schema import MODELS
from services.ingest.validation import InvalidEvent, encoded, validate
from shared.events import MADE_HERE, InboundEvent

NOW = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)


def an_event(type: str = "threadline.message.received", **data: Any) -> dict[str, Any]:
    """One valid event; `data` is put over its own data."""
    return {
        "specversion": "1.0",
        "id": "e1",
        "source": "/chat/acme",
        "type": type,
        "time": "2026-03-03T08:02:00Z",
        "data": {"channel": "chat", "customer": {"handles": [{"kind": "visitor", "value": "v-1"}]}, **data},
    }


def faults(event: object) -> dict[str, str]:
    """Return pointer → detail of what is wrong with `event`."""
    with pytest.raises(InvalidEvent) as caught:
        encoded(validate(event, "acme", NOW))
    return {fault.pointer: fault.detail for fault in caught.value.faults}


def without(event: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != name}


def test_an_event_keeps_its_data_as_given() -> None:
    data = {"channel": "chat", "weight": 7, "customer": {"handles": [], "shoe": 41}, "nested": {"a": [1, None]}}
    event = validate({**an_event(), "data": copy.deepcopy(data)}, "acme", NOW, "NL")
    assert event.data == data
    assert (event.tenant, event.source, event.id, event.region) == ("acme", "/chat/acme", "e1", "NL")
    assert event.occurred_at == datetime(2026, 3, 3, 8, 2, tzinfo=UTC)
    assert event.received_at == NOW


def test_an_accepted_event_comes_back_from_its_record() -> None:
    event = validate(an_event(text="Grüße 👋", amount=2**53 + 1), "acme", NOW)
    assert InboundEvent.decode(event.encode()) == event


def test_message_id_contact_id_and_channel_may_be_missing() -> None:
    assert validate({**an_event(), "data": {}}, "acme", NOW).data == {}


def test_a_handle_that_stands_for_nobody_does_not_refuse_the_event() -> None:
    event = an_event(customer={"handles": [{"kind": "phone", "value": "anonymous"}, {"kind": "email", "value": ""}]})
    assert validate(event, "acme", NOW).data["customer"]["handles"][0]["value"] == "anonymous"


def test_a_handle_whose_value_is_null_is_as_if_it_had_not_been_given() -> None:
    known = {"kind": "email", "value": "ann@example.com"}
    event = an_event(customer={"handles": [{"kind": "phone", "value": None}, known]})
    assert validate(event, "acme", NOW).data["customer"] == {"handles": [known]}


def test_null_is_absent() -> None:
    event = {**an_event(subject=None, thread=None, actor=None, headers=None), "subject": None, "traceparent": None}
    assert validate(event, "acme", NOW).subject is None


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type", "time", "data"])
def test_a_missing_attribute_is_named(name: str) -> None:
    assert "is missing" in faults(without(an_event(), name))[f"/{name}"]


@pytest.mark.parametrize("name", ["id", "source", "type", "time"])
@pytest.mark.parametrize("value", [7, ["x"], {"a": 1}, True])
def test_an_attribute_that_is_no_string_is_named(name: str, value: object) -> None:
    assert "must be a string" in faults({**an_event(), name: value})[f"/{name}"]


@pytest.mark.parametrize(
    ("change", "pointer", "says"),
    [
        ({"specversion": "0.3"}, "/specversion", "1.0"),
        ({"id": ""}, "/id", "must not be empty"),
        ({"source": ""}, "/source", "must not be empty"),
        ({"source": "/threadline"}, "/source", "derives itself"),
        ({"id": "é" * 501}, "/id", "1000 bytes"),
        ({"source": "/" + "s" * 1000}, "/source", "1000 bytes"),
        ({"type": "message.received"}, "/type", "did you mean threadline.message.received"),
        ({"type": "threadline.message.invented"}, "/type", "unknown"),
        ({"type": "threadline.customer.merged"}, "/type", "made by Threadline"),
        ({"type": "threadline.policy.changed"}, "/type", "made by Threadline"),
        ({"datacontenttype": "text/xml"}, "/datacontenttype", "application/json"),
        ({"data": []}, "/data", "must be a JSON object, not an array"),
        ({"data": "text"}, "/data", "must be a JSON object, not a string"),
        ({"data_base64": "e30="}, "/data_base64", "stands beside data"),
        ({"data": None, "data_base64": "%%%"}, "/data_base64", "base64"),
        ({"data": None, "data_base64": "e30"}, "/data_base64", "base64"),
        ({"data": None, "data_base64": "W10="}, "/data", "must be a JSON object"),
    ],
)
def test_a_wrong_attribute_is_named_with_what_to_do(change: dict[str, Any], pointer: str, says: str) -> None:
    assert says in faults({**an_event(), **change})[pointer]


@pytest.mark.parametrize(
    "time",
    [
        "yesterday", "", "2026-03-03", "2026-03-03T08:02:00", "2026-03-03T08:02Z", "20260303T080200Z", "1772524920",
        "2026-02-30T08:02:00Z", "2026-03-03T25:02:00Z", "2026-03-03T08:02:61Z", "2026-03-03T08:02:00+25:00",
        "2026-W10-2T08:02:00Z", "2026-03-03T08:02:00,5Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00Z",
        "９026-03-03T08:02:00Z", "2026-03-03T08:02:00Z\n", "Tue, 3 Mar 2026 08:02:00 GMT",
    ],
)  # fmt: skip
def test_a_time_that_is_no_rfc_3339_instant_is_refused(time: str) -> None:
    assert set(faults({**an_event(), "time": time})) == {"/time"}


@pytest.mark.parametrize(
    ("time", "instant"),
    [
        ("2026-03-03T08:02:00.123456789+01:00", datetime(2026, 3, 3, 7, 2, 0, 123456, UTC)),
        ("2026-03-03t08:02:00.5z", datetime(2026, 3, 3, 8, 2, 0, 500000, UTC)),
        ("2026-03-03 08:02:00-00:00", datetime(2026, 3, 3, 8, 2, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("0002-01-01T00:00:00Z", datetime(2, 1, 1, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_every_rfc_3339_instant_of_the_past_is_read(time: str, instant: datetime) -> None:
    event = validate({**an_event(), "time": time}, "acme", NOW)
    assert event.occurred_at == instant
    assert InboundEvent.decode(event.encode()).occurred_at == instant


def test_a_time_may_be_24_hours_ahead_and_not_a_microsecond_more() -> None:
    edge = NOW + timedelta(hours=24)
    assert validate({**an_event(), "time": edge.isoformat()}, "acme", NOW).occurred_at == edge
    later = (edge + timedelta(microseconds=1)).isoformat()
    assert "24 hours ahead" in faults({**an_event(), "time": later})["/time"]
    assert "24 hours ahead" in faults({**an_event(), "time": "2199-01-01T00:00:00Z"})["/time"]


@pytest.mark.parametrize(
    ("data", "pointer"),
    [
        ({"channel": 7}, "/data/channel"),
        ({"channel": "c" * 101}, "/data/channel"),
        ({"text": ["a"]}, "/data/text"),
        ({"customer": []}, "/data/customer"),
        ({"customer": {"handles": {}}}, "/data/customer/handles"),
        ({"customer": {"handles": ["email:a@b"]}}, "/data/customer/handles/0"),
        ({"customer": {"handles": [{"kind": "email"}]}}, "/data/customer/handles/0/value"),
        ({"customer": {"handles": [{"value": "a@b"}]}}, "/data/customer/handles/0/kind"),
        ({"customer": {"handles": [{"kind": "email", "value": {"$ne": 1}}]}}, "/data/customer/handles/0/value"),
        ({"customer": {"handles": [{"kind": "phone", "value": 31612345678}]}}, "/data/customer/handles/0/value"),
        ({"customer": {"handles": [{"kind": "crm", "value": "1", "verified": "yes"}]}},
         "/data/customer/handles/0/verified"),
        ({"customer": {"handles": [{"kind": "crm", "value": "1"}] * 201}}, "/data/customer/handles"),
        ({"customer": {"attributes": [1]}}, "/data/customer/attributes"),
        ({"actor": {"type": "robot"}}, "/data/actor/type"),
        ({"actor": {"id": "a"}}, "/data/actor/type"),
        ({"thread": {"references": "<a@b>"}}, "/data/thread/references"),
        ({"thread": {"references": ["<a@b>", 7]}}, "/data/thread/references/1"),
        ({"headers": {"X/Y~Z": 7}}, "/data/headers/X~1Y~0Z"),
        ({"attachments": [{"size_bytes": -1}]}, "/data/attachments/0/size_bytes"),
        ({"attachments": [{"size_bytes": 1.5}]}, "/data/attachments/0/size_bytes"),
        ({"handle_s": -1}, "/data/handle_s"),
        ({"handle_s": 1e300}, "/data/handle_s"),
        ({"sentiment": "angry"}, "/data/sentiment"),
        ({"contact_id": "c" * 1001}, "/data/contact_id"),
    ],
)  # fmt: skip
def test_a_known_field_of_the_wrong_shape_is_pointed_at(data: dict[str, Any], pointer: str) -> None:
    assert list(faults(an_event(**data))) == [pointer]


SURVEY = {"survey_id": "s", "kind": "csat", "score": 5, "scale": [1, 5]}
COST = {
    "amount_minor": 1,
    "currency": "EUR",
    "period_start": "2026-03-03T00:00:00Z",
    "period_end": "2026-03-04T00:00:00Z",
}


@pytest.mark.parametrize(
    ("type", "data", "pointer"),
    [
        ("message.sent", {}, "/data/actor"),
        ("conversation.opened", {}, "/data/initiator"),
        ("conversation.assigned", {}, "/data/to_agent"),
        ("conversation.transferred", {"to": "b", "reason": "r"}, "/data/from"),
        ("conversation.escalated", {"from_channel": "chat"}, "/data/to_channel"),
        ("conversation.pending", {}, "/data/waiting_on"),
        ("conversation.resolved", {}, "/data/actor"),
        ("conversation.merged", {"from": "a"}, "/data/into"),
        ("call.queued", {}, "/data/queue"),
        ("call.held", {}, "/data/duration_s"),
        ("call.ended", {"hold_s": "60"}, "/data/hold_s"),
        ("call.ended", {"wrap_s": -0.1}, "/data/wrap_s"),
        ("ivr.ended", {"session_id": "i", "outcome": "lost"}, "/data/outcome"),
        ("survey.sent", {"survey_id": "s", "kinds": []}, "/data/kinds"),
        ("survey.sent", {"survey_id": "s", "kinds": ["csat", "joy"]}, "/data/kinds/1"),
        ("survey.answered", {**SURVEY, "kind": "joy"}, "/data/kind"),
        ("survey.answered", {**SURVEY, "score": 6}, "/data/score"),
        ("survey.answered", {**SURVEY, "score": "5"}, "/data/score"),
        ("survey.answered", {**SURVEY, "scale": [5, 1]}, "/data/scale"),
        ("survey.answered", {**SURVEY, "scale": 5}, "/data/scale"),
        ("survey.answered", {**SURVEY, "scale": [1, 5, 9]}, "/data/scale"),
        ("survey.answered", {**SURVEY, "scale": [1, "5"]}, "/data/scale/1"),
        ("bot.handed_over", {}, "/data/session_id"),
        ("agent.joined", {}, "/data/agent_id"),
        ("agent.status", {"agent_id": "a", "state": "asleep"}, "/data/state"),
        ("agent.blocked", {"agent_id": "a"}, "/data/system"),
        ("info.requested", {}, "/data/field"),
        ("suggestion.offered", {}, "/data/suggestion_id"),
        ("channel.availability", {"open": "yes"}, "/data/open"),
        ("cost.recorded", {**COST, "amount_minor": 24.5}, "/data/amount_minor"),
        ("cost.recorded", {**COST, "amount_minor": 2**63}, "/data/amount_minor"),
        ("cost.recorded", {**COST, "currency": "€"}, "/data/currency"),
        ("cost.recorded", {**COST, "period_start": "2026-03"}, "/data/period_start"),
        ("cost.recorded", {**COST, "period_end": "2026-03-03T00:00:00Z"}, "/data/period_end"),
        ("revenue.recorded", {"amount_minor": 1, "currency": "EUR"}, "/data/period"),
        ("remedy.chosen", {}, "/data/kind"),
    ],
)
def test_a_type_is_held_to_its_own_fields(type: str, data: dict[str, Any], pointer: str) -> None:
    assert list(faults(an_event(f"threadline.{type}", **data))) == [pointer]


def test_what_is_made_here_cannot_be_posted_and_an_identification_needs_no_field_of_its_own() -> None:
    assert not any(f"threadline.{name}" in MODELS for name in MADE_HERE)
    assert validate(an_event("threadline.customer.identified"), "acme", NOW).type == "threadline.customer.identified"


def test_all_faults_of_one_event_are_told_at_once() -> None:
    event = {**an_event(channel=7), "time": "yesterday", "type": "nonsense"}
    assert set(faults({**event, "type": "threadline.message.received"})) == {"/time", "/data/channel"}
    assert {"/time", "/type"} <= set(faults(event))


def test_base64_data_is_read_as_the_json_that_it_is() -> None:
    data = base64.b64encode(b'{"channel":"chat","text":"a\\u0000b"}').decode()
    event = validate({**without(an_event(), "data"), "data_base64": data}, "acme", NOW)
    assert event.data == {"channel": "chat", "text": "a\ufffdb"}


def test_data_may_be_nested_to_the_limit_and_no_deeper() -> None:
    def nested(levels: int) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        return value

    assert encoded(validate(an_event(deep=nested(MAX_DEPTH - 1)), "acme", NOW))
    assert encoded(validate(an_event(wide=[[]] * 1_000), "acme", NOW))
    for levels in (MAX_DEPTH, 250, 300, 900):
        for field in ("deep", "period"):
            event = an_event("threadline.revenue.recorded", amount_minor=1, currency="EUR", period=1)
            event["data"][field] = nested(levels)
            assert all(pointer.startswith("/data") for pointer in faults(event))


def test_a_traceparent_that_cannot_be_read_is_as_if_not_sent() -> None:
    good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert validate({**an_event(), "traceparent": good}, "acme", NOW).traceparent == good
    assert validate({**an_event(), "traceparent": "x"}, "acme", NOW).traceparent is None


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":"x\\u0000y"}', {"a": "x\ufffdy"}),
        (b'{"a\\u0000":["\\u0000",{"b\\u0000":"\\u0000"}]}', {"a\ufffd": ["\ufffd", {"b\ufffd": "\ufffd"}]}),
        (b'{"a":"\\ud800"}', {"a": "\ufffd"}),
        (b'{"\\udc00":"\\ud800x\\udfff"}', {"\ufffd": "\ufffdx\ufffd"}),
        (b'{"a":"\\ud83d\\udc4b \\ud800"}', {"a": "👋 \ufffd"}),
        (b'{"a":"\xed\xa0\x80"}', {"a": "\ufffd"}),
        (b'{"a":"x\x00y"}', {"a": "x\ufffdy"}),
        (b"\xef\xbb\xbf{}", {}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b"[9007199254740993,-9223372036854775808,18446744073709551615,1e30,-0.0]",
         [9007199254740993, -(2**63), 2**64 - 1, 1e30, -0.0]),
        (b'"\\\\u0000"', "\\u0000"),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_is_replaced_and_the_rest_kept(body: bytes, value: object) -> None:
    assert read_json(body) == value


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"{not json", "line 1 column 2"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":-Infinity}', "Infinity"),
        (b'{"a":1e400}', "too large"),
        (b'{"a":' + b"1" * 400 + b"}", "64 bits"),
        (b'{"a":' + b"1" * 30 + b"}", "64 bits"),
        (b"[-9223372036854775809]", "64 bits"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"a":"\xc3("}', "not UTF-8"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 100_000, "nested"),
        (b"\x00", "not JSON"),
        (b"1 2", "not JSON"),
    ],
)
def test_a_body_that_is_no_json_is_told_why(body: bytes, says: str) -> None:
    with pytest.raises(NotJson, match=says):
        read_json(body)


def test_cleaning_is_no_recursion() -> None:
    value: Any = "\0"
    for _ in range(50_000):
        value = [value]
    value = cleaned(value)
    while isinstance(value, list):
        (value,) = value
    assert value == "\ufffd"


texts = st.text(max_size=8) | st.sampled_from(["\0", "\ud800", "a\udfffb", "chat", "threadline.message.sent"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(
    [name for model in MODELS.values() for name in model.model_fields] + ["from", "specversion", "time", "data"]
)


@given(
    st.sampled_from([*MODELS, "threadline.unknown"]),
    st.dictionaries(fields, values, max_size=6),
    st.dictionaries(st.sampled_from(["id", "source", "time", "subject", "data", "data_base64"]), values, max_size=1),
)
def test_whatever_is_sent_is_either_taken_and_storable_or_refused_with_a_pointer(
    type: str, data: dict[str, Any], change: dict[str, Any]
) -> None:
    body = json.dumps({**an_event(type, **data), **change}).encode()
    try:
        value = read_json(body)
    except NotJson:
        return
    try:
        event = validate(value, "acme", NOW)
        record = encoded(event)
    except InvalidEvent as error:
        assert error.faults and all(fault.detail and fault.pointer.startswith(("/", "")) for fault in error.faults)
        return
    assert InboundEvent.decode(record) == event
    assert b"\\u0000" not in record
    assert orjson.loads(record)["data"] == event.data
