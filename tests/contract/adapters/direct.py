"""Deliveries handed to an adapter directly, as a test made them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import (
    Account,
    Delivery,
    Forged,
    Headers,
    RawRequest,
    receive,
)
from tests.contract.adapters.providers import NOW


def an_account(provider: str, *secrets: str, public_url: str | None = None, **options: Any) -> Account:
    return Account("t1", provider, "acme", secrets, public_url=public_url, options=options)


def a_request(
    body: bytes = b"", headers: dict[str, str] | None = None, query: str = "", method: str = "POST", at: datetime = NOW
) -> RawRequest:
    return RawRequest(method, "/v1/webhooks/p/t", query, Headers((headers or {}).items()), body, at)


def deliver(account: Account, request: RawRequest) -> Delivery:
    return receive(ADAPTERS[account.provider], request, account)


def is_genuine(account: Account, request: RawRequest) -> bool:
    try:
        ADAPTERS[account.provider].verify(request, account)
    except Forged:
        return False
    return True
