"""metrics: statuses of agents are parts of a day, no longer of all that the agent ever did."""

from __future__ import annotations

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

# Of a compact entry (services/metrics/entries.py): 1 is its instant in µs, 4 the type, 13 the agent, 18 the data. What
# corrects another entry stays a part of the agent.
STATUSES = """
CREATE TEMPORARY TABLE statuses ON COMMIT DROP AS
SELECT tenant_id, entry_id, (b ->> 13) || E'\\t' || floor((b ->> 1)::numeric / 86400000000)::bigint AS key,
       (b -> 18 ->> 'corrects_event_id') IS NOT NULL AS corrects
FROM (
    SELECT tenant_id, entry_id, convert_from(body, 'UTF8')::json AS b FROM metrics.entry
    WHERE part_of >= 'agent:' AND part_of < 'agent;' AND body IS NOT NULL
) AS e
WHERE b ->> 4 IN ('agent.status', 'agent.blocked')
"""

PARTS = """
UPDATE metrics.entry AS e SET part_of = 'agent_day:' || s.key
FROM statuses AS s WHERE e.tenant_id = s.tenant_id AND e.entry_id = s.entry_id AND NOT s.corrects
"""

# The service evaluates agents and their days again: the one gives back what the others take over.
NAMES = """
INSERT INTO metrics.entity (tenant_id, kind, key) SELECT DISTINCT tenant_id, 'agent_day', key FROM statuses
ON CONFLICT DO NOTHING
"""

MARKS = """
UPDATE metrics.tenant SET token = NULL, reevaluate_after = 0
WHERE tenant_id IN (SELECT tenant_id FROM metrics.entity WHERE kind = 'agent')
"""


def upgrade() -> None:
    for statement in (STATUSES, PARTS, NAMES, MARKS):
        op.execute(statement)
