"""Decide a batch: the state before it is set, history replayed, and its events placed in order. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from services.conversation.batch import Batch
from services.conversation.entries import Entry
from services.conversation.facts import Facts, Order
from services.conversation.people import Leaf
from services.conversation.stitching import Placement, Stitcher
from services.conversation.store import StoredConversation
from services.conversation.summary import Summary


class Fold:
    """The decisions on a batch, made by `run`."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.stitcher = Stitcher(batch.policy, batch.people.customers_at, frozenset(batch.answered))
        self.placements: dict[UUID, Placement] = {}
        self.summaries: dict[UUID, Summary] = {}
        self.merges: dict[UUID, tuple[UUID, Order]] = {}
        """Conversation → the one it became part of, and the event that made them one."""

    def run(self) -> None:
        """Fold the events, new and again, over the state before them."""
        stitcher = self.stitcher
        self._set_state(stitcher)
        self._replay(stitcher)
        for key, conversation_id in self._batch.bound.items():
            if stitcher.canonical.get(conversation_id, conversation_id) in stitcher.conversations:
                stitcher.bound[key] = conversation_id
        for fact in sorted(self._batch.facts.values(), key=lambda fact: fact.order):
            owner = self._batch.people.owner(fact)
            placement = stitcher.place(fact, owner.leaf_id if owner else None)
            self.placements[fact.entry_id] = placement
            self._merge(placement.merged, fact.order)
            if placement.conversation_id is not None:
                self._settle_owner(fact, placement, owner)
                data = self._batch.arrivals[fact.entry_id].event.data if fact.entry_id in self._batch.arrivals else None
                data = data if data is not None else self._batch.stored[fact.entry_id].data
                self._summary(placement.conversation_id).apply(fact, data)

    def _set_state(self, stitcher: Stitcher) -> None:
        for id_, conversation in self._batch.conversations.items():
            if id_ in self._batch.rebuilt:
                continue
            if conversation.canonical_id == id_:
                stitcher.conversations[id_] = conversation.state
                self.summaries[id_] = conversation.summary
            else:
                stitcher.canonical[id_] = conversation.canonical_id
        for leaf_id, conversation_id in self._batch.owned:
            if conversation_id not in self._batch.rebuilt:
                stitcher.owned[leaf_id].add(conversation_id)
        for id_, (conversation_id, _) in self._batch.named.items():
            if id_ not in self._batch.facts and conversation_id not in self._batch.rebuilt:
                stitcher.placed[id_] = conversation_id

    def _replay(self, stitcher: Stitcher) -> None:
        """Build the state of the conversations that are told anew, up to where the fold begins."""
        steps: list[tuple[Order, Entry | StoredConversation]] = []
        steps += [((e.occurred_at, e.source, e.event_id), e) for e in self._batch.history]
        for id_ in self._batch.rebuilt:
            conversation = self._batch.conversations[id_]
            if conversation.merged_by and conversation.merged_by[0] < self._batch.since(id_):
                steps.append((conversation.merged_by, conversation))
        for _, step in sorted(steps, key=lambda item: item[0]):
            if isinstance(step, StoredConversation):
                if step.merged_into is not None and step.merged_by is not None:
                    merged = stitcher.replay_merge(step.id, step.merged_into)
                    self._merge(merged, step.merged_by)
                continue
            fact = step.facts(self._batch.policy)
            owner = self._batch.people.owner(fact)
            stitcher.replay(fact, owner.leaf_id if owner else None, step.conversation_id)
            if step.conversation_id is not None:
                state = stitcher.conversation(step.conversation_id)
                state.owner_leaf = state.owner_leaf or step.leaf_id
                self._summary(step.conversation_id).apply(fact, step.data)

    def _settle_owner(self, fact: Facts, placement: Placement, owner: Leaf | None) -> None:
        if placement.founded and placement.conversation_id is not None and owner is None:
            conversation = self.stitcher.conversation(placement.conversation_id)
            if conversation.id == fact.entry_id:
                conversation.owner_leaf = self._batch.people.leaf(f"anonymous:{fact.entry_id}").leaf_id

    def _summary(self, conversation_id: UUID) -> Summary:
        canonical = self.stitcher.canonical.get(conversation_id, conversation_id)
        return self.summaries.setdefault(canonical, Summary())

    def _merge(self, merged: Sequence[tuple[UUID, UUID]], by: Order) -> None:
        for gone, into in merged:
            self.merges[gone] = (into, by)
            if gone in self.summaries:
                self.summaries.setdefault(into, Summary()).absorb(self.summaries[gone])
