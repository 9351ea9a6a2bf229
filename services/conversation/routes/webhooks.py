"""`/v1/webhook-endpoints`: who outside is told what, with which proof, and what became of it."""

from __future__ import annotations

import re
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from services.conversation.routes.parameters import instant, read
from services.conversation.webhooks import signing
from services.conversation.webhooks.addresses import MAX_URL_CHARACTERS, Network, checked_url
from services.conversation.webhooks.endpoints import (
    MAX_OVERLAP_S,
    OVERLAP_S,
    Endpoint,
    Endpoints,
    Given,
    NoSuchEndpoint,
    NotDead,
)
from services.conversation.webhooks.events import DELETED, TEST_TYPE, UPDATED, Wanted
from services.conversation.webhooks.retrying import judge
from services.conversation.webhooks.sender import Sender
from shared.auth import Principal, require
from shared.clock import Clock
from shared.events import MADE_HERE, POSTED, TYPE_PREFIX, rfc3339
from shared.problems import Fault, Problem, not_found

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
NAME_FORM = re.compile(NAME)
STATES = {"pending": "p", "delivered": "d", "dead": "x"}
STATE_NAMES = {code.encode(): name for name, code in STATES.items()}
KNOWN_TYPES = sorted(f"{TYPE_PREFIX}{name}" for name in POSTED | MADE_HERE)

Admin = Annotated[Principal, Depends(require("admin"))]
Name = Annotated[str, Path(pattern=NAME, description="The endpoint's name, chosen by you")]


def _secret(text: str) -> str:
    try:
        return signing.checked_secret(text)
    except ValueError as error:
        raise PydanticCustomError("sentence", "{told}", {"told": str(error)}) from None


Pattern = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
SecretText = Annotated[str, Field(max_length=200), AfterValidator(_secret)]


class EndpointSettings(BaseModel):
    """What an endpoint is set up with; only `url` is required. What is left out is its default, not what it was."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    url: str = Field(max_length=MAX_URL_CHARACTERS, description="https, on the open internet")
    event_types: list[Pattern] | None = Field(
        None, min_length=1, max_length=100,
        description="Full types or patterns (`threadline.message.*`); of an entry's later versions the type ends in "
        "`.updated`, of its removal in `.deleted`. Left out: everything",
    )  # fmt: skip
    channels: list[Pattern] | None = Field(None, min_length=1, max_length=100, description="Channels or patterns")
    sources: list[Pattern] | None = Field(
        None, min_length=1, max_length=100, description="Sources or patterns (`/email/*`): whose replies you deliver"
    )  # fmt: skip
    max_age_s: int | None = Field(
        None, ge=0, le=10**9, description="Not told is what happened longer before, in seconds: imported history"
    )
    enabled: bool = Field(True, description="While false, everything waits; nothing is lost")
    secret: SecretText | None = Field(
        None, description="`whsec_` and base64. Left out: one is made and shown once; an endpoint that has one keeps it"
    )

    @field_validator("event_types")
    @classmethod
    def _can_match(cls, patterns: list[str] | None) -> list[str] | None:
        told = [*KNOWN_TYPES, TEST_TYPE]
        for pattern in patterns or ():
            if not any(fnmatchcase(name + end, pattern) for name in told for end in ("", UPDATED, DELETED)):
                raise PydanticCustomError("sentence", "{told}", {"told": f"{pattern} matches no event type"})
        return patterns


class Rotation(BaseModel):
    """A new secret, given or made."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    secret: SecretText | None = None
    overlap_s: int = Field(OVERLAP_S, ge=0, le=MAX_OVERLAP_S, description="For so long the former secret signs too")


class Replay(BaseModel):
    """Which dead letters are sent again: some, or all since an instant."""

    model_config = ConfigDict(strict=True, extra="forbid")

    ids: list[Annotated[str, Field(max_length=100)]] | None = Field(None, min_length=1, max_length=1_000)
    since: str | None = Field(None, max_length=100, description="RFC 3339: those that died then or later")


def webhooks_router(endpoints: Endpoints, sender: Sender, allowed: tuple[Network, ...], clock: Clock) -> APIRouter:
    """Return the routes of outgoing webhooks. `allowed` are networks of the operator's that may be reached."""
    router = APIRouter(tags=["outgoing webhooks"])

    @router.put("/v1/webhook-endpoints/{name}", summary="Set up or change an endpoint that is told")
    async def put(admin: Admin, name: Name, settings: EndpointSettings) -> dict[str, Any]:
        """Store the endpoint. `secret` is in the answer only when it was made just now: keep it.

        Told is what reaches a timeline from then on. A change is tried at once: what waits is due now.
        """
        try:
            url = checked_url(settings.url, allowed)
        except ValueError as error:
            fault = Fault("#/url", str(error))
            raise Problem(422, "Not valid", "the endpoint cannot be stored; see errors", errors=[fault]) from error
        wanted = Wanted(settings.event_types, settings.channels, settings.sources, settings.max_age_s)
        given = Given(url, wanted, settings.enabled, settings.secret)
        endpoint, made = await endpoints.put(admin.tenant, name, given)
        sender.wake()
        return {**shown(endpoint, clock.now()), **({"secret": made} if made else {})}

    @router.get("/v1/webhook-endpoints", summary="List endpoints")
    async def list_endpoints(admin: Admin) -> dict[str, Any]:
        now = clock.now()
        return {"endpoints": [shown(endpoint, now) for endpoint in await endpoints.of(admin.tenant)]}

    @router.get("/v1/webhook-endpoints/{name}", summary="Show an endpoint and how it does")
    async def get(admin: Admin, name: Name) -> dict[str, Any]:
        return shown(await _found(endpoints, admin, name), clock.now())

    @router.delete("/v1/webhook-endpoints/{name}", status_code=204, summary="Delete an endpoint and all that waits")
    async def delete(admin: Admin, name: Name) -> Response:
        try:
            await endpoints.delete(admin.tenant, name)
        except NoSuchEndpoint:
            raise not_found("webhook endpoint") from None
        return Response(status_code=204)

    @router.post("/v1/webhook-endpoints/{name}/rotate", summary="Let a new secret sign, beside the old one for a while")
    async def rotate(admin: Admin, name: Name, rotation: Rotation | None = None) -> dict[str, Any]:
        """Return the new secret, once. Until `overlap_until` every delivery carries a signature of each."""
        wanted = rotation or Rotation()
        try:
            secret, until = await endpoints.rotate(admin.tenant, name, wanted.secret, wanted.overlap_s)
        except NoSuchEndpoint:
            raise not_found("webhook endpoint") from None
        return {"name": name, "secret": secret, "overlap_until": rfc3339(until)}

    @router.post("/v1/webhook-endpoints/{name}/test", summary="Post a test event now and say what came of it")
    async def test(admin: Admin, name: Name) -> dict[str, Any]:
        """Post `threadline.webhook.test`, signed, whether the endpoint is enabled or not. Nothing is kept of it."""
        webhook_id, answer = await sender.test(await _found(endpoints, admin, name))
        verdict = judge(answer)
        return {
            "webhook_id": webhook_id,
            "delivered": verdict.delivered,
            "status": answer.status,
            "reason": verdict.reason,
            "duration_ms": answer.duration_ms,
            "answer": answer.excerpt,
        }

    @router.get("/v1/webhook-endpoints/{name}/deliveries", summary="What was, is and could not be told")
    async def list_deliveries(
        admin: Admin,
        name: Name,
        state: Literal["pending", "delivered", "dead"] | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """Newest first; `state=dead` are the dead letters. They are kept for THREADLINE_WEBHOOK_RETENTION_S."""
        endpoint = await _found(endpoints, admin, name)
        before = read("cursor", cursor, _place)
        rows = await endpoints.deliveries(endpoint, STATES[state] if state else None, before, limit)
        following = str(rows[-1]["seq"]) if len(rows) == limit else None
        return {"deliveries": [_delivery(row) for row in rows], "next": following}

    @router.get("/v1/webhook-endpoints/{name}/deliveries/{webhook_id}", summary="One delivery and its attempts")
    async def get_delivery(admin: Admin, name: Name, webhook_id: str) -> dict[str, Any]:
        endpoint = await _found(endpoints, admin, name)
        rows = [] if "\0" in webhook_id else await endpoints.deliveries(endpoint, None, None, 1, webhook_id)
        if not rows:
            raise not_found("delivery")
        attempts = await endpoints.attempts(endpoint, webhook_id)
        return {**_delivery(rows[0]), "tries": [_attempt(row) for row in attempts]}

    @router.post("/v1/webhook-endpoints/{name}/replay", summary="Send dead letters again")
    async def replay(admin: Admin, name: Name, which: Replay) -> dict[str, Any]:
        """Make dead letters of `ids`, or all since `since`, pending again, with all their attempts before them."""
        if (which.ids is None) == (which.since is None):
            detail = "give either ids or since"
            raise Problem(422, "Not valid", detail, errors=[Fault("#", detail)])
        since = _since(which.since)
        endpoint = await _found(endpoints, admin, name)
        ids = which.ids
        try:
            if any("\0" in one for one in ids or ()):
                raise NotDead("an id with a NUL character")
            replayed = await endpoints.replay(endpoint, ids, since)
        except NotDead as error:
            raise Problem(404, "Not found", f"{error} is no dead letter of this endpoint; nothing was sent") from error
        sender.wake()
        return {"replayed": replayed}

    return router


async def _found(endpoints: Endpoints, admin: Principal, name: str) -> Endpoint:
    try:
        return await endpoints.find(admin.tenant, name)
    except NoSuchEndpoint:
        raise not_found("webhook endpoint") from None


def _since(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return instant(text)
    except ValueError as error:
        raise Problem(422, "Not valid", str(error), errors=[Fault("#/since", str(error))]) from error


def _place(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError("not a cursor of this API; take `next` of an answer as it is")
    return int(text)


def shown(endpoint: Endpoint, now: datetime) -> dict[str, Any]:
    """Return an endpoint as the API shows it, without its secrets."""
    active = signing.active(endpoint.secrets, now)
    return {
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": endpoint.wanted.event_types,
        "channels": endpoint.wanted.channels,
        "sources": endpoint.wanted.sources,
        "max_age_s": endpoint.wanted.max_age_s,
        "enabled": endpoint.enabled,
        "disabled_reason": endpoint.disabled_reason,
        "secrets": len(active),
        "failures": endpoint.failures,
        "paused_until": _at(endpoint.paused_until),
        "last_error": endpoint.last_error,
        "pending": endpoint.pending,
        "dead": endpoint.dead,
        "created_at": _at(endpoint.created_at),
        "changed_at": _at(endpoint.changed_at),
    }


def _delivery(row: Any) -> dict[str, Any]:
    return {
        "webhook_id": row["webhook_id"],
        "type": row["type"],
        "state": STATE_NAMES[row["state"]],
        "attempts": row["attempts"],
        "customer_id": str(row["customer_id"]),
        "entry_id": str(row["entry_id"]) if row["entry_id"] else None,
        "created_at": _at(row["created_at"]),
        "settled_at": _at(row["settled_at"]),
        "due_at": _at(row["due_at"]),
        "last_status": row["last_status"],
        "last_error": row["last_error"],
    }


def _attempt(row: Any) -> dict[str, Any]:
    return {
        "at": _at(row["at"]),
        "status": row["status"],
        "error": row["error"],
        "duration_ms": row["duration_ms"],
        "answer": row["excerpt"],
    }


def _at(at: datetime | None) -> str | None:
    return rfc3339(at) if at else None


__all__ = ["shown", "webhooks_router"]
