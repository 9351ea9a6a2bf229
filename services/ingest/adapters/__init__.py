"""Channel adapters: one pure module per provider, raw request → events. See docs/adapters.md."""

from __future__ import annotations

from services.ingest.adapters.base import Adapter

ADAPTERS: dict[str, Adapter] = {}
"""Provider → adapter."""
