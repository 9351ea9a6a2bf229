"""What arrives: new events are told from known ones, and copies of one mail from its entry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from uuid import UUID

from services.conversation import copies, tables
from services.conversation.batch import Arrival, Batch
from services.conversation.copies import Copy
from services.conversation.entries import Entry, digest_of
from services.conversation.facts import Facts, Key, facts_of, with_copies
from shared.entry_ids import entry_id_bytes
from shared.errors import Rejected
from shared.events import InboundEvent


class Arriving:
    """Fills a batch with its new events and their copies, and reads entries as events, with the links of all copies."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._connection, self._tenant = batch.connection, batch.tenant

    async def take(self, events: Sequence[InboundEvent]) -> set[UUID]:
        """Take a batch: what is new, and which of it are copies. Return the stored entries that have one more copy.

        Raises Rejected where an event cannot be read.
        """
        await self._tell_new_from_known(events)
        return await self._tell_copies()

    async def _tell_new_from_known(self, events: Sequence[InboundEvent]) -> None:
        secret = self._batch.secret
        ids = [tables.rows.fast_id(entry_id_bytes(secret, self._tenant, event.source, event.id)) for event in events]
        known = await tables.entries.known_digests(self._connection, self._tenant, ids)
        if self._batch.aside:
            known |= await tables.aside.digests(self._connection, self._tenant, ids)
        conflicts = {}
        for id_, event in zip(ids, events, strict=True):
            digest = digest_of(event)
            first = self._batch.arrivals[id_].digest if id_ in self._batch.arrivals else known.get(id_)
            if first is None:
                self._batch.arrivals[id_] = Arrival(event, self._read(event, id_), digest)
            elif first == digest:
                self._batch.outcome.repeated += 1
            else:
                self._batch.outcome.conflicts += 1
                row = (id_, digest, event.received_at, event.occurred_at, event.type, event.data)
                conflicts[id_, digest] = row
        await tables.entries.save_conflicts(self._connection, self._tenant, list(conflicts.values()))

    async def _tell_copies(self) -> set[UUID]:
        """Tell which of the new events are copies of a mail; the first of all is its entry.

        Return the stored entries that stay the first of theirs.
        """
        of_mail: dict[Key, list[Arrival]] = defaultdict(list)
        for arrival in self._batch.arrivals.values():
            if arrival.facts.copy_key:
                of_mail[arrival.facts.copy_key].append(arrival)
        if not of_mail:
            return set()
        standing = await copies.standing(self._connection, self._tenant, of_mail)
        whole, stand_already = [], set[UUID]()
        for key, found in of_mail.items():
            entry = standing.get(key)
            if entry is None and len(found) == 1:
                continue
            first, *others = sorted(found, key=lambda arrival: arrival.facts.order)
            if entry is None or first.facts.order < entry.facts(self._batch.policy).order:
                whole.append(first)
                stands = first.facts.entry_id
                if entry is not None:
                    self._displace(entry, stands)
            else:
                stands, others = entry.entry_id, found
                stand_already.add(stands)
            for other in others:
                del self._batch.arrivals[other.facts.entry_id]
                copy = Copy(stands, other.event, other.facts, other.digest, self._batch.now)
                self._batch.copies.append(copy)
                self._batch.outcome.copies += 1
        for id_, fact in (await self._with_copies([arrival.facts for arrival in whole])).items():
            self._batch.arrivals[id_].facts = fact
        return stand_already

    def _displace(self, entry: Entry, stands_for: UUID) -> None:
        """An entry is a copy now; everything that it was part of is decided again."""
        self._batch.displaced[entry.entry_id] = entry
        facts = entry.facts(self._batch.policy)
        self._batch.copies.append(Copy(stands_for, entry.event(), facts, entry.digest, entry.recorded_at))

    async def facts_of(self, entries: Iterable[Entry]) -> dict[UUID, Facts]:
        """Read stored entries, with the links of their copies."""
        return await self._with_copies([entry.facts(self._batch.policy) for entry in entries])

    async def _with_copies(self, facts: Sequence[Facts]) -> dict[UUID, Facts]:
        mails = {
            fact.entry_id: [c.facts for c in self._batch.copies if c.stands_for == fact.entry_id]
            for fact in facts
            if fact.copy_key
        }
        if mails:
            now = {
                c.facts.entry_id: c.stands_for for c in self._batch.copies if c.facts.entry_id in self._batch.displaced
            }
            stored = await copies.of_entries(self._connection, self._tenant, [*mails, *now])
            for entry_id, copy_id, event in stored:
                stands_for = now.get(entry_id, entry_id)
                if stands_for in mails:
                    mails[stands_for].append(facts_of(event, copy_id, self._batch.policy))
        return {fact.entry_id: with_copies(fact, mails.get(fact.entry_id, ())) for fact in facts}

    def _read(self, event: InboundEvent, id_: UUID) -> Facts:
        """Read an event. Raises Rejected where its data has not the shape that ingest would have let through."""
        try:
            return facts_of(event, id_, self._batch.policy)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Rejected(f"the event's data cannot be read ({type(error).__name__} {error})") from error
