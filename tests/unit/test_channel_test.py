"""`threadline channels test`: a refusal is explained with what to do, and our own proofs are what the adapters take."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from services.cli.diagnosing import WHERE, findings, refused
from services.cli.knocking import Knock, knocks
from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import Account, Headers, RawRequest, receive
from shared.errors import SetupError
from tests.contract.adapters.providers import NOW, PROVIDERS, Signing
from tests.contract.adapters.recorded import recorded

GENUINE = {record.provider.name: record.signing for record in recorded()}
URL = "https://hooks.acme.example/in?a=1"


def a_delivery(name: str, secret: str | None = None, signing: Signing | None = None) -> RawRequest:
    provider = PROVIDERS[name]
    return provider.sign(signing or GENUINE[name], secret or provider.secrets[0])


def why(name: str, request: RawRequest, account: Account | None = None, *others: Account) -> str:
    account = account or PROVIDERS[name].account()
    assert refused(request, account) is not None
    return "; ".join(findings(request, account, others))


def test_every_provider_says_what_its_secret_is() -> None:
    assert set(WHERE) == set(ADAPTERS)


@pytest.mark.parametrize("name", PROVIDERS)
def test_wrong_secret_is_named_and_whose_it_is_where_that_is_known(name: str) -> None:
    provider = PROVIDERS[name]
    request = a_delivery(name, provider.secrets[2])
    assert WHERE[name] in why(name, request)
    other = replace(provider.account(provider.secrets[2]), account="other")
    assert f"the secret of {name}/other" in why(name, request, None, provider.account(), other)


@pytest.mark.parametrize("name", ["slack", "standard_webhooks", "sendgrid_events", "mailgun", "wechat"])
def test_clock_that_is_off_is_told_apart_from_a_wrong_secret(name: str) -> None:
    window = PROVIDERS[name].window
    assert window is not None
    late = replace(a_delivery(name), received_at=NOW + window + timedelta(minutes=61))
    assert "the proof is right" in why(name, late) and "behind this machine's clock" in why(name, late)
    early = replace(late, received_at=NOW - window - timedelta(minutes=2))
    assert "ahead of this machine's clock" in why(name, early)
    assert "the proof is right" not in why(name, replace(a_delivery(name, PROVIDERS[name].secrets[2])))


@pytest.mark.parametrize(
    ("configured", "headers"),
    [
        ("http://hooks.acme.example/in?a=1", {}),
        ("https://hooks.acme.example/in/?a=1", {}),
        ("https://internal:8080/in?a=1", {"X-Forwarded-Host": "hooks.acme.example"}),
        ("https://internal/in?a=1", {"Host": "hooks.acme.example"}),
    ],
)
def test_url_that_twilio_signed_is_found(configured: str, headers: dict[str, str]) -> None:
    account = replace(PROVIDERS["twilio"].account(), public_url=configured)
    request = a_delivery("twilio")
    request = replace(request, query="", headers=Headers([*request.headers.items(), *headers.items()]))
    assert "give the account --public-url https://hooks.acme.example/in?a=1" in why("twilio", request, account)


def test_url_of_twilio_that_nothing_hints_at_is_named_to_be_compared() -> None:
    account = replace(PROVIDERS["twilio"].account(), public_url="https://elsewhere.example/other")
    request = replace(a_delivery("twilio"), query="")
    assert "Twilio has another URL than https://elsewhere.example/other" in why("twilio", request, account)


def test_changed_line_ends_and_white_space_are_found() -> None:
    request = a_delivery("line", signing=Signing(b'{"events":[]}\r\n'))
    assert "other line ends" in why("line", replace(request, body=b'{"events":[]}'))
    spaced = PROVIDERS["line"].account(PROVIDERS["line"].secrets[0] + "\n")
    assert "white space" in why("line", request, spaced)


def test_missing_proof_is_said_to_be_missing() -> None:
    assert "did not come along" in why("line", replace(a_delivery("line"), headers=Headers()))


def answered(account: Account, knock: Knock) -> httpx.Response:
    """What the webhook answers to a knock."""
    headers = Headers([("host", "hooks.acme.example"), *knock.headers.items()])
    request = RawRequest(knock.method, "/in", knock.query, headers, b"", NOW)
    answer = receive(ADAPTERS[account.provider], request, account).answer
    return httpx.Response(answer.status, headers=list(answer.headers), content=answer.body)


@pytest.mark.parametrize("name", PROVIDERS)
def test_our_knocks_are_what_the_adapter_takes_and_leave_nothing(name: str) -> None:
    provider = PROVIDERS[name]
    account = replace(provider.account(), public_url=URL)
    tried = knocks(account, URL, NOW)
    assert tried or name in ("sendgrid_inbound", "sendgrid_events", "mailgun")
    for knock in tried:
        assert knock.fits(answered(account, knock)), knock.what
        # What answers in our place does not.
        assert not knock.fits(httpx.Response(200, content=b"<html>")) and not knock.fits(httpx.Response(404))


def test_handshake_that_cannot_work_says_what_is_missing() -> None:
    account = replace(PROVIDERS["messenger"].account(), options={})
    with pytest.raises(SetupError, match="--option verify_token"):
        knocks(account, URL, NOW)
