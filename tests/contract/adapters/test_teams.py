"""Teams: whose keys prove a delivery. Source: botframework-activity.md and the Bot Connector's authentication."""

from __future__ import annotations

import base64
import hmac
from dataclasses import replace
from hashlib import sha256
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import (
    KeySource,
    WithPublishedKeys,
)
from tests.contract.adapters.direct import a_request, an_account, deliver, is_genuine
from tests.contract.adapters.providers import JSON, NOW

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def url64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def jwks(key: rsa.RSAPrivateKey) -> dict[str, Any]:
    numbers = key.public_key().public_numbers()
    return {"keys": [{"kty": "RSA", "kid": "k1", "n": url64(numbers.n.to_bytes(256, "big")), "e": "AQAB",
                      "endorsements": ["msteams"]}]}  # fmt: skip


def a_token(key: rsa.RSAPrivateKey = KEY, header: dict[str, Any] | None = None, **claims: Any) -> str:
    now = int(NOW.timestamp())
    payload = {"iss": "https://api.botframework.com", "aud": "app1", "nbf": now - 60, "exp": now + 600,
               "serviceurl": "https://smba.example/emea", **claims}  # fmt: skip
    signed = ".".join(url64(orjson.dumps(part)) for part in (header or {"alg": "RS256", "kid": "k1"}, payload))
    return f"{signed}.{url64(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


ACTIVITY = orjson.dumps(
    {"type": "message", "id": "1", "text": "hi", "textFormat": "plain", "serviceUrl": "https://smba.example/emea/",
     "from": {"id": "29:a"}, "conversation": {"id": "c", "tenantId": "ten"}}
)  # fmt: skip


@pytest.mark.parametrize(
    ("token", "genuine"),
    [
        (a_token(), True),
        (a_token(exp=int(NOW.timestamp()) - 200), True),
        (a_token(exp=int(NOW.timestamp()) - 400), False),
        (a_token(nbf=int(NOW.timestamp()) + 400), False),
        (a_token(exp=None), False),
        (a_token(aud="app2"), False),
        (a_token(iss="https://evil.example"), False),
        (a_token(serviceurl="https://evil.example"), False),
        (a_token(serviceurl=None), False),
        (a_token(iss="https://api.botframework.us"), False),
        (a_token(OTHER_KEY), False),
        (a_token(header={"alg": "none", "kid": "k1"}), False),
        (a_token(header={"alg": "HS256", "kid": "k1"}), False),
        (a_token(header={"alg": "RS256", "kid": "k2"}), False),
        (a_token().rpartition(".")[0] + ".", False),
        ("a.b.c", False),
        ("", False),
    ],
)
def test_teams_token_is_checked_in_every_respect(token: str, genuine: bool) -> None:
    account = an_account("teams", jwks=jwks(KEY), app_id="app1")
    request = a_request(ACTIVITY, {"content-type": JSON, "authorization": f"Bearer {token}"})
    assert is_genuine(account, request) is genuine
    if genuine:
        assert deliver(account, request).events[0].data["customer"]["handles"][0]["value"] == "ten/29:a"
    # The same where the keys are Microsoft's own.
    fetched = replace(an_account("teams", app_id="app1"), keys=jwks(KEY))
    assert is_genuine(fetched, request) is genuine
    assert not is_genuine(an_account("teams", app_id="app1"), request)


def test_teams_says_whose_keys_a_token_needs() -> None:
    teams = ADAPTERS["teams"]
    assert isinstance(teams, WithPublishedKeys)

    def source(token: str, **options: Any) -> KeySource | None:
        request = a_request(ACTIVITY, {"authorization": token})
        return teams.key_source(request, an_account("teams", **options))

    public = "https://login.botframework.com/v1/.well-known/openidconfiguration"
    assert source("Bearer " + a_token()) == KeySource(public, "k1")
    found = source("bearer " + a_token(), cloud="us_government")
    assert found is not None and found.metadata_url.startswith("https://login.botframework.azure.us/")
    for nothing in ("Bearer a.b.c", "Bearer", "HMAC abc", "", "Bearer " + "a" * 20_000):
        assert source(nothing) is None
    assert source("Bearer " + a_token(), jwks=jwks(KEY)) is None


def test_a_bots_account_takes_no_shared_secret() -> None:
    body = ACTIVITY
    proof = base64.b64encode(hmac.new(b"app-1", body, sha256).digest()).decode()
    request = a_request(body, {"content-type": JSON, "authorization": f"HMAC {proof}"})
    assert is_genuine(an_account("teams", "app-1"), request)
    assert not is_genuine(an_account("teams", "app-1", app_id="app-1"), request)
