"""`/v1/identity/policy`: what may link, how much, and how long things stay open."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from services.conversation import tables
from services.conversation.foreseeing import foresee
from services.conversation.policy import Policy
from services.conversation.slices import Slices
from services.conversation.update import change_policy
from shared.auth import Principal, require
from shared.database.engine import tenant_reader, transaction
from shared.entry_ids import entry_secret
from shared.service import Platform

WAIT_S = 3.0
"""How long a change is waited for, in seconds: what is larger goes on behind the answer."""

Admin = Annotated[Principal, Depends(require("admin"))]


def policy_router(platform: Platform, slices: Slices) -> APIRouter:
    """Return the routes of the identity policy."""
    router = APIRouter(tags=["identity"])

    @router.get("/v1/identity/policy", summary="The identity policy in force")
    async def get(admin: Admin) -> dict[str, Any]:
        async with tenant_reader(platform.pool, admin.tenant) as connection:
            return (await tables.tenants.get_policy(connection, admin.tenant)).document()

    @router.put(
        "/v1/identity/policy",
        summary="Replace the identity policy; all it touches is resolved again",
        description="It is in force at once for whatever comes. What is there already is decided again in slices, "
        "which hold nobody up; the answer waits for them for up to 3 seconds, and the rest follows behind it.",
    )
    async def put(
        admin: Admin,
        policy: Policy,
        dry_run: Annotated[
            bool,
            Query(
                description="Change nothing; answer what the policy would change: `merges` (customers who become one), "
                "`splits` (the handles of each customer in their new groups), at most 100 of each, and counts of all."
            ),
        ] = False,
    ) -> dict[str, Any]:
        if dry_run:
            async with tenant_reader(platform.pool, admin.tenant) as connection:
                return await foresee(
                    connection, admin.tenant, policy, entry_secret(platform.secret_key), platform.clock
                )
        async with transaction(platform.pool) as connection:
            now, by = platform.clock.now(), str(admin.key_id)
            renews = await change_policy(connection, admin.tenant, now, policy, by)
        if renews:
            await slices.carry_out(admin.tenant, WAIT_S)
        return policy.model_dump(mode="json")

    return router
