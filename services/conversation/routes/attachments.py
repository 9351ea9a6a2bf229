"""`/v1/attachments/{id}`: the bytes of a file that came with an event."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Response

from services.conversation.routes.parameters import id_of
from shared import attachments
from shared.auth import Principal, require
from shared.database.engine import tenant_reader
from shared.problems import MEDIA_TYPE, not_found
from shared.service import Platform

Reader = Annotated[Principal, Depends(require("timeline:read"))]

ANY_BYTES = "application/octet-stream"
LONGEST_NAME = 200
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,99}/[a-z0-9][a-z0-9!#$&^_.+-]{0,99}")
_ACTIVE = re.compile(r"(multipart|message)/.*|.*(html|xml|script)")
"""Types that a browser might run or take apart: nothing that a stranger sent is to be run in our name."""


def attachments_router(platform: Platform) -> APIRouter:
    """Return the route of attachments."""
    router = APIRouter(tags=["customers"])

    @router.get(
        "/v1/attachments/{attachment_id}",
        summary="The bytes of a file that came with an event; its url in the entry's attachments",
        response_class=Response,
        responses={
            200: {"description": "The file as it came, to be saved", "content": {"*/*": {}}},
            404: {"description": "There is no such file, or none any more", "content": {MEDIA_TYPE: {}}},
        },
    )
    async def attachment(reader: Reader, attachment_id: str) -> Response:
        id_ = id_of("attachment", attachment_id)
        async with tenant_reader(platform.pool, reader.tenant) as connection:
            found = await attachments.load(connection, reader.tenant, id_)
        if found is None:
            raise not_found("attachment")
        # The end of a name tells what it is; a header is no place for all of a long one.
        name = (found["name"] or "attachment")[-LONGEST_NAME:]
        headers = {
            "content-type": safe_type(found["media_type"]),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
            "content-security-policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
        }
        return Response(found["content"], headers=headers)

    return router


def safe_type(written: str | None) -> str:
    """Return the media type that a sender wrote, without its parameters, or the one that says nothing."""
    kind = (written or "").partition(";")[0].strip().lower()
    return kind if _TYPE.fullmatch(kind) and not _ACTIVE.fullmatch(kind) else ANY_BYTES
