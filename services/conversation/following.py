"""Load people who were found to be one so that only what differs is decided again; what that is, `outlines` tells.

Only rule 4 asks who is one customer. So what they did is not decided again as a whole: it is gone through in outline,
each event left where it is, and rule 4 asked again where it was asked. Where the answer is another one, the
conversations that this touches are decided again, and the rest is gone through once more beside them, until no answer
differs. Then everything stands where deciding all of it would have put it.
Source: docs/decisions/0015-merges-in-the-stream.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from services.conversation import tables
from services.conversation.batch import BEGINNING
from services.conversation.checkpoints import with_checkpoints
from services.conversation.loading import Loading
from services.conversation.outlines import Differing, Followed, are_plain, can_be_asked, were_theirs
from services.conversation.scope import component_name
from services.conversation.stitching import NEVER, Conversation
from services.conversation.tables.conversations import StoredConversation
from shared.events import DECISIONS, InboundEvent

MOST_ROUNDS = 4
"""How often more is found to differ before all that those people did is decided again."""


class Following(Loading):
    """Fills a batch. Where all of it is agents' words on who is one, whom they make one is only followed."""

    async def take(self, events: Sequence[InboundEvent]) -> None:
        """Take a batch, as `Loading` does."""
        await super().take(events)
        if self._apart and any(f"conversation:{id_}" in self._batch.bound for id_ in self._batch.arrivals):
            await self._follow_no_more()  # the word itself is in a conversation, and so is whoever owns it
            await self._load_past_links()

    async def _regrouped_since(self) -> dict[UUID, datetime]:
        placed = await self._placed_otherwise()
        found = {component: since for component, (since, _) in placed.items() if since is not None}
        batch = self._batch
        words = all(arrival.facts.type in DECISIONS for arrival in batch.arrivals.values())
        if words and not (batch.copies or batch.bulk or self._people.newly_shared) and len(found) <= 1:
            self._apart = {component: NEVER for component in self._regrouped if component not in found}
            for component, since in found.items():
                _, by_rule_4_alone = placed[component]
                if by_rule_4_alone:
                    batch.followed = await self._followed(component, since)
                if batch.followed:
                    self._apart[component] = since
        return found

    async def _followed(self, component: UUID, since: datetime) -> Followed | None:
        """Load in outline what these people have open and have asked since; None where that does not say enough."""
        leaves = [self._people.leaves[node] for node in self._people.members[component]]
        before = self._window_before(since)
        ids = [leaf.leaf_id for leaf in leaves if leaf.leaf_id not in self._idle]
        found = await tables.conversations.plain_conversations(self._connection, self._tenant, ids, before)
        if found is None:
            return None
        known, took_part = found
        gone_on = {id_: c for id_, c in known.items() if c.summary.last_entry_at and c.summary.last_entry_at >= since}
        begun = {id_: c for id_, c in gone_on.items() if c.state.opened[0] < before}
        customers = {leaf.leaf_id: leaf.customer_id for leaf in leaves}
        if not are_plain(known.values()) or not were_theirs(customers, took_part, begun.values()):
            return None
        active = [leaf.leaf_id for leaf in leaves if leaf.last_entry_at and leaf.last_entry_at >= since]
        states, known_until = await self._states_before(begun, before)
        outlines = await tables.entries.outlines(
            self._connection, self._tenant, (gone_on, before), known_until, (active, since)
        )
        if not can_be_asked(outlines):
            return None
        followed = Followed(component, since, outlines, states, set(gone_on))
        self._batch.conversations.update(known)
        self._batch.owned.update(took_part)
        self._batch.answered |= followed.calls_answered()
        return followed

    async def _states_before(
        self, begun: Mapping[UUID, StoredConversation], before: datetime
    ) -> tuple[dict[UUID, Conversation], list[tuple[UUID, datetime]]]:
        """Return how conversations had come, as far as a checkpoint before an instant tells, and until when it does."""
        wanted = [(id_, before) for id_ in with_checkpoints(begun)]
        found = await tables.checkpoints.latest(self._connection, self._tenant, wanted) if wanted else {}
        states, known_until = {}, []
        for id_, stored in begun.items():
            opened = Conversation(id_, stored.state.opened, stored.state.owner_leaf)
            states[id_] = found[id_].conversation.state if id_ in found else opened
            known_until.append((id_, found[id_].at if id_ in found else BEGINNING))
        return states, known_until

    async def take_differing(self, differing: Sequence[Differing]) -> None:
        """Load what is to be decided again because of these, whose people are only followed."""
        followed = self._batch.followed
        assert followed is not None
        since = min(one.at for one in differing)
        followed.rounds += 1
        followed.since = since if followed.rounds == 1 else followed.since
        for one in differing:
            parts = [self._batch.part_of(id_) for id_ in one.conversations if id_ in self._batch.conversations]
            self._scope.touch(parts, followed.since)
            self._later.add(one.entry_id)
        await self._load_connected()
        reaches_back = self._scope.earliest() < followed.since or since < followed.since
        if reaches_back or self._batch.bulk or followed.rounds > MOST_ROUNDS:
            await self._follow_no_more()
        await self._load_past_links()

    async def _follow_no_more(self) -> None:
        """Decide those again as a whole who were only followed."""
        apart, self._apart, self._batch.followed = self._apart, {}, None
        for component, since in apart.items():
            self._scope.touch((component_name(component),), since)
        for fact in self._batch.facts.values():
            self._scope.touch(self._names(fact), fact.occurred_at)
        await self._load_connected()
