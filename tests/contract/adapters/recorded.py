"""Recorded deliveries: one JSON file each, with the facts' source, the request, and what is to come of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from services.ingest.adapters.base import Delivery, receive
from tests.contract.adapters.providers import FORM, HELD, JSON, PROVIDERS, UNDER_TEST, Provider, Signing

PAYLOADS = Path(__file__).resolve().parent.parent / "payloads"


@dataclass(frozen=True)
class Recorded:
    """One recorded delivery."""

    provider: Provider
    name: str
    document: dict[str, Any]

    @property
    def signing(self) -> Signing:
        """What the provider sends: `body` as JSON (escaped, as Meta does), `form` pairs, or `text` as it stands."""
        document = self.document
        if "form" in document:
            return Signing(urlencode([tuple(pair) for pair in document["form"]]).encode(), FORM)
        if "body" in document:
            return Signing(json.dumps(document["body"]).encode(), document.get("content_type", JSON))
        text = document["text"]
        raw = text.encode("latin-1") if document.get("bytes") else text.encode()
        return Signing(raw, document.get("content_type", self.provider.content_type))


def outcome(delivery: Delivery) -> dict[str, Any]:
    """Return a delivery as the recorded files write it."""
    return {
        "answer": {"status": delivery.answer.status, "body": delivery.answer.body.decode()},
        "events": [
            {
                "id": draft.id,
                "type": draft.type,
                "time": draft.time.isoformat().replace("+00:00", "Z") if draft.time else None,
                "data": draft.data,
            }
            for draft in delivery.events
        ],
        "quarantined": [{"reason": part.reason, "dedupe_key": part.dedupe_key} for part in delivery.quarantined],
    }


def recorded(providers: Mapping[str, Provider] = PROVIDERS) -> list[Recorded]:
    """Return all recorded deliveries of the providers."""
    return [
        Recorded(providers[folder.name], path.stem, json.loads(path.read_text("utf-8")))
        for folder in sorted(PAYLOADS.iterdir())
        if folder.name in providers
        for path in sorted(folder.glob("*.json"))
    ]


def fill_in() -> None:
    """Write into each file named on the command line what the adapter makes of it, for its author to read and judge."""
    for name in sys.argv[1:]:
        path = Path(name).resolve()
        record = Recorded(HELD[path.parent.name], path.stem, json.loads(path.read_text("utf-8")))
        request = record.provider.sign(record.signing, record.provider.secrets[0])
        record.document.update(outcome(receive(UNDER_TEST[record.provider.name], request, record.provider.account())))
        path.write_text(json.dumps(record.document, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    fill_in()
