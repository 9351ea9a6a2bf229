"""bindings: an index by leaf to the ids of mails that were sent to several customers, for merges to ask."""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# Such a key is `mail:<id>|<leaf>`; the pattern takes a few others in, whose last 36 characters are no leaf.
INDEX = """
CREATE INDEX binding_bulk ON conversation.binding (tenant_id, "right"(key, 36)) WHERE key LIKE 'mail:%|%'
"""


def upgrade() -> None:
    op.execute(INDEX)
