"""Signed tickets in receiving addresses: `support+T-1042.<signature>@acme.example`.

Whoever sends a mail about a ticket may put such an address into Reply-To; the answer then names its ticket by itself,
whatever happens to its headers. Only a signed one counts: anybody can write to an address of their own making.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from hashlib import sha256

_TAG = re.compile(r"\+([A-Za-z0-9][A-Za-z0-9_-]{0,63})\.([0-9a-f]{20})$", re.ASCII)


def signed_address(address: str, ticket: str, secret: str) -> str:
    """Return `address` with the signed ticket as its plus tag. Raises ValueError where the ticket does not fit one."""
    local, _, domain = address.rpartition("@")
    signed = f"{local.partition('+')[0]}+{ticket}.{_signature(ticket, secret)}"
    if not _TAG.search(signed):
        raise ValueError(f"the ticket {ticket!r} does not fit into an address")
    return f"{signed}@{domain}"


def ticket_of(addresses: Iterable[str], secrets: Iterable[str]) -> str | None:
    """Return the first ticket that one of `secrets` signed in one of `addresses`."""
    keys = list(secrets)
    for address in addresses:
        match = _TAG.search(address.strip().rpartition("@")[0]) if "+" in address else None
        if match and any(hmac.compare_digest(match[2], _signature(match[1], secret)) for secret in keys):
            return match[1]
    return None


def _signature(ticket: str, secret: str) -> str:
    key = secret.encode("utf-8", "surrogateescape")
    return hmac.digest(key, b"ticket:" + ticket.encode(), sha256).hex()[:20]
