"""Parts of the webhook path that need no database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.adapters.base import Account, Draft
from services.ingest.adapters.payloads import read_form_bytes
from services.ingest.channels import SEALED_FOR, Channels
from services.ingest.webhooks import events_of
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
