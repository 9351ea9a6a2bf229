"""privacy tables: tombstones of what was erased, and what each erasure found where."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import create_schema, secure_tenant_table

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = (
    # Keyed hashes of what was erased (shared/tombstones.py): "e" an entry's id, "n" a name (handle, session,
    # browser), "c" an id by which the customer could be asked for.
    """
    CREATE TABLE privacy.tombstone (
        tenant_id text NOT NULL,
        digest uuid NOT NULL,
        kind "char" NOT NULL CHECK (kind IN ('e', 'n', 'c')),
        erased_at timestamptz NOT NULL,
        decided_at timestamptz NOT NULL,
        erasure_id uuid NOT NULL,
        PRIMARY KEY (tenant_id, digest)
    )""",
    # One erasure, without a word of whom.
    """
    CREATE TABLE privacy.erasure (
        tenant_id text NOT NULL,
        erasure_id uuid NOT NULL,
        erased_at timestamptz NOT NULL,
        replayed boolean NOT NULL,
        notes jsonb NOT NULL DEFAULT '{}',
        PRIMARY KEY (tenant_id, erasure_id)
    )""",
    # How much of it was found where; each service writes its own places.
    """
    CREATE TABLE privacy.finding (
        tenant_id text NOT NULL,
        erasure_id uuid NOT NULL,
        place text NOT NULL,
        found bigint NOT NULL,
        PRIMARY KEY (tenant_id, erasure_id, place)
    )""",
    # The latest erasure of a tenant: while there is none, no event is held against tombstones.
    "ALTER TABLE conversation.tenant_state ADD COLUMN erased_at timestamptz",
)


def upgrade() -> None:
    create_schema("privacy")
    for statement in TABLES:
        op.execute(statement)
    for table in ("tombstone", "erasure", "finding"):
        secure_tenant_table(f"privacy.{table}")
