"""The ids of entries: keyed hashes of what names an event, the same after every replay."""

from __future__ import annotations

from hmac import digest
from uuid import UUID


def entry_secret(secret_key: bytes) -> bytes:
    """Derive the key of entry ids from the installation's secret key."""
    return digest(secret_key, b"threadline entry ids", "sha256")


def entry_id_of(secret: bytes, tenant: str, source: str, event_id: str) -> UUID:
    """Return the id of the entry that the event (tenant, source, id) becomes; `secret` is `entry_secret`'s."""
    return UUID(bytes=entry_id_bytes(secret, tenant, source, event_id))


def entry_id_bytes(secret: bytes, tenant: str, source: str, event_id: str) -> bytes:
    """Return the 16 bytes of `entry_id_of`."""
    message = f"{tenant}\0{source}\0{event_id}".encode("utf-8", "surrogatepass")
    return digest(secret, message, "sha256")[:16]
