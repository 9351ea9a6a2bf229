"""`POST /v1/events/attachments`: a file that is too large for the request of its event, sent by itself before it."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from services.ingest import openapi
from services.ingest.limits import Pressure, TooMuch
from services.ingest.metrics import IngestMetrics
from services.ingest.reading import MAX_ATTRIBUTE_BYTES, clean_text
from services.ingest.routes import too_many, whole_body
from shared import attachments
from shared.attachments import File, attachment_secret
from shared.auth import Principal, require
from shared.events import KEPT_FILES
from shared.service import Platform

PATH = "/v1/events/attachments"
MAX_BODY_BYTES = 40 * 1024 * 1024
"""As much as a delivery of mail may bring."""
MOST = 10_000
"""Places among the attachments of one event."""


def _attribute(text: str) -> str:
    text = clean_text(text)
    if len(text.encode()) > MAX_ATTRIBUTE_BYTES:
        raise PydanticCustomError("sentence", "is longer than {most} bytes of UTF-8", {"most": MAX_ATTRIBUTE_BYTES})
    return text


Attribute = Annotated[str, AfterValidator(_attribute)]


def add_attachment_routes(router: APIRouter, platform: Platform, pressure: Pressure, metrics: IngestMetrics) -> None:
    """Add the route that takes files."""
    secret = attachment_secret(platform.secret_key)

    @router.post(
        PATH,
        tags=["ingest"],
        status_code=201,
        summary="Keep a file that an event is going to name",
        responses={
            201: openapi.response("What belongs into the event's `data.attachments`", openapi.KEPT_FILE_SCHEMA),
            **openapi.problems(
                s413=f"More than {MAX_BODY_BYTES} bytes",
                s422="A source, id or place that no event can have",
                s429="Back-pressure; see Retry-After",
            ),
        },
        openapi_extra={"requestBody": openapi.ANY_FILE},
    )
    async def keep(
        request: Request,
        principal: Annotated[Principal, Depends(require("events:write"))],
        source: Annotated[Attribute, Query(description="The event's `source`", min_length=1)],
        id: Annotated[Attribute, Query(description="The event's `id`", min_length=1)],
        place: Annotated[int, Query(description="Its place among the event's attachments, from 0", ge=0, lt=MOST)],
        name: Annotated[str | None, Query(description="The file's name")] = None,
    ) -> dict[str, Any]:
        """Keep the bytes of the body for an event that is posted afterwards; sent again they are kept once.

        The answer goes into that event's `data.attachments` as it is, at `place`. The `Content-Type` is the file's.
        Bytes whose event does not come within eight days are deleted, and so is a file when its event is erased.
        """
        try:
            held_bytes = pressure.hold(request.headers.get("content-length"))
        except TooMuch as error:
            raise too_many(1, str(error)) from error
        try:
            content = await whole_body(request)
            media_type = request.headers.get("content-type")
            facts = {
                "name": clean_text(name) if name is not None else None,
                "media_type": clean_text(media_type) if media_type is not None else None,
            }
            digest = sha256(content).hexdigest()
            id_ = attachments.attachment_id(secret, principal.tenant, source, id, place, digest)
            file = File(principal.tenant, id_, source, id, facts["name"], facts["media_type"], content)
            await attachments.put(platform.pool, [file])
            metrics.attachments.inc()
        finally:
            pressure.release(held_bytes)
        named = {key: value for key, value in facts.items() if value is not None}
        return {**named, "size_bytes": len(content), "sha256": digest, "url": f"{KEPT_FILES}{id_}"}
