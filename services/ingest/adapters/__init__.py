"""Channel adapters: one pure module per provider, raw request → events. See docs/adapters.md."""

from __future__ import annotations

from services.ingest.adapters.base import Adapter
from services.ingest.adapters.email_raw import EmailRaw

ADAPTERS: dict[str, Adapter] = {
    "email_raw": EmailRaw(),
}
"""Provider → adapter."""
