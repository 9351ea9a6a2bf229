"""The traces that a person leaves beside the timeline: in the topics, the quarantine, among files and large data.

All of it is taken away in the transaction of the erasure, as far as the log can change what it holds
(`Log.rewrite`). What stays in the timeline topic are the numbers that KPIs are made of (shared/anonymity.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hmac import digest
from secrets import token_bytes
from urllib.parse import quote
from uuid import UUID

import asyncpg

from services.conversation import tables
from services.conversation.batch import Batch
from services.conversation.entries import Entry, record_of
from services.conversation.erasure import store
from services.conversation.erasure.erased import is_decision
from services.conversation.publishing import publish
from shared import bulk, handles
from shared.anonymity import anonymous
from shared.entry_ids import entry_id_of
from shared.erasures import PATIENCE_S
from shared.errors import Rejected
from shared.events import DERIVED_SOURCE, InboundEvent, TimelineRecord
from shared.log import record_keys
from shared.log.protocol import INBOUND, QUARANTINE, TIMELINE, Log, Outgoing, Record
from shared.log.sealed import decision_key
from shared.routing import routing_key
from shared.tombstones import STUB_KEY, Erasure, events_of, stub, stub_of

NAMED_BY_POLICY = "handles in the identity policy"
"""What of them the tenant's own policy names; it is found, and stays."""

DERIVED_KINDS = ("conversation.opened", "conversation.reopened", "conversation.escalated", "conversation.merged")

SHORTEST_NEEDLE = 6
"""Characters of a handle that is looked for in bytes that nobody could read; a shorter one is found everywhere."""
SHORTEST_WORD = 3

QUARANTINED = """
SELECT q.id, q.source, q.event_id, q.group_name, q.topic, q.partition, q."offset", q.key, q.quarantined_at
FROM log.quarantine q
WHERE (q.tenant_id = $1 OR (q.tenant_id IS NULL AND position($2::bytea IN q.key) = 1)) AND q.reason <> 'erased' AND (
    (q.source, q.event_id) IN (SELECT * FROM unnest($3::text[], $4::text[]))
    OR q.key = ANY($5::bytea[])
    OR EXISTS (SELECT FROM unnest($6::bytea[]) AS n (needle)
               WHERE position(lower(encode(n.needle, 'escape')) IN lower(encode(q.value, 'escape'))) > 0))
"""

BLANK = """
UPDATE log.quarantine SET value = '', key = NULL, headers = NULL, source = NULL, event_id = NULL, reason = 'erased',
    state = 'dropped'
WHERE id = ANY($1::uuid[])
"""


class Traces:
    """The traces of those whom one erasure is about. `read` before anything is removed, the rest after."""

    def __init__(
        self,
        batch: Batch,
        log: Log,
        erasure: Erasure,
        leaves: Sequence[asyncpg.Record],
        entries: Sequence[Entry],
        copies: Mapping[UUID, InboundEvent],
        restated: Sequence[tuple[UUID, InboundEvent]],
    ) -> None:
        self._batch, self._log, self._erasure = batch, log, erasure
        self._connection, self._tenant = batch.connection, batch.tenant
        self._leaves = leaves
        self._entries = sorted(entries, key=lambda entry: (entry.occurred_at, entry.source, entry.event_id))
        self._copies = copies
        self._restated = dict(restated)
        self._said: list[InboundEvent] = []
        self._shown: list[tuple[str, str]] = []
        """(node, value as shown) of every handle."""
        self._quarantined: set[UUID] = set()
        self._pseudonyms = token_bytes(32)
        """Forgotten with this object: nobody can tell again which name a pseudonym stands for."""
        self._names_of_others: frozenset[str] = frozenset()
        """Sessions and threads that others took part in as well: they stay what they were called."""
        self._event_ids: dict[str, str] = {}
        """Event id → what stands in its place. The order of events at one instant is part of what is counted."""
        self.conversations: dict[UUID, UUID] = {}
        """Conversations that live on under another id, with that id."""
        self.derived: list[Entry] = []
        self.derived_ids: list[UUID] = []
        """Of all that may ever have been derived from their entries."""
        self._decision_keys: list[UUID] = []
        """Of all that the timeline topic was told of agents' decisions that go or lose handles, in every version."""
        self._unreadable: list[InboundEvent] = []
        """Events of those who stay whose record in the inbound topic was made unreadable: they are told again."""
        self.notes: dict[str, object] = {}

    @property
    def all_entries(self) -> list[Entry]:
        return [*self._entries, *self.derived]

    async def read(self) -> None:
        """Learn what else there is, while it is there."""
        by_id = {entry.entry_id: entry for entry in self._entries}
        kinds = [(cause, kind) for cause in by_id for kind in DERIVED_KINDS]
        self.derived_ids = [
            entry_id_of(self._batch.secret, self._tenant, DERIVED_SOURCE, f"{kind}:{cause}") for cause, kind in kinds
        ]
        self.derived = await tables.entries.entries_since(self._connection, self._tenant, [], [], self.derived_ids)
        said = {**{id_: entry.event() for id_, entry in by_id.items()}, **self._copies}
        self._said = [*said.values(), *await store.conflicting(self._connection, self._tenant, said)]
        decided = [entry for entry in self._entries if is_decision(entry.event())] + await self._restated_entries()
        self._decision_keys = [
            decision_key(entry.entry_id, version) for entry in decided for version in range(1, entry.version + 1)
        ]
        sighted = await self._connection.fetch(store.SIGHTED, self._tenant, [row["leaf_id"] for row in self._leaves])
        self._names_of_others = frozenset(await store.contacts_of_others(self._connection, self._tenant, by_id))
        mark = str(self._erasure.erasure_id)[:8]
        for rank, entry in enumerate(self._entries):
            self._event_ids.setdefault(entry.event_id, f"erased:{rank:08d}:{mark}")
        self._shown = [(row["node"], row["shown"] or "") for row in (*self._leaves, *sighted)]

    # The topics

    async def publish(self, records: Sequence[TimelineRecord]) -> None:
        """Tell the timeline topic, and take out of it what it was told before."""
        told = [*self._final(), *(record_of(entry, self._batch.now) for entry in await self._restated_entries())]
        final = {(record.kind, record.key): record for record in told}
        others = {str(id_) for id_ in (*self._copies, *self.derived_ids)} - {record.key for record in told}

        def change(record: Record) -> tuple[bytes, bytes] | None:
            try:
                line = TimelineRecord.decode(record.value)
            except Rejected:
                return None
            if (line.kind, line.key) in final:
                return record.key, final[line.kind, line.key].encode()
            if line.kind == "entry" and line.key in others:  # it was an entry once
                left = {"id": line.key, "leaf_id": line.body["leaf_id"]}
                return record.key, replace(line, body=left, deleted=True).encode()
            return None

        ids = {record.key for record in told} | others
        found = await self._log.rewrite(self._connection, TIMELINE, change, ids=ids)
        await self._found(TIMELINE, found)
        await store.forget_keys(self._connection, self._tenant, self._decision_keys)
        await publish(self._log, self._connection, [*records, *told])

    def _final(self) -> Iterable[TimelineRecord]:
        """Yield the last word on everything of theirs: gone, and of entries the numbers that stay."""
        telling, now = self._telling(), self._batch.now
        for entry in self._entries:
            told = record_of(entry, now, deleted=True, version=entry.version + 1)
            moved = self.conversations.get(entry.conversation_id) if entry.conversation_id else None
            lasting = entry._replace(conversation_id=moved or entry.conversation_id)
            left = anonymous(record_of(lasting, now).body, self._event_ids[entry.event_id], self._pseudonym, telling)
            erased = {"erasure_id": str(self._erasure.erasure_id), "entry": left}
            yield replace(told, body={**told.body, "erased": erased})
        for entry in self.derived:
            yield record_of(entry, now, deleted=True, version=self._batch.version)
        for leaf in self._leaves:
            body = {"customer_id": str(leaf["customer_id"]), "kind": None, "value": None, "erased": True}
            leaf_id = str(leaf["leaf_id"])
            yield TimelineRecord(self._tenant, "leaf", leaf_id, self._batch.version, body, recorded_at=now)

    async def _restated_entries(self) -> list[Entry]:
        return await store.entries_by_ids(self._connection, self._tenant, self._restated)

    def _pseudonym(self, name: str) -> str:
        if name in self._event_ids or name in self._names_of_others:
            return self._event_ids.get(name, name)
        return f"erased:{digest(self._pseudonyms, name.encode('utf-8', 'surrogatepass'), 'sha256').hex()[:24]}"

    def _telling(self) -> frozenset[str]:
        words = {value for node, shown in self._shown for value in (node.partition(":")[2], shown)}
        words |= {row["name"] for row in self._leaves if row["name"]}
        return frozenset(word for word in words if len(word) >= SHORTEST_WORD)

    async def tell(self, erasure: Erasure, *, replayed: bool) -> None:
        """Append the erasure to the inbound topic, for whoever reads the log again, unless it was read there.

        With it what lost the handles of the erased, where the record that still names them was made unreadable.
        """
        records = []
        if not replayed:
            whole = erasure._replace(entries=(*erasure.entries, *self._quarantined - set(erasure.entries)))
            key = f"{self._tenant}|{DERIVED_SOURCE}".encode()
            records = [Outgoing(key, event.encode()) for event in events_of(self._tenant, whole)]
        records += [Outgoing(routing_key(event), event.encode()) for event in self._unreadable]
        if records:
            await self._log.emit(self._connection, INBOUND, records)

    async def _inbound(self, positions: set[tuple[int, int]]) -> int | None:
        gone = {entry.entry_id for entry in self._entries} | self._copies.keys() | self._quarantined

        def change(record: Record) -> tuple[bytes, bytes] | None:
            if stub_of(record.value):
                return None
            try:
                event = InboundEvent.decode(record.value)
            except Rejected:
                unread = (record.partition, record.offset) in positions
                return (STUB_KEY, stub(self._tenant, None)) if unread else None
            if event.tenant != self._tenant:
                return None
            id_ = entry_id_of(self._batch.secret, event.tenant, event.source, event.id)
            if id_ in self._restated:
                return record.key, self._restated[id_].encode()
            return (STUB_KEY, stub(self._tenant, id_)) if id_ in gone else None

        return await self._log.rewrite(self._connection, INBOUND, change, keys=self._inbound_keys())

    def _inbound_keys(self) -> set[bytes]:
        """Return the keys under which the inbound topic may hold what they said."""
        keys = {routing_key(event) for event in self._said} | self._own_keys()
        if self._restated or any(event.source == DERIVED_SOURCE for event in self._said):
            keys.add(f"{self._tenant}|{DERIVED_SOURCE}".encode())
        return keys

    def _own_keys(self) -> set[bytes]:
        return {f"{self._tenant}\0{row['node']}".encode() for row in self._leaves}

    # Everything else

    async def erase(self) -> dict[str, int]:
        """Take away what is in quarantine, files, large data and the inbound topic; return how much was where."""
        blanked = await self._blank_quarantine()
        positions = {(row["partition"], row["offset"]) for row in blanked if row["topic"] == self._log.name(INBOUND)}
        said = {(event.source, event.id) for event in self._said}
        said |= {(row["source"], row["event_id"]) for row in blanked if row["source"] is not None}
        kept = await bulk.forget(self._connection, self._tenant, said)
        await self._found(INBOUND, await self._inbound(positions), await self._destroyed())
        keys = await self._destroyed_in_quarantine(blanked)
        await self._found(QUARANTINE, await self._quarantine_topic(blanked), keys, blanked)
        found = {"quarantine": len(blanked), "large data": kept.blobs, "attachments": kept.attachments}
        return {**found, NAMED_BY_POLICY: named} if (named := self._named_by_policy()) else found

    def _named_by_policy(self) -> int:
        """Return how many handles of theirs, or named in what they said, the tenant's policy bars by name.

        They stay: that such a handle identifies nobody is the tenant's own word, and it goes on being true.
        """
        policy = self._batch.policy
        named: set[str | None] = {node for node, _ in self._shown}
        for event in self._said:
            for handle in (event.data.get("customer") or {}).get("handles") or ():
                named.add(handles.matching(handle["kind"], handle["value"], event.region or policy.default_region))
        return len(named & (policy.barred - policy.own))

    async def _blank_quarantine(self) -> Sequence[asyncpg.Record]:
        said = [(event.source, event.id) for event in self._said]
        rows: Sequence[asyncpg.Record] = await self._connection.fetch(
            QUARANTINED,
            self._tenant,
            f"{self._tenant}\0".encode(),
            [source for source, _ in said],
            [id_ for _, id_ in said],
            list(self._own_keys()),
            list(self._needles()),
            timeout=PATIENCE_S,
        )
        await self._connection.execute(BLANK, [row["id"] for row in rows])
        self._quarantined = {
            entry_id_of(self._batch.secret, self._tenant, row["source"], row["event_id"])
            for row in rows
            if row["source"] is not None and row["event_id"] is not None
        }
        return rows

    def _needles(self) -> set[bytes]:
        found = set()
        for node, shown in self._shown:
            kind, _, value = node.partition(":")
            if kind in handles.STRENGTH and kind not in ("contact", "visitor"):
                for text in (value, shown):
                    if len(text) >= SHORTEST_NEEDLE:
                        found |= {text.encode(), quote(text, safe="").encode()}
        return found

    async def _quarantine_topic(self, blanked: Sequence[asyncpg.Record]) -> int | None:
        places = {f"{row['partition']}/{row['offset']}".encode() for row in blanked if row["topic"] is not None}

        def change(record: Record) -> tuple[bytes, bytes] | None:
            told = dict(record.headers)
            ours = told.get("threadline-tenant") in (None, self._tenant.encode())
            return (STUB_KEY, stub(self._tenant, None)) if ours and told.get("threadline-position") in places else None

        keys = {row["key"] for row in blanked if row["key"] is not None}
        return await self._log.rewrite(self._connection, QUARANTINE, change, keys=keys) if keys else 0

    async def _destroyed(self) -> int:
        """Destroy the keys of their records in the inbound topic; return how many there were."""
        gone = {entry.entry_id for entry in self._entries} | self._copies.keys() | self._quarantined
        abouts = await record_keys.destroy(self._connection, [self._tenant], gone | self._restated.keys())
        self._unreadable = [self._restated[id_] for id_ in self._restated.keys() & set(abouts)]
        return len(abouts)

    async def _destroyed_in_quarantine(self, blanked: Sequence[asyncpg.Record]) -> int:
        topics = {self._log.name(topic): topic for topic in (INBOUND, TIMELINE)}
        found = [row for row in blanked if row["topic"] in topics]
        at = [f"{row['partition']}/{row['offset']}" for row in found]
        places = [
            record_keys.about_quarantined(row["group_name"], topics[row["topic"]], position)
            for row, position in zip(found, at, strict=True)
        ]
        return len(await record_keys.destroy(self._connection, [self._tenant, record_keys.NOBODYS], places))

    async def _found(
        self, topic: str, count: int | None, keys: int | None = None, blanked: Sequence[asyncpg.Record] = ()
    ) -> None:
        """Note what became of the records of a topic: how many were rewritten or, on Kafka, whose keys destroyed."""
        topics = self.notes.setdefault("topics", {})
        assert isinstance(topics, dict)
        since = min(
            (*(event.received_at for event in self._said), *(row["quarantined_at"] for row in blanked)),
            default=self._batch.now,
        )
        if count is not None:
            topics[topic] = "erased"
        elif await record_keys.was_sealed(self._connection, self._log.name(topic), since):
            topics[topic] = "unreadable"
            count = keys
        else:
            topics[topic] = "until retention"
        if count is not None:
            counts = self.notes.setdefault("records", {})
            assert isinstance(counts, dict)
            counts[topic] = count
