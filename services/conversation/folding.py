"""Decide a batch: the state before it is set, history replayed, and its events placed in order. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from services.conversation import checkpoints
from services.conversation.batch import BEGINNING, Batch
from services.conversation.checkpoints import Checkpoint
from services.conversation.entries import Entry
from services.conversation.facts import Facts, Order
from services.conversation.outlines import ANSWERED, Differing, Followed, Outline
from services.conversation.people import People
from services.conversation.stitching import NEVER, Conversation, Placement, Stitcher
from services.conversation.summary import Summary
from services.conversation.tables.conversations import StoredConversation


class Together:
    """Who is one customer, asked by leaf and instant; those who are it now are looked up once.

    It knows no more than the people, and above all not the fold whose stitcher asks it: such a circle held whole
    batches until garbage was looked for, and requests waited while it was.
    """

    def __init__(self, people: People) -> None:
        self._people = people
        self._linked_until: dict[UUID, datetime] = {}
        self._now: dict[tuple[UUID, UUID], list[UUID]] = {}
        """(component, customer) → all their leaves now."""

    def at(self, leaf_id: UUID, at: datetime) -> list[UUID]:
        """Return all leaves that were one customer with this one."""
        leaf = self._people.by_id[leaf_id]
        if leaf.by_itself:
            return [leaf_id]
        until = self._linked_until.get(leaf.component_id)
        if until is None:
            until = self._linked_until[leaf.component_id] = self._people.linked_until(leaf.component_id) or BEGINNING
        if at < until:
            return self._people.customers_at(leaf_id, at)
        name = leaf.component_id, leaf.customer_id
        known = self._now.get(name)
        if known is None:
            known = self._now[name] = self._people.customers_at(leaf_id, at)
        return known


class Fold:
    """The decisions on a batch, made by `run`."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        together = Together(batch.people)
        self.stitcher = Stitcher(batch.policy, together.at, frozenset(batch.answered), frozenset(batch.bulk))
        self.placements: dict[UUID, Placement] = {}
        self.summaries: dict[UUID, Summary] = {}
        self.merges: dict[UUID, tuple[UUID, Order]] = {}
        """Conversation → the one it became part of, and the event that made them one."""
        stored = batch.conversations
        self.active_before = {id_: stored[c.canonical_id].summary.last_entry_at for id_, c in stored.items()}
        """Stored conversation → the last entry of the one that it was part of; summaries go on from what is stored."""
        self.differing: list[Differing] = []
        """What was only followed and is to be decided again, with what it touches; then the rest is no decision yet."""
        followed = batch.followed
        self._in_outline = followed.in_outline(stored, batch.rebuilt) if followed else set()
        self._instead: dict[UUID, UUID | None] = {}
        """Conversation in outline → the one in which its first entry is now."""
        self.checkpoints: dict[UUID, list[Checkpoint]] = {}
        """How far long conversations had come, in their order."""
        self._owners: dict[UUID, set[UUID]] = defaultdict(set)
        """Conversation → the leaves that own what it was given here."""

    def run(self) -> None:
        """Fold the events, new and again, over the state before them."""
        stitcher = self.stitcher
        self._take_joins(stitcher)
        self._set_state(stitcher)
        self._replay(stitcher)
        for key, conversation_id in self._batch.bound.items():
            if stitcher.canonical.get(conversation_id, conversation_id) in stitcher.conversations:
                stitcher.bound[key] = conversation_id
        steps: list[tuple[Facts, Outline | None]] = [(fact, None) for fact in self._batch.facts.values()]
        if self._batch.followed:
            steps += [(outline.facts, outline) for outline in self._outlines(self._batch.followed)]
        for fact, outline in sorted(steps, key=lambda step: step[0].order):
            if outline is None:
                self._place(fact)
            else:
                self._follow(outline)

    def _place(self, fact: Facts) -> None:
        owner, person = self._batch.people.whose(fact)
        placement = self.stitcher.place(fact, owner.leaf_id if owner else None, person.leaf_id if person else None)
        self.placements[fact.entry_id] = placement
        self._merge(placement.merged, fact.order)
        if placement.conversation_id is not None:
            if placement.conversation_id in self._in_outline:
                self.differing.append(Differing(fact.entry_id, fact.occurred_at, (placement.conversation_id,)))
                return
            self._settle_owner(fact, placement)
            data = self._batch.arrivals[fact.entry_id].event.data if fact.entry_id in self._batch.arrivals else None
            data = data if data is not None else self._batch.stored[fact.entry_id].data
            self._apply(placement.conversation_id, fact, data, owner.leaf_id if owner else None)

    def holds(self, conversation_id: UUID) -> bool:
        """Tell whether there is such a conversation, itself or as part of another one."""
        canonical = self.stitcher.canonical.get(conversation_id, conversation_id)
        return canonical in self.stitcher.conversations

    def last_entry_at(self, conversation_id: UUID) -> datetime:
        """Return the instant of the last entry of a conversation that it holds, or of the one it became part of."""
        summary = self.summaries.get(self.stitcher.canonical.get(conversation_id, conversation_id))
        last = summary.last_entry_at if summary else None
        return last or self.stitcher.conversation(conversation_id).opened[0]

    def _outlines(self, followed: Followed) -> Iterator[Outline]:
        """Yield the outlines of what is not decided again."""
        facts = self._batch.facts
        for outline in followed.outlines:
            into = outline.conversation_id
            if outline.facts.entry_id not in facts and (into is None or into in self._in_outline):
                yield outline

    def _follow(self, outline: Outline) -> None:
        """Leave an event where it is, unless rule 4 gives it another answer."""
        fact, leaf_id, into = outline.facts, outline.leaf_id, outline.conversation_id
        if into is not None:
            into = self._instead.get(into, into)
        if leaf_id is not None and self._asked(outline, leaf_id):
            answer = self.stitcher.asks(fact, leaf_id)
            if answer != outline.answer:
                touched = tuple(id_ for id_ in (outline.conversation_id, answer) if id_)
                self.differing.append(Differing(fact.entry_id, fact.occurred_at, touched))
                # A guess at what follows, so that it is loaded at once: it is decided when that is.
                into = answer or (fact.entry_id if fact.opens else None)
                if outline.conversation_id == fact.entry_id:
                    self._instead[fact.entry_id] = into
        self.stitcher.replay(fact, leaf_id, None, into, None)

    def _asked(self, outline: Outline, leaf_id: UUID) -> bool:
        followed = self._batch.followed
        return (
            followed is not None
            and outline.rule in ANSWERED
            and outline.facts.occurred_at >= followed.since
            and self._batch.people.is_of(leaf_id, followed.component)
        )

    def _take_joins(self, stitcher: Stitcher) -> None:
        """Know what agents put where; of several words on one entry the latest counts."""
        known = (*self._batch.facts.values(), *(fact for _, fact in self._batch.history))
        stands = {id_: entry_id for id_, (_, entry_id) in self._batch.named.items()}
        stands |= {copy.entry_id: fact.entry_id for fact in known for copy in fact.copies}
        words = (fact for fact in self._batch.facts.values() if fact.entries_put)
        for fact in sorted(words, key=lambda fact: fact.order):
            for entry_id in fact.joined:
                entry_id = stands.get(entry_id, entry_id)
                stitcher.joined[entry_id] = UUID(fact.conversation_id)
                stitcher.kept.pop(entry_id, None)
            for entry_id, conversation_id in fact.kept:
                entry_id = stands.get(entry_id, entry_id)
                (stitcher.joined if entry_id in stitcher.joined else stitcher.kept)[entry_id] = conversation_id

    def _set_state(self, stitcher: Stitcher) -> None:
        followed = self._batch.followed
        begun = followed.begun if followed else {}
        for id_, conversation in self._batch.conversations.items():
            if id_ in self._batch.rebuilt:
                continue
            if id_ in self._in_outline:
                self.summaries[id_] = conversation.summary
                if id_ in begun:
                    stitcher.conversations[id_] = replace(begun[id_], tickets=set(begun[id_].tickets))
            elif conversation.canonical_id == id_:
                # What is followed may be gone through several times.
                state, summary = conversation.state, conversation.summary
                stitcher.conversations[id_] = replace(state, tickets=set(state.tickets)) if followed else state
                self.summaries[id_] = replace(summary, channels=list(summary.channels)) if followed else summary
            else:
                stitcher.canonical[id_] = conversation.canonical_id
        for leaf_id, conversation_id in self._batch.owned:
            if conversation_id in self._in_outline and conversation_id not in begun:
                continue  # from when on, its outlines say
            if conversation_id not in self._batch.rebuilt:
                stitcher.owned[leaf_id].add(conversation_id)
        told = {entry.entry_id for entry, _ in self._batch.history}
        for id_, (held_by, entry_id) in self._batch.named.items():
            if held_by is None or entry_id in self._batch.facts:
                continue
            # What lies before a checkpoint is where it was.
            if held_by not in self._batch.rebuilt or (held_by in self._batch.checkpoints and entry_id not in told):
                stitcher.placed[id_] = held_by

    def _replay(self, stitcher: Stitcher) -> None:
        """Build the state of the conversations that are told anew, up to where the fold begins."""
        for id_, checkpoint in self._batch.checkpoints.items():
            if id_ in self._batch.rebuilt:
                self._resume(id_, checkpoint)
        steps: list[tuple[Order, tuple[Entry, Facts] | StoredConversation]] = []
        for id_ in self._batch.rebuilt:
            conversation = self._batch.conversations[id_]
            if conversation.merged_by and conversation.merged_by[0] < self._batch.since(id_):
                steps.append((conversation.merged_by, conversation))
        # Behind the merge that it brings about: an entry acts on the whole.
        steps += [(fact.order, (entry, fact)) for entry, fact in self._batch.history]
        for _, step in sorted(steps, key=lambda item: item[0]):
            if isinstance(step, StoredConversation):
                if step.merged_into is not None and step.merged_by is not None:
                    merged = stitcher.replay_merge(step.id, step.merged_into)
                    self._merge(merged, step.merged_by)
                continue
            entry, fact = step
            if entry.conversation_id is not None:
                self._replay_entry(entry, fact, entry.conversation_id)

    def _replay_entry(self, entry: Entry, fact: Facts, conversation_id: UUID) -> None:
        owner, person = self._batch.people.whose(fact)
        known = self._batch.conversations.get(conversation_id)
        self.stitcher.replay(
            fact,
            owner.leaf_id if owner else None,
            person.leaf_id if person else None,
            conversation_id,
            known.state.follow_up_of if known else None,
        )
        self._own(conversation_id, fact)
        self._apply(conversation_id, fact, entry.data, owner.leaf_id if owner else None)

    def _resume(self, id_: UUID, checkpoint: Checkpoint) -> None:
        """Go on from where a conversation had come."""
        state, summary = checkpoint.conversation.state, checkpoint.conversation.summary
        self.stitcher.conversations[id_] = replace(state, tickets=set(state.tickets))
        self.summaries[id_] = replace(summary, channels=list(summary.channels))
        for leaf_id in checkpoint.participants:
            self.stitcher.owned[leaf_id].add(id_)

    def _apply(self, conversation_id: UUID, fact: Facts, data: dict[str, Any], owner: UUID | None) -> None:
        """Let an entry count in its conversation, whose owner it has where it has none of its own."""
        canonical = self.stitcher.canonical.get(conversation_id, conversation_id)
        conversation, summary = self.stitcher.conversations[canonical], self._summary(canonical)
        summary.apply(fact, data)
        leaf_id = owner or conversation.owner_leaf
        if leaf_id is not None:
            self._owners[canonical].add(leaf_id)
        self._remember(conversation, summary, fact.occurred_at)

    def _remember(self, conversation: Conversation, summary: Summary, at: datetime) -> None:
        """Keep how far a conversation has come, every so many entries, where that is all that was said until then."""
        id_ = conversation.id
        made = self.checkpoints.get(id_)
        if made and made[-1].at == at:
            made.pop()  # it was not yet all of that instant
        if summary.entries % checkpoints.EVERY or not self._is_whole(id_):
            return
        state = replace(conversation, tickets=set(conversation.tickets))
        stored = StoredConversation(id_, id_, None, None, state, replace(summary, channels=list(summary.channels)))
        participants = self._owners[id_] | self._participants_before(id_)
        self.checkpoints.setdefault(id_, []).append(Checkpoint(at, stored, participants))

    def _is_whole(self, id_: UUID) -> bool:
        """Tell whether all is known of a conversation, and nothing was merged with it."""
        if id_ in self.stitcher.canonical.values():
            return False
        batch = self._batch
        return id_ not in batch.conversations or id_ in batch.rebuilt or batch.since(id_) < NEVER

    def _participants_before(self, id_: UUID) -> set[UUID]:
        """Return the leaves that own what is in a conversation from before what was given to it here."""
        if id_ in self._batch.rebuilt:
            return set(self._batch.checkpoints[id_].participants) if id_ in self._batch.checkpoints else set()
        return {leaf_id for leaf_id, conversation_id in self._batch.participants if conversation_id == id_}

    def _settle_owner(self, fact: Facts, placement: Placement) -> None:
        if placement.founded and placement.conversation_id is not None:
            self._own(placement.conversation_id, fact)

    def _own(self, conversation_id: UUID, fact: Facts) -> None:
        """Give a conversation whose first entry is nobody's to the nobody of that entry."""
        conversation = self.stitcher.conversation(conversation_id)
        conversation.owner_leaf = conversation.owner_leaf or self._batch.people.leaf(fact.nobody).leaf_id

    def _summary(self, conversation_id: UUID) -> Summary:
        canonical = self.stitcher.canonical.get(conversation_id, conversation_id)
        return self.summaries.setdefault(canonical, Summary())

    def _merge(self, merged: Sequence[tuple[UUID, UUID]], by: Order) -> None:
        for gone, into in merged:
            self.merges[gone] = (into, by)
            if gone in self.summaries:
                self.summaries.setdefault(into, Summary()).absorb(self.summaries[gone])
