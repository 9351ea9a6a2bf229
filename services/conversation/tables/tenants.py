"""The tenant's row: whoever locks it is its only decider until commit. Its policy."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import asyncpg

from services.conversation.policy import DEFAULT, STORED, Policy, StoredPolicy

_HELD = "policy, policy_version, version, erased_at, renewal, renewed, aside, touched_since"

# Takes the tenant's row lock until commit and counts its changes. What is asked until then is planned once for the
# connection: every statement finds its rows by ids, few or many, and to plan it anew for each batch cost a tenth of a
# small one.
LOCK_TENANT = f"""
INSERT INTO conversation.tenant_state AS s (tenant_id, version) VALUES ($1, 1)
ON CONFLICT (tenant_id) DO UPDATE SET version = s.version + 1
RETURNING {_HELD}, set_config('plan_cache_mode', 'force_generic_plan', true)
"""  # noqa: S608 - names of our own columns

LOOK_AT_TENANT = f"SELECT {_HELD} FROM conversation.tenant_state WHERE tenant_id = $1"  # noqa: S608

PUT_POLICY = """
UPDATE conversation.tenant_state
SET policy = $2, policy_version = policy_version + 1, renewal = CASE WHEN $3 THEN policy_version + 1 ELSE renewal END
WHERE tenant_id = $1
RETURNING policy_version
"""

GET_POLICY = "SELECT policy, policy_version FROM conversation.tenant_state WHERE tenant_id = $1"


class Held(NamedTuple):
    """A tenant held by its only decider: its policy, the number of this change, and its latest erasure."""

    policy: Policy
    version: int
    erased_at: datetime | None
    renewal: int
    """The version of the latest policy that may decide otherwise what was there before it."""
    outstanding: bool
    """Whether something is still decided under an earlier one."""
    aside: bool
    """Whether events are set aside (`lane`)."""
    policy_version: int
    touched_since: int
    """The version from which on is kept what each change touched, as long as events are set aside."""


async def lock_tenant(connection: asyncpg.Connection, tenant: str) -> Held:
    """Become the tenant's only decider until commit."""
    return _held(await connection.fetchrow(LOCK_TENANT, tenant))


async def look_at_tenant(connection: asyncpg.Connection, tenant: str) -> Held | None:
    """Return what `lock_tenant` does, of the tenant as it is now and without holding it; None where it has nothing."""
    row = await connection.fetchrow(LOOK_AT_TENANT, tenant)
    return _held(row) if row else None


def _held(row: asyncpg.Record) -> Held:
    return Held(
        _policy(row).policy,
        row["version"],
        row["erased_at"],
        row["renewal"],
        row["renewed"] < row["renewal"],
        row["aside"] > 0,
        row["policy_version"],
        row["touched_since"],
    )


async def get_policy(connection: asyncpg.Connection, tenant: str) -> StoredPolicy:
    """Return the tenant's policy, the default where none was put."""
    return _policy(await connection.fetchrow(GET_POLICY, tenant))


def _policy(row: asyncpg.Record | None) -> StoredPolicy:
    if row is None or row["policy"] is None:
        return StoredPolicy(DEFAULT, row["policy_version"] if row else 0)
    return StoredPolicy(Policy.model_validate(row["policy"], context=STORED), row["policy_version"])


async def put_policy(connection: asyncpg.Connection, tenant: str, policy: Policy, *, renews: bool) -> int:
    """Store a policy; return its version. `renews`: all that was decided before is outstanding from now on."""
    version: int = await connection.fetchval(PUT_POLICY, tenant, policy.model_dump(mode="json"), renews)
    return version
