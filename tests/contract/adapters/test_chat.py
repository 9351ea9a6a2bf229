"""Our own chat: sessions that are opened, spoken in, renewed and ended, for the websites that may."""

from __future__ import annotations

import hmac
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import orjson
import pytest

from services.ingest.adapters.base import (
    Forged,
)
from services.ingest.adapters.chat import Session, make_token, read_token
from tests.contract.adapters.direct import a_request, an_account, deliver
from tests.contract.adapters.providers import NOW

CHAT = an_account("chat", "new-secret", "old-secret", origins=["https://www.acme.example"])
ORIGIN = {"origin": "https://www.acme.example"}


def opened(query: str, headers: dict[str, str] | None = None, at: datetime = NOW) -> dict[str, Any]:
    answer = deliver(
        CHAT, a_request(query=query, headers=ORIGIN if headers is None else headers, method="GET", at=at)
    ).answer
    assert answer.status == 200
    return dict(orjson.loads(answer.body))


def test_chat_session_is_opened_spoken_in_and_renewed() -> None:
    session = opened("nonce=0123456789abcdef012345")
    assert session["visitor"].startswith("v-") and session["session"].startswith("s-")
    message = {"type": "message", "client_message_id": "3b241101-e2bb-4255-8caf-4136c566a961", "text": "Hi"}
    body = orjson.dumps({"token": session["token"], "events": [message]})
    (event,) = deliver(CHAT, a_request(body, ORIGIN)).events
    assert (event.id, event.time) == (message["client_message_id"], NOW)
    assert event.data["contact_id"] == session["session"]
    with pytest.raises(Forged) as ended:
        deliver(CHAT, a_request(body, ORIGIN, at=NOW + timedelta(hours=1)))
    assert ended.value.status == 401
    renewed = opened(f"token={session['token']}", at=NOW + timedelta(hours=20))
    assert (renewed["session"], renewed["visitor"]) == (session["session"], session["visitor"])
    with pytest.raises(Forged):
        opened(f"token={session['token']}", at=NOW + timedelta(hours=26))


def test_chat_visitors_cannot_choose_their_ids() -> None:
    one, other = opened("nonce=0123456789abcdef012345"), opened("nonce=0123456789abcdef012346")
    assert one["visitor"] != other["visitor"] and one["session"] != other["session"]
    assert deliver(CHAT, a_request(query="nonce=short", headers=ORIGIN, method="GET")).answer.status == 422


def test_chat_user_is_known_only_with_the_websites_hash() -> None:
    given = hmac.new(b"old-secret", b"user:C-9", sha256).hexdigest()
    session = opened(f"nonce=0123456789abcdef012345&user=C-9&user_hash={given}")
    assert read_token(session["token"], CHAT).user == "C-9"
    with pytest.raises(Forged):
        opened("nonce=0123456789abcdef012345&user=C-9&user_hash=" + "0" * 64)


def test_chat_takes_only_its_own_websites() -> None:
    with pytest.raises(Forged) as refused:
        opened("nonce=0123456789abcdef012345", {"origin": "https://evil.example"})
    assert refused.value.status == 403
    preflight = deliver(CHAT, a_request(headers=ORIGIN, method="OPTIONS")).answer
    assert preflight.status == 204
    assert dict(preflight.headers)["access-control-allow-origin"] == "https://www.acme.example"
    foreign = deliver(CHAT, a_request(headers={"origin": "https://evil.example"}, method="OPTIONS")).answer
    assert "access-control-allow-origin" not in dict(foreign.headers)


def test_chat_takes_threadlines_own_page_and_lets_only_named_websites_read() -> None:
    opening = "nonce=0123456789abcdef012345"
    own = {"origin": "https://chat.acme.example", "host": "chat.acme.example"}
    assert opened(opening, own)["stream_url"].startswith("/v1/chat/stream?ticket=")
    anywhere = an_account("chat", "new-secret")
    request = a_request(query=opening, headers={"origin": "https://evil.example"}, method="GET")
    assert "access-control-allow-origin" not in dict(deliver(anywhere, request).answer.headers)


def test_chat_refuses_more_events_than_it_takes_instead_of_dropping_some() -> None:
    session = opened("nonce=0123456789abcdef012345")
    one = {"type": "message", "client_message_id": "3b241101-e2bb-4255-8caf-4136c566a961", "text": "Hi"}
    body = orjson.dumps({"token": session["token"], "events": [one] * 101})
    delivery = deliver(CHAT, a_request(body, ORIGIN))
    assert (delivery.answer.status, delivery.events) == (413, ())


def test_chat_tells_an_allowed_website_that_its_session_has_ended() -> None:
    session = opened("nonce=0123456789abcdef012345")
    body = orjson.dumps({"token": session["token"], "events": []})
    with pytest.raises(Forged) as ended:
        deliver(CHAT, a_request(body, ORIGIN, at=NOW + timedelta(hours=2)))
    assert dict(ended.value.headers)["access-control-allow-origin"] == ORIGIN["origin"]


CHANGES = {
    "signature": lambda token: token[:-2] + ("AA" if token[-2:] != "AA" else "BB"),
    "version": lambda token: "v2" + token[2:],
    "joined": lambda token: token.replace(".", "", 1),
    "longer": lambda token: token + ".x",
    "in front": lambda token: "v1.e30." + token,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_chat_token_that_was_changed_is_refused(change: Any) -> None:
    token = make_token(Session("v", "s", NOW + timedelta(hours=1)), "new-secret")
    assert read_token(token, CHAT) == Session("v", "s", NOW + timedelta(hours=1))
    with pytest.raises(Forged):
        read_token(change(token), CHAT)
