"""Surveys by Standard Webhooks. Source: the Standard Webhooks specification (spec/standard-webhooks.md)."""

from __future__ import annotations

import base64
import binascii
import hmac
from datetime import timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.ingest.adapters import events
from services.ingest.adapters.base import Account, Delivery, Forged, Malformed, Plain, Quarantined, RawRequest
from services.ingest.adapters.events import CONTRACT_FIELDS
from services.ingest.adapters.payloads import Json, items, mapping, read_object, text, without_nothing
from services.ingest.adapters.signatures import hmac_sha256, require_fresh, require_header
from services.ingest.adapters.times import told_iso

WINDOW = timedelta(minutes=5)
_LONGEST_ID = 256
_MOST_SIGNATURES = 50

# metric → (lowest score, highest score that a survey may use as its scale)
_SCALES = {"csat": (1, 10), "ces": (1, 10), "nps": (0, 10)}
_USUAL = {"csat": 5, "ces": 7, "nps": 10}


class StandardWebhooks(Plain):
    """Survey answers, signed with `whsec_…` (HMAC) or checked with `whpk_…` (ed25519)."""

    def verify(self, request: RawRequest, account: Account) -> None:
        """Any one signature of a known version that fits is enough."""
        webhook_id = require_header(request, "webhook-id")
        if len(webhook_id) > _LONGEST_ID:
            raise Malformed(400, "webhook-id is too long")
        signatures = require_header(request, "webhook-signature").split(" ")
        stamp = require_fresh(require_header(request, "webhook-timestamp"), request.received_at, WINDOW)
        signed = f"{webhook_id}.{stamp}.".encode("utf-8", "surrogateescape") + request.body
        found = False
        for signature in signatures[:_MOST_SIGNATURES]:
            version, _, encoded = signature.partition(",")
            for secret in account.secrets:
                found |= _fits(version, encoded, secret, signed)
        if not found:
            raise Forged(403, "no signature is one of this account's")

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return one event per answer; `data` may be one answer or, from some senders, a list of them."""
        webhook_id = require_header(request, "webhook-id")
        answer = self.taken(account, webhook_id)
        body = read_object(request.body)
        at = told_iso(body.get("timestamp"))
        answers = items(body.get("data")) or [mapping(body.get("data"))]
        drafts, quarantined = [], []
        for number, data in enumerate(answers):
            event_id = webhook_id if len(answers) == 1 else events.key(webhook_id, number)
            problem = _problem(mapping(data))
            if problem:
                kind = text(body.get("type")) or "without a type"
                quarantined.append(Quarantined(f"{problem} (event {kind[:100]})", event_id))
                continue
            drafts.append(
                events.draft("threadline.survey.answered", event_id, at, **_answered(mapping(data), body, event_id))
            )
        return Delivery(answer, tuple(drafts), tuple(quarantined))


def _fits(version: str, encoded: str, secret: str, signed: bytes) -> bool:
    try:
        given = base64.b64decode(encoded, validate=True)
        if version == "v1" and not secret.startswith("whpk_"):
            return hmac.compare_digest(given, hmac_sha256(_key(secret), signed))
        if version == "v1a" and secret.startswith("whpk_"):
            public = Ed25519PublicKey.from_public_bytes(base64.b64decode(secret.removeprefix("whpk_")))
            public.verify(given, signed)
            return True
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return False


def _key(secret: str) -> bytes:
    """The part after `whsec_` is base64; a secret that is not is used as it stands."""
    encoded = secret.removeprefix("whsec_")
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return encoded.encode("utf-8", "surrogateescape")


def _number(value: Json) -> float | int | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _problem(data: Any) -> str | None:
    """Return why this is no survey answer, or None."""
    metric = text(data.get("metric"))
    if metric not in _SCALES:
        return "it is no survey answer: metric is none of csat, ces, nps"
    score, low = _number(data.get("score")), _SCALES[metric][0]
    scale = _scale(data)
    if scale is None:
        return f"the scale does not fit {metric}"
    if score is None or not low <= score <= scale:
        return f"the score is not between {low} and {scale}"
    return None


def _scale(data: Any) -> int | None:
    """Return the highest score: `scale` is a number, or [lowest, highest]; missing it is the metric's usual one."""
    low, most = _SCALES[data["metric"]]
    scale = data.get("scale")
    if scale is None:
        scale = _USUAL[data["metric"]]
    pair = items(scale)
    if len(pair) == 2 and _number(pair[0]) == low:
        scale = pair[1]
    high = _number(scale)
    if high is None or high != int(high) or not low < high <= most:
        return None
    if data["metric"] == "nps" and high != 10:
        return None
    return int(high)


def _answered(data: Any, body: Any, event_id: str) -> dict[str, Any]:
    comment = text(data.get("comment"))
    metric = data["metric"]
    return {
        # What this adapter does not know goes along; what it does know wins.
        **{name: value for name, value in data.items() if name not in CONTRACT_FIELDS},
        **{name: text(data.get(name)) for name in ("channel", "contact_id", "language", "topic")},
        "thread": {name: text(value) for name, value in mapping(data.get("thread")).items() if text(value)},
        "customer": without_nothing(_customer(data)),
        "actor": events.CUSTOMER,
        "conversation_id": text(data.get("conversation_id")),
        "survey_id": text(data.get("survey_id")) or event_id,
        "kind": metric,
        "metric": metric,
        "score": data["score"],
        "scale": [_SCALES[metric][0], _scale(data)],
        "comment": comment,
        "text": comment,
        "survey_type": text(body.get("type")),
    }


def _customer(data: Any) -> dict[str, Any]:
    given = mapping(data.get("customer"))
    handles = []
    for handle in items(given.get("handles")):
        if isinstance(handle, str) and ":" in handle:
            kind, _, value = handle.partition(":")
            handles.append({"kind": kind, "value": value, "verified": False})
        elif text(mapping(handle).get("kind")) and text(mapping(handle).get("value")):
            handles.append(
                {
                    "kind": text(handle["kind"]),
                    "value": text(handle["value"]),
                    "verified": handle.get("verified") is True,
                }
            )
    return {"handles": handles, "name": text(given.get("name")), "attributes": mapping(given.get("attributes"))}
