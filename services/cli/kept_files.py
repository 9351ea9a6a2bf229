"""The files that entries name, against those that are kept: each is there, with the bytes that came."""

from __future__ import annotations

from services.cli.ledger import EXAMPLES, PATIENCE_S, Fault
from shared.attachments import attachment_id, attachment_secret
from shared.database.engine import transaction
from shared.events import KEPT_FILES
from shared.service import Platform

# The database reads and hashes one file after the other, and only what is wrong leaves it. An erasure takes an entry
# and its files at once, and this is one statement, so it sees both or neither.
NOT_AS_NAMED = """
SELECT e.tenant_id, e.source, e.event_id, f.place - 1 AS place,
    f.named ->> 'sha256' AS sha256, f.named ->> 'url' AS url,
    CASE WHEN a.attachment_id IS NULL THEN 'it is not there' ELSE 'it has other bytes' END AS fault
FROM conversation.entry AS e
CROSS JOIN LATERAL jsonb_array_elements(
    CASE jsonb_typeof(e.data -> 'attachments') WHEN 'array' THEN e.data -> 'attachments' END
) WITH ORDINALITY AS f (named, place)
LEFT JOIN ingest.attachment AS a ON a.tenant_id = e.tenant_id AND $1 || a.attachment_id = f.named ->> 'url'
WHERE starts_with(f.named ->> 'url', $1) AND (
    a.attachment_id IS NULL
    OR octet_length(a.content)::text IS DISTINCT FROM f.named ->> 'size_bytes'
    OR encode(sha256(a.content), 'hex') IS DISTINCT FROM f.named ->> 'sha256')
"""

# As in the ledger, of whole tables and perhaps ones that nobody analysed yet.
WHOLE = "SET LOCAL enable_nestloop = off"


async def file_faults(platform: Platform) -> list[str]:
    """Return lines for the files that entries name and that are not there or are others; none where all is right.

    What an integration names by a URL of its own making is none of ours: an id follows from the event and the hash.
    """
    secret = attachment_secret(platform.secret_key)
    times = 0
    examples: list[str] = []
    async with transaction(platform.pool) as connection:
        await connection.execute(WHOLE)
        async for row in connection.cursor(NOT_AS_NAMED, KEPT_FILES, timeout=PATIENCE_S):
            tenant, source, event_id, place, sha256, url, fault = row
            id_ = attachment_id(secret, tenant, source, event_id, place, sha256 or "")
            if url != f"{KEPT_FILES}{id_}":
                continue
            times += 1
            if len(examples) < EXAMPLES:
                examples.append(f"tenant_id {tenant}, source {source}, event_id {event_id}, url {url}: {fault}")
    what = "files of entries that are not there, or not as the entry names them"
    return list(Fault(what, times, examples).lines()) if times else []
