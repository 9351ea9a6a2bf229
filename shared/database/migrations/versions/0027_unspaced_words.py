"""search: scripts without spaces between words are indexed a character at a time, so that a word in a text is found."""

from __future__ import annotations

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

# Thai, Lao, Burmese, Khmer, Chinese, Japanese, Korean (whose particles stick to the word). PostgreSQL's parser takes
# whatever lies between two blanks for one word. The separator is no letter in any locale, and nobody types it.
APART = r"""
CREATE FUNCTION conversation.words_apart(written text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN octet_length(written) = length(written) THEN written ELSE regexp_replace(written,
        '([\u0E00-\u0EFF\u1000-\u109F\u1780-\u17FF\u2E80-\u2FFF\u3005-\u3007\u3031-\u318F\u31A0-\uA4CF\uA960-\uA97F'
        '\uAC00-\uD7FF\uF900-\uFAFF\uFF66-\uFFDC\U00020000-\U0003FFFF])', E'\x1f\\1\x1f', 'g') END
$$
"""

DOCUMENT = """
CREATE FUNCTION conversation.words_of(subject text, new_text text, named text, quoted text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT setweight(to_tsvector('simple', conversation.words_apart(left(coalesce(subject, ''), 2000))), 'A')
        || setweight(to_tsvector('simple', conversation.words_apart(left(coalesce(new_text, ''), 100000))), 'B')
        || setweight(to_tsvector('simple', conversation.words_apart(left(coalesce(named, ''), 500))), 'C')
        || setweight(to_tsvector('simple', conversation.words_apart(left(coalesce(quoted, ''), 100000))), 'D')
$$
"""

# Only what is told apart now; the rest is as it was.
AGAIN = """
UPDATE conversation.search s SET document = conversation.words_of(f.subject, f.new_text, f.named, f.quoted)
FROM conversation.entry e,
LATERAL (SELECT e.data ->> 'subject' AS subject, coalesce(e.new_text, e.data ->> 'text') AS new_text,
                e.data -> 'customer' ->> 'name' AS named, e.quoted_text AS quoted OFFSET 0) AS f,
LATERAL (SELECT concat_ws(' ', f.subject, f.new_text, f.named, f.quoted) AS all_of_it OFFSET 0) AS w
WHERE e.tenant_id = s.tenant_id AND e.entry_id = s.entry_id
    AND octet_length(w.all_of_it) <> length(w.all_of_it) AND conversation.words_apart(w.all_of_it) <> w.all_of_it
"""


def upgrade() -> None:
    for statement in (APART, DOCUMENT, AGAIN):
        op.execute(statement)
