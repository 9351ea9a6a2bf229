"""The SQL of the batch: what an update loads and saves. One statement per concern, whatever the size of the batch.

All functions run inside the caller's transaction, which holds the tenant's row (`tenants.lock_tenant`): one tenant has
one decider at any time. Source: docs/decisions/0004-one-decider-per-tenant.md
"""

from services.conversation.tables import (
    aside,
    changes,
    checkpoints,
    conversations,
    entries,
    leaves,
    policies,
    renewals,
    rows,
    tenants,
    touched,
)

__all__ = [
    "aside",
    "changes",
    "checkpoints",
    "conversations",
    "entries",
    "leaves",
    "policies",
    "renewals",
    "rows",
    "tenants",
    "touched",
]
