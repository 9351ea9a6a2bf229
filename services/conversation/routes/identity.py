"""Merging, splitting and explaining people: decisions go through the log as events, like everything else."""

from __future__ import annotations

from typing import Annotated, Any

import asyncpg
from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from services.conversation import deciding, explaining, tables
from services.conversation.identity import Node
from services.conversation.routes import known
from services.conversation.routes.deciding import actor_of, carried_out, undecidable
from shared import handles
from shared.auth import Principal, require
from shared.database.engine import tenant_reader
from shared.entry_ids import entry_secret
from shared.problems import Problem
from shared.service import Platform

Reader = Annotated[Principal, Depends(require("timeline:read"))]
Writer = Annotated[Principal, Depends(require("timeline:write"))]
Reason = Annotated[str | None, Field(default=None, max_length=2000, description="why, for whoever asks later")]

NODES = "SELECT node FROM conversation.leaf WHERE tenant_id = $1 AND customer_id = $2 ORDER BY node"


ANSWERED = (
    "Answered once it is visible. A large one (of more than a hundred sessions and handles, or that has thousands of "
    "entries told again) is decided beside the stream and takes some seconds; where it takes longer than a minute the "
    "answer is 503, and it follows."
)


class Merge(BaseModel):
    """Body of a merge."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    with_: Annotated[str, Field(alias="with", description="id of the other customer")]
    reason: Reason


class Split(BaseModel):
    """Body of a split."""

    model_config = ConfigDict(extra="forbid")
    handles: Annotated[list[str], Field(min_length=1, max_length=deciding.NAMED, description="kind:value each")]
    reason: Reason


def identity_router(platform: Platform) -> APIRouter:
    """Return the routes that decide and explain who is who."""
    router = APIRouter(tags=["identity"])
    secret = entry_secret(platform.secret_key)

    @router.get(
        "/v1/customers/{customer_id}/identity",
        summary="Why this is one person",
        description="Every link with its evidence, those refused and why, who else it may be. `history` tells, oldest "
        "first, what agents decided (`merge`, `split`) and which changes of the identity policy regrouped the customer "
        "(`policy`: `actor` is the key that made it, `reason` names the settings that changed), `handles` in the "
        "groups that were put together or taken apart.",
    )
    async def explain(reader: Reader, customer_id: str) -> dict[str, Any]:
        async with tenant_reader(platform.pool, reader.tenant) as connection:
            survivor = await known.customer(connection, reader.tenant, customer_id)
            return await explaining.identity(connection, reader.tenant, survivor)

    @router.post(
        "/v1/customers/{customer_id}/merge",
        summary="Say that two customers are one person",
        description=ANSWERED,
    )
    async def merge(writer: Writer, customer_id: str, body: Merge) -> dict[str, Any]:
        async with tenant_reader(platform.pool, writer.tenant) as connection:
            one = await known.customer(connection, writer.tenant, customer_id)
            other = await known.customer(connection, writer.tenant, body.with_)
            if one == other:
                raise undecidable("#/with", "this is the same customer; name another one")
            mine = await _nodes(connection, writer.tenant, one)
            theirs = await _nodes(connection, writer.tenant, other)
        try:
            event = deciding.merge(writer.tenant, mine, theirs, body.reason, actor_of(writer), platform.clock.now())
        except deciding.Undecidable as error:
            raise Problem(409, "These cannot be one customer", str(error)) from error
        owner, _ = await carried_out(platform, secret, event)
        return {"customer_id": str(owner), "event_id": event.id}

    @router.post(
        "/v1/customers/{customer_id}/split",
        summary="Say that some handles are another person's",
        description=ANSWERED,
    )
    async def split(writer: Writer, customer_id: str, body: Split) -> dict[str, Any]:
        async with tenant_reader(platform.pool, writer.tenant) as connection:
            survivor = await known.customer(connection, writer.tenant, customer_id)
            nodes = await _nodes(connection, writer.tenant, survivor)
            region = (await tables.tenants.get_policy(connection, writer.tenant)).policy.default_region
        off = [_theirs(handle, index, nodes, region) for index, handle in enumerate(body.handles)]
        try:
            event = deciding.split(writer.tenant, nodes, off, body.reason, actor_of(writer), platform.clock.now())
        except deciding.Undecidable as error:
            raise undecidable("#/handles", str(error)) from error
        owner, _ = await carried_out(platform, secret, event)
        return {"customer_id": str(owner), "event_id": event.id}

    return router


async def _nodes(connection: asyncpg.Connection, tenant: str, customer_id: object) -> list[Node]:
    return [row["node"] for row in await connection.fetch(NODES, tenant, customer_id)]


def _theirs(handle: str, index: int, nodes: list[Node], region: str) -> Node:
    try:
        forms = handles.queried(handle, region)
    except ValueError as error:
        raise undecidable(f"#/handles/{index}", str(error)) from error
    found = next((node for node in forms if node in nodes), None)
    if found is None:
        raise undecidable(f"#/handles/{index}", f"{handle[:200]} is not a handle of this customer")
    return found
