"""Parts of the webhook path that need no database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.adapters.base import Account, Draft, Headers, Unreadable
from services.ingest.adapters.payloads import Part, read_form_bytes, read_multipart, read_multipart_slowly
from services.ingest.channels import SEALED_FOR, Channels
from services.ingest.webhooks import events_of
from shared.events import InboundEvent
from shared.sealing import Sealer

NOW = datetime(2026, 3, 3, 10, 0, tzinfo=UTC)
ACCOUNT = Account("t", "line", "acme", ("secret",))


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_what_an_adapter_left_unclean_is_cleaned_and_not_quarantined(text: str) -> None:
    handles = [{"kind": "line", "value": "U0/U1"}]
    data = {"channel": "line", "customer": {"handles": handles}, "text": text, "odd": [{text: text}]}
    (event, record), *none = events_of([Draft("1", "threadline.message.received", NOW, data)], ACCOUNT, NOW)[0]
    assert not none
    assert event.data["text"] == "a\ufffdb"
    assert orjson.loads(record)["data"]["odd"] == [{"a\ufffdb": "a\ufffdb"}]


def test_an_event_that_breaks_the_rules_is_quarantined() -> None:
    draft = Draft("1", "threadline.survey.answered", NOW, {"channel": "web", "metric": "csat", "score": "many"})
    events, (part,) = events_of([draft], ACCOUNT, NOW)
    assert events == []
    assert "score" in part.reason


def test_an_event_with_its_files_is_the_same_event() -> None:
    event = InboundEvent("t", "/s", "1", "threadline.message.received", NOW, NOW, {}, "a", "b", "NL", "d", ((0, b"x"),))
    assert event.with_files({"text": "y"}, ()) == replace(event, data={"text": "y"}, files=())
    assert event.with_files({}, ((1, b"z"),)).files == ((1, b"z"),)


NAMED = [("A", "1"), ("b", "2"), ("a", "3")]


@pytest.mark.parametrize(
    "headers", [Headers(NAMED), Headers.of_asgi([(name.lower().encode(), said.encode()) for name, said in NAMED])]
)
def test_a_header_given_twice_has_its_first_value_and_all(headers: Headers) -> None:
    assert (headers.get("A"), headers.get("B"), headers.get("c")) == ("1", "2", None)
    assert (headers.get_all("a"), headers.get_all("B"), headers.get_all("c")) == (["1", "3"], ["2"], [])
    assert Headers([("x", "1")]).get_all("X") == ["1"]


FORM = (
    b"--x", b"\r\n--x", b"\r\n--x\r\n", b"\n--x", b"\n--x\n", b"--", b"--x--", b"\r\n--x--", b"\r\n\r\n", b"\n\n",
    b"\r\n", b"\n", b"\r", b"\r\nContent-Disposition: form-data; name=a",
    b"\r\nContent-Disposition: form-data; name=b\r\n\r\nB",
    b'\r\nContent-Disposition: form-data; name="c"; filename="d"\r\nContent-Type: text/html; charset=ascii\r\n\r\nD',
    b"; name=" + b"e" * 200, b"\xff",
)  # fmt: skip


@settings(max_examples=1_000)
@given(
    st.sampled_from([b"", b"\r\n", b"--x", b"--x\r\nContent-Disposition: form-data; name=f\r\n\r\nF"]),
    st.lists(st.sampled_from(FORM), max_size=12).map(b"".join),
    st.sampled_from([b"", b"\r\n--x--\r\n", b"\n--x--", b"\r\n--x", b"\r\n--x-"]),
)
def test_a_form_in_the_usual_form_is_read_as_any_other_is(begin: bytes, middle: bytes, end: bytes) -> None:
    body = begin + middle + end
    assert _read(lambda: read_multipart("multipart/form-data; boundary=x", body)) == _read(
        lambda: read_multipart_slowly(body, b"--x")
    )


def test_a_boundary_of_lines_is_found_where_it_begins_first() -> None:
    part = b"\r\nContent-Disposition: form-data; name=a\r\n\r\n1"
    body = b"--\r\n--" + part + b"\n--\r\n--\r\n--" + part + b"\r\n--\r\n----"
    found = _read(lambda: read_multipart("multipart/form-data; boundary*=utf-8''%0D%0A--", body))
    assert found == _read(lambda: read_multipart_slowly(body, b"--\r\n--"))


def _read(form: Callable[[], list[Part]]) -> list[Part] | str:
    try:
        return form()
    except Unreadable as error:
        return error.reason


@pytest.mark.parametrize("parts", [1_998, 1_999, 2_000, 2_001])
def test_the_most_parts_of_a_form_are_the_same_in_its_usual_form(parts: int) -> None:
    body = b"--x" + b"\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--x" * parts + b"--"
    found = _read(lambda: read_multipart("multipart/form-data; boundary=x", body))
    assert found == _read(lambda: read_multipart_slowly(body, b"--x"))
    assert len(found) == parts if parts < 2_000 else found == "the multipart form has more than 2000 parts"


ESCAPED = (
    b"%41",
    b"%c3%A9",
    b"%00",
    b"%0A",
    b"%",
    b"%%",
    b"%4",
    b"%zz",
    b"%\n",
    b"%\r41",
    b"=",
    b"_",
    b"a ",
    b"\n",
    b"\xff",
)


@given(st.lists(st.one_of(st.sampled_from(ESCAPED), st.binary(max_size=4)), max_size=12).map(b"".join))
def test_escapes_of_forms_are_read_as_the_standard_library_reads_them(written: bytes) -> None:
    written = written.replace(b"&", b"").replace(b"+", b"")
    name, _, value = written.partition(b"=")
    pairs = read_form_bytes(b"x=1&" + written)
    assert pairs[1:] == (((unquote_to_bytes(name), unquote_to_bytes(value)),) if written else ())


async def test_of_many_deliveries_at_once_one_asks_again_for_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered = [], asyncio.Event()
    sealer = Sealer(bytes(32), SEALED_FOR)

    class Pool:
        """A database that answers when it is told to."""

        async def fetchrow(self, query: str, token: str) -> dict[str, Any]:
            asked.append(token)
            await answered.wait()
            return {
                "tenant_id": "t", "provider": "line", "account": "acme", "token": token, "public_url": None,
                "own_addresses": [], "default_region": None, "created_at": NOW, "changed_at": NOW,
                "sealed": sealer.seal(orjson.dumps({"secrets": ["s"], "options": {}}), "t/line/acme"),
            }  # fmt: skip

    channels = Channels(Pool(), bytes(32))  # type: ignore[arg-type]
    monkeypatch.setattr("services.ingest.channels.FRESH_S", 0.0)
    answered.set()
    assert await channels.by_token("x") is not None
    answered.clear()
    waiting = asyncio.create_task(channels.by_token("x"))
    await asyncio.sleep(0)
    for _ in range(5):
        known = await channels.by_token("x")
        assert known is not None and known.account.secrets == ("s",)
    answered.set()
    assert await waiting is not None
    assert len(asked) == 2
