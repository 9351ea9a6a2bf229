"""metrics.day: days that are over, packed, so that a question of a month reads thirty rows instead of all its hours."""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import secure_tenant_table

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

# The sums of [starts, ends) (µs) by channel and bucket (services/metrics/closed_days.py), null where they do not fit.
# What changes one of the hours takes the row away in the same transaction. Bodies are read often: not compressed.
DAY = """
CREATE TABLE metrics.day (
    tenant_id text NOT NULL,
    series_id integer NOT NULL,
    starts bigint NOT NULL,
    ends bigint NOT NULL,
    body bytea,
    PRIMARY KEY (tenant_id, series_id, starts)
)
"""
PLAIN = "ALTER TABLE metrics.day ALTER COLUMN body SET STORAGE EXTERNAL"

# Days before packed_to are looked after; none that ends after packed_until is packed; both in the days of packed_zone.
TENANT = """
ALTER TABLE metrics.tenant
    ADD COLUMN packed_to bigint, ADD COLUMN packed_until bigint, ADD COLUMN packed_zone text COLLATE "C"
"""


def upgrade() -> None:
    for statement in (DAY, PLAIN, TENANT):
        op.execute(statement)
    secure_tenant_table("metrics.day")
