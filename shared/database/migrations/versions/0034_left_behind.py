"""ingest: which files and large data belong to an event that was taken, so that those which none took can go."""

from __future__ import annotations

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

# `kept_at` is the database's time at which the bytes were put, last put again where no event was taken yet. `settled`:
# the event was found on a timeline or in quarantine, and need not be looked for again.
COLUMNS = """
ALTER TABLE ingest.attachment RENAME COLUMN received_at TO kept_at;
ALTER TABLE ingest.attachment ALTER COLUMN kept_at SET DEFAULT now();
ALTER TABLE ingest.attachment ADD COLUMN settled boolean NOT NULL DEFAULT false;
ALTER TABLE ingest.blob ADD COLUMN kept_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE ingest.blob ADD COLUMN settled boolean NOT NULL DEFAULT false;
"""

INDEXES = """
CREATE INDEX attachment_unsettled ON ingest.attachment (kept_at) WHERE NOT settled;
CREATE INDEX blob_unsettled ON ingest.blob (kept_at) WHERE NOT settled;
"""


def upgrade() -> None:
    op.execute(COLUMNS)
    op.execute(INDEXES)
