"""The log in PostgreSQL: topics, records, consumer groups, their offsets, and the quarantine.

Records carry the events of every tenant in one sequence, so these tables cannot begin with tenant_id; row-level
security is on for them with no policy at all, and nothing is granted: the reader role sees none of them. The quarantine
is shown to tenants, so it is an ordinary tenant table.

There is no outbox table: on Kafka the outbox of a topic is a topic of this log in the same database, whose offsets are
dense in commit order, so that a relay never skips a slow commit (shared/log/outbox.py).
"""

from __future__ import annotations

from alembic import op

from shared.database.migrations.helpers import secure_tenant_table

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE log.partition (
    id           integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic        text    NOT NULL,
    partition    integer NOT NULL,
    first_offset bigint  NOT NULL DEFAULT 0,
    next_offset  bigint  NOT NULL DEFAULT 0,
    UNIQUE (topic, partition),
    CHECK (first_offset <= next_offset)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
COMMENT ON TABLE log.partition IS
    'One row a partition. It is locked while its next_offset advances, so offsets are dense and in commit order.';

CREATE TABLE log.record (
    partition_id integer     NOT NULL,
    "offset"     bigint      NOT NULL,
    appended_at  timestamptz NOT NULL,
    key          bytea       NOT NULL,
    value        bytea       NOT NULL,
    headers      bytea,
    PRIMARY KEY (partition_id, "offset")
);
COMMENT ON COLUMN log.record.headers IS 'JSON [[name, value as latin-1 text], …]; null where there are none.';

CREATE UNLOGGED TABLE log.member (
    member_id     uuid        PRIMARY KEY,
    group_name    text        NOT NULL,
    topic         text        NOT NULL,
    backend_pid   integer     NOT NULL,
    backend_start timestamptz NOT NULL,
    heartbeat_at  timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE log.member IS
    'Members of consumer groups. Unlogged: after a crash of the server each writes itself again within a second.';

CREATE TABLE log."offset" (
    group_name  text    NOT NULL,
    topic       text    NOT NULL,
    partition   integer NOT NULL,
    next_offset bigint  NOT NULL,
    PRIMARY KEY (group_name, topic, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE log."offset" IS
    'First offset not yet done, by group. Compared and set in the transaction that stores what was done.';

CREATE TABLE log.quarantine (
    tenant_id      text,
    id             uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    source         text,
    event_id       text,
    group_name     text,
    topic          text,
    partition      integer,
    "offset"       bigint,
    reason         text        NOT NULL,
    key            bytea,
    value          bytea       NOT NULL,
    headers        bytea,
    quarantined_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    state          text        NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'retried', 'dropped')),
    UNIQUE (group_name, topic, partition, "offset")
);
CREATE INDEX quarantine_by_event ON log.quarantine (tenant_id, source, event_id);
CREATE INDEX quarantine_held ON log.quarantine (tenant_id, quarantined_at) WHERE state = 'held';
COMMENT ON TABLE log.quarantine IS
    'What will never work, with its reason, bytes and position. tenant_id is null where the bytes do not tell it.';
"""

APPEND = """
CREATE FUNCTION log.append(ids integer[], counts integer[], slots integer[], keys bytea[], vals bytea[], heads bytea[])
RETURNS bigint[] LANGUAGE plpgsql AS $$
-- Appends records that the caller sorted by partition: ids in ascending order, counts[i] records for ids[i], and for
-- each record its slot, the index of its partition in ids. Returns the first offset given in each partition.
DECLARE
    first  bigint;
    before bigint := 0;
    firsts bigint[] := '{}';
    bases  bigint[] := '{}';
    at     timestamptz;
BEGIN
    FOR i IN 1 .. cardinality(ids) LOOP
        UPDATE log.partition SET next_offset = next_offset + counts[i] WHERE id = ids[i]
            RETURNING next_offset - counts[i] INTO STRICT first;
        firsts := firsts || first;
        bases := bases || (first - before - 1);
        before := before + counts[i];
    END LOOP;
    at := clock_timestamp();  -- after the locks, so that time follows the order of offsets
    INSERT INTO log.record (partition_id, "offset", appended_at, key, value, headers)
        SELECT ids[r.slot], bases[r.slot] + r.n, at, r.key, r.value, r.headers
        FROM unnest(slots, keys, vals, heads) WITH ORDINALITY AS r(slot, key, value, headers, n);
    RETURN firsts;
END $$
"""

BEAT = """
CREATE FUNCTION log.beat(mine uuid[], groups text[], topics text[], pid integer, started timestamptz, patience interval)
RETURNS TABLE (group_name text, topic text, member_id uuid) LANGUAGE plpgsql AS $$
-- Says that these members live, removes those of their groups that do not, and returns who is left. A member is gone
-- when its own server session has ended (a killed process: at once) or when it was silent too long (a frozen one).
BEGIN
    INSERT INTO log.member AS m (member_id, group_name, topic, backend_pid, backend_start, heartbeat_at)
        SELECT n.member_id, n.group_name, n.topic, pid, started, clock_timestamp()
        FROM unnest(mine, groups, topics) AS n(member_id, group_name, topic) ORDER BY 1
        ON CONFLICT ON CONSTRAINT member_pkey DO UPDATE SET heartbeat_at = excluded.heartbeat_at,
            backend_pid = excluded.backend_pid, backend_start = excluded.backend_start;
    DELETE FROM log.member AS m USING (SELECT DISTINCT * FROM unnest(groups, topics)) AS g(group_name, topic)
        WHERE m.group_name = g.group_name AND m.topic = g.topic AND m.member_id <> ALL (mine)
          AND (m.heartbeat_at < clock_timestamp() - patience
               OR NOT EXISTS (SELECT FROM pg_stat_activity a
                              WHERE a.pid = m.backend_pid AND coalesce(a.backend_start = m.backend_start, true)));
    RETURN QUERY SELECT m.group_name, m.topic, m.member_id FROM log.member AS m
        JOIN (SELECT DISTINCT * FROM unnest(groups, topics)) AS g(group_name, topic)
            ON m.group_name = g.group_name AND m.topic = g.topic;
END $$
"""


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS log")
    op.execute(TABLES)
    op.execute(APPEND)
    op.execute(BEAT)
    for table in ("partition", "record", "member", '"offset"'):
        op.execute(f"ALTER TABLE log.{table} ENABLE ROW LEVEL SECURITY")
    secure_tenant_table("log.quarantine")
