"""Which conversation: the rules of stitching, folded over events in the order in which they happened.

Pure. `Stitcher` is the state just before an instant; `place` takes the next event and says where it belongs. Folding
a whole event set from an empty state gives the conversations; folding a part from the state before it gives the same,
which is how late events are put right (services/conversation/consumer.py).
Source: docs/decisions/0005-stitching-as-a-fold.md
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple
from uuid import UUID

from services.conversation.facts import Facts, Key, Order, key_of
from services.conversation.identity import Node
from services.conversation.policy import Policy

ConversationId = UUID
LeafId = UUID

NEVER = datetime(9999, 12, 31, tzinfo=UTC)
"""Behind every event."""

Rule = Literal[
    "conversation_id", "handoff_token", "callback_id", "ticket", "mail", "session", "dm_thread",
    "open_conversation", "follow_up", "new", "joined", "none",
]  # fmt: skip

_RULE_OF_KEY: dict[str, Rule] = {
    "conversation": "conversation_id",
    "handoff": "handoff_token",
    "callback": "callback_id",
    "ticket": "ticket",
    "mail": "mail",
    "contact": "session",
    "dm": "dm_thread",
}


class Placement(NamedTuple):
    """Where one event belongs and why. `conversation_id` is the conversation's own id, before later merges."""

    conversation_id: ConversationId | None
    rule: Rule
    key: Key | None = None
    follow_up_of: ConversationId | None = None
    founded: bool = False
    reopened: bool = False
    escalated_from: str | None = None
    """The channel before, where this message changed it and nobody had posted the escalation."""
    merged: tuple[tuple[ConversationId, ConversationId], ...] = ()
    """(from, into) for each conversation that this event made one with another."""


@dataclass(slots=True)
class Conversation:
    """One conversation as far as it has come."""

    id: ConversationId
    opened: Order
    owner_leaf: LeafId | None
    last_activity_at: datetime | None = None
    resolved_at: datetime | None = None
    tickets: set[Key] = field(default_factory=set)
    follow_up_of: ConversationId | None = None
    last_channel: str | None = None
    escalation_posted_to: str | None = None

    def closed_at(self) -> datetime:
        return self.resolved_at or self.last_activity_at or self.opened[0]


class Binding(NamedTuple):
    """A key means a conversation from `order` on; None: an event named the key, which finds none because of that."""

    key: Key
    order: Order
    entry_id: UUID
    conversation_id: ConversationId | None


CustomersAt = Callable[[LeafId, datetime], Iterable[LeafId]]
"""(leaf, instant) → all leaves that were the same customer by the evidence up to that instant."""


def bulk_key(mail: Key, leaf: LeafId) -> Key:
    """Return what a bulk mail's id means for one of those who got it: two who answer it never share a conversation."""
    return f"{mail}|{leaf}"


def naming_key(mail: Key) -> Key:
    """Return the key under which it is kept who names a bulk mail, also whoever it means nothing to."""
    return f"bulk:{mail}"


def shared_key(node: Node) -> Key:
    """Return the key under which it is kept who names handles that are nobody's by themselves, and nothing else."""
    return key_of("shared", node)


def sent_key(mail: Key) -> Key:
    """Return the key under which it is kept that we sent a mail."""
    return f"sent:{mail}"


class Stitcher:
    """The state of stitching just before the next event.

    The caller puts in what is known before (`conversations`, `canonical`, `bound`, `owned`) and takes out what came
    of it (`bindings`).
    """

    def __init__(
        self,
        policy: Policy,
        customers_at: CustomersAt,
        answered_contacts: frozenset[str],
        bulk_mails: frozenset[Key] = frozenset(),
    ) -> None:
        self._policy = policy
        self._customers_at = customers_at
        self._answered = answered_contacts
        self._bulk = bulk_mails
        self.conversations: dict[ConversationId, Conversation] = {}
        self.canonical: dict[ConversationId, ConversationId] = {}
        self.bound: dict[Key, ConversationId] = {}
        self.owned: dict[LeafId, set[ConversationId]] = defaultdict(set)
        self.placed: dict[UUID, ConversationId] = {}
        """Entry → conversation, of entries before this instant that may be named by `conversation_id`."""
        self.bindings: list[Binding] = []
        self.joined: dict[UUID, ConversationId] = {}
        """Entry → the conversation into which an agent put it."""
        self.kept: dict[UUID, ConversationId] = {}
        """Entry → the conversation in which it stays, though an agent took others from it."""

    # --- deciding -------------------------------------------------------------------------------------------------

    def place(self, event: Facts, leaf: LeafId | None, person: LeafId | None = None) -> Placement:
        """Decide where `event`, owned by `leaf` (None: by whoever owns its conversation), belongs, and record it.

        `person` is whom it is about where that is known only weakly: they own what they open.
        """
        merged = self._merge_named(event)
        found, rule, key, follow_up_of = self._find(event, leaf, person)
        stays, name = self._stays(event)
        if name is not None and stays != found and (stays is not None or self._opens(event)):
            found, rule, key, follow_up_of = stays, "joined", f"conversation:{name}", None
        founded = False
        if found is None and (rule in ("follow_up", "joined") or self._opens(event)):
            found, founded = self._open(event, leaf or person, follow_up_of, self._name_for(event)), True
        merged += self._merge_mails(event, leaf or person)
        if leaf is None:
            self.bindings += (Binding(shared_key(node), event.order, event.entry_id, None) for node in event.owners)
        if found is None:
            self._bind(event, None, leaf or person)
            return Placement(None, "none", merged=merged)
        conversation = self.conversation(found)
        reopened, escalated_from = self._live(event, conversation, leaf)
        self._bind(event, conversation.id, leaf or person)
        return Placement(
            conversation.id, rule, key, follow_up_of if founded else None, founded, reopened, escalated_from, merged
        )

    def replay(
        self,
        event: Facts,
        leaf: LeafId | None,
        person: LeafId | None,
        conversation_id: ConversationId | None,
        follow_up_of: ConversationId | None,
    ) -> None:
        """Take an event whose place is known: history before the instant from which to decide anew.

        `follow_up_of` is its conversation's, for the event that opens it.
        """
        if conversation_id is None:
            return
        if conversation_id not in self.conversations:
            self._open(event, leaf or person, follow_up_of, conversation_id)
        conversation = self.conversation(conversation_id)
        self._live(event, conversation, leaf)
        self._put(event, conversation_id, conversation)

    def replay_merge(
        self, gone: ConversationId, into: ConversationId
    ) -> tuple[tuple[ConversationId, ConversationId], ...]:
        """Take a merge that is known; return (from, into) as `Placement.merged` has it."""
        known = gone in self.conversations and into in self.conversations
        target = self.conversation(into).id if known else into
        return self._unite({self.conversation(gone).id, target}, target) if known else ()

    def asks(self, event: Facts, leaf: LeafId) -> ConversationId | None:
        """Return what rule 4 answers an event now that `leaf` owns."""
        return self._open_conversation(event, leaf, None)

    def conversation(self, conversation_id: ConversationId) -> Conversation:
        """Return the conversation that `conversation_id` means now."""
        return self.conversations[self.canonical.get(conversation_id, conversation_id)]

    def _find(
        self, event: Facts, leaf: LeafId | None, person: LeafId | None
    ) -> tuple[ConversationId | None, Rule, Key | None, ConversationId | None]:
        stale: ConversationId | None = None
        put_into = self.joined.get(event.entry_id)
        if put_into is not None:
            # A conversation whose first entry was joined elsewhere is no longer where that entry is.
            left = self.joined.get(put_into, put_into) != put_into
            found = self._called(put_into) if left else self._meant(put_into)
            return found, "joined", f"conversation:{put_into}", None
        found, key = self._named(event)
        if found is not None:
            return found, "conversation_id", key, None
        for asked, key in (*((token, token) for token in event.tokens), *self._mails(event, leaf or person)):
            found = self._bound_to(asked)
            if found is None:
                continue
            if self._live_for_reply(found, event.occurred_at):
                return found, _RULE_OF_KEY[key.partition(":")[0]], key, None
            stale = stale or found
        for key in event.sessions:
            found = self._bound_to(key)
            if found is not None:
                return found, "session", key, None
        for key in event.threads:
            found = self._bound_to(key)
            if found is not None and self._warm(found, event.occurred_at):
                return found, "dm_thread", key, None
        if stale is not None:
            # Rule 4 is skipped, also by what opens none: an old ticket's end is not that of the matter open now.
            return (None, "follow_up", None, stale) if self._opens(event) else (None, "none", None, None)
        found = self._open_conversation(event, leaf, person)
        if found is not None:
            return found, "open_conversation", None, None
        return None, "new", None, None

    def _named(self, event: Facts) -> tuple[ConversationId | None, Key | None]:
        """Rule 0: the conversation that the event names, or one that named this event before it happened."""
        for written in event.named:
            found = self._conversation_written(written)
            if found is not None:
                return found, f"conversation:{written}"
        own = f"conversation:{event.entry_id}"
        for copy in event.copies:
            key = f"conversation:{copy.entry_id}"
            if self._bound_to(own) is None and self._bound_to(key) is not None:
                return self._bound_to(key), key
        return self._bound_to(own), own

    def _conversation_written(self, written: str) -> ConversationId | None:
        return self._meant_by(written) or self._bound_to(f"conversation:{written}")

    def _meant_by(self, written: str) -> ConversationId | None:
        try:
            return self._meant(UUID(written))
        except ValueError:
            return None

    def _meant(self, named: UUID) -> ConversationId | None:
        """Return the conversation of that id, or the one that holds the entry of that id."""
        placed = self.placed.get(named)
        return self._called(named) or (self.canonical.get(placed, placed) if placed else None)

    def _called(self, named: UUID) -> ConversationId | None:
        return self.canonical.get(named, named) if named in self.conversations or named in self.canonical else None

    def _bound_to(self, key: Key) -> ConversationId | None:
        bound = self.bound.get(key)
        return None if bound is None else self.canonical.get(bound, bound)

    def _live_for_reply(self, conversation_id: ConversationId, at: datetime) -> bool:
        return at - self.conversations[conversation_id].closed_at() <= self._policy.follow_up_window

    def _warm(self, conversation_id: ConversationId, at: datetime) -> bool:
        conversation = self.conversations[conversation_id]
        return at - (conversation.last_activity_at or conversation.opened[0]) <= self._policy.open_window

    def _open_at(self, conversation_id: ConversationId, at: datetime) -> bool:
        """Tell whether rule 4 may find it: what only machines wrote was never active."""
        conversation = self.conversations[conversation_id]
        never_active = conversation.last_activity_at is None
        return conversation.resolved_at is None and not never_active and self._warm(conversation_id, at)

    def _open_conversation(self, event: Facts, leaf: LeafId | None, person: LeafId | None) -> ConversationId | None:
        """Rule 4: the one open conversation of the customer."""
        if not self._policy.open_window_s or not self._seeks(event):
            return None
        owned: set[ConversationId] = set()
        if leaf is not None:
            together = self._customers_at(leaf, event.occurred_at + self._policy.open_window)
            for other in self.owned.keys() & together:  # of a person's many leaves most have none
                owned.update(self.canonical.get(c, c) for c in self.owned[other])
        elif person is not None:
            theirs = {self.canonical.get(c, c) for c in self.owned.get(person, ())}
            owned = {c for c in theirs if self.conversations[c].owner_leaf == person}
        candidates = [c for c in owned if self._open_at(c, event.occurred_at)]
        if len(candidates) != 1:
            return None
        tickets = {key for key in event.tokens if key.startswith("ticket:")}
        if tickets and self.conversations[candidates[0]].tickets - tickets:
            return None
        return candidates[0]

    def _opens(self, event: Facts) -> bool:
        return event.opens or self._is_answered_call(event)

    def _seeks(self, event: Facts) -> bool:
        return event.seeks_open_conversation or self._is_answered_call(event)

    def _is_answered_call(self, event: Facts) -> bool:
        # A call opens where it began to queue, but only if somebody ever answered it.
        return event.type == "call.answered" or (event.type == "call.queued" and event.contact in self._answered)

    def _stays(self, event: Facts) -> tuple[ConversationId | None, ConversationId | None]:
        """Return the conversation, as far as it is there, and the id of the one in which an event stays."""
        name = self.kept.get(event.entry_id)
        return (self._called(name) if name else None), name

    def _name_for(self, event: Facts) -> ConversationId:
        """Return the id of the conversation that an event opens: its own, unless an agent said where it belongs."""
        name = self.joined.get(event.entry_id) or self.kept.get(event.entry_id)
        return event.entry_id if name is None or self._called(name) else name

    # --- recording ------------------------------------------------------------------------------------------------

    def _open(
        self, event: Facts, leaf: LeafId | None, follow_up_of: ConversationId | None, id_: ConversationId | None = None
    ) -> ConversationId:
        id_ = id_ or event.entry_id
        self.conversations[id_] = Conversation(id_, event.order, leaf, follow_up_of=follow_up_of)
        if leaf is not None:
            self.owned[leaf].add(id_)
        return id_

    def _live(self, event: Facts, conversation: Conversation, leaf: LeafId | None) -> tuple[bool, str | None]:
        """Let the event act on its conversation; say whether it reopened it, and from which channel it escalated."""
        if leaf is not None:
            self.owned[leaf].add(conversation.id)
        if event.automatic:
            return False, None
        reopened = self._resolve_or_reopen(event, conversation)
        escalated_from = self._change_channel(event, conversation)
        if event.is_activity:
            last = conversation.last_activity_at
            conversation.last_activity_at = max(last, event.occurred_at) if last else event.occurred_at
        return reopened, escalated_from

    def _resolve_or_reopen(self, event: Facts, conversation: Conversation) -> bool:
        if event.type == "conversation.resolved":
            conversation.resolved_at = event.occurred_at
        elif event.type == "conversation.reopened":
            conversation.resolved_at = None
        elif (
            event.from_customer
            and conversation.resolved_at is not None
            and event.occurred_at - conversation.resolved_at <= self._policy.follow_up_window
        ):
            conversation.resolved_at = None
            return True
        return False

    def _change_channel(self, event: Facts, conversation: Conversation) -> str | None:
        if event.type == "conversation.escalated":
            conversation.escalation_posted_to = event.to_channel
            return None
        if not (event.is_message or self._is_answered_call(event)) or event.channel is None:
            return None
        before, conversation.last_channel = conversation.last_channel, event.channel
        if before is None or before == event.channel:
            return None
        posted, conversation.escalation_posted_to = conversation.escalation_posted_to, None
        return None if posted == event.channel else before

    def _mails(self, event: Facts, leaf: LeafId | None) -> Iterator[tuple[Key, Key]]:
        """Yield what an event asks for and the mail it stands for: of a bulk mail what it means for the customer."""
        for key in event.mails:
            if key not in self._bulk:
                yield key, key
            elif leaf is not None:
                for other in self._customers_at(leaf, event.occurred_at + self._policy.open_window):
                    yield bulk_key(key, other), key

    def _bind(self, event: Facts, conversation_id: ConversationId | None, leaf: LeafId | None) -> None:
        """Bind every key of the event; store only bindings that change something (mail threads name all before)."""
        keys = event.keys
        if self._bulk:
            keys = tuple(key for key in keys if key not in self._bulk)
            if leaf is not None:
                keys += tuple(bulk_key(key, leaf) for key in event.mails if key in self._bulk)
            for mail in self._bulk.intersection(event.mails):
                self.bindings.append(Binding(naming_key(mail), event.order, event.entry_id, None))
        if event.sent_mail:
            # Stored always: these tell which mails were sent to several customers. They find no conversation.
            self.bindings.append(Binding(sent_key(event.sent_mail), event.order, event.entry_id, None))
        keys = (*keys, *(f"conversation:{written}" for written in event.named))
        put = self.joined.get(event.entry_id) or self.kept.get(event.entry_id)
        if put is not None and (event.entry_id in self.joined or self._called(put) == conversation_id):
            keys = (*keys, f"conversation:{put}")
        for entry_id in event.entries_put:
            # Behind everything, so that whoever decides that entry, at whatever instant, meets this event.
            order = (NEVER, event.order[1], event.order[2])
            self.bindings.append(Binding(f"conversation:{entry_id}", order, event.entry_id, None))
        for key in keys:
            if conversation_id is None or self._bound_to(key) != conversation_id:
                self.bindings.append(Binding(key, event.order, event.entry_id, conversation_id))
            if conversation_id is not None:
                self.bound[key] = conversation_id
        if event.copy_key:
            # Stored always: it tells which entry stands for a mail. It finds no conversation.
            self.bindings.append(Binding(event.copy_key, event.order, event.entry_id, None))
        if conversation_id is not None:
            self._put(event, conversation_id, self.conversations[conversation_id])

    def _put(self, event: Facts, placed_in: ConversationId, conversation: Conversation) -> None:
        """Remember where an event is; `placed_in` may have become part of `conversation`."""
        self.placed[event.entry_id] = placed_in
        for copy in event.copies:
            self.placed[copy.entry_id] = placed_in
        if event.tokens:
            conversation.tickets.update(key for key in event.tokens if key.startswith("ticket:"))

    def _merge_mails(self, event: Facts, leaf: LeafId | None) -> tuple[tuple[ConversationId, ConversationId], ...]:
        """Make one of all live conversations whose mails this event names."""
        named = {found for asked, _ in self._mails(event, leaf) if (found := self._bound_to(asked)) is not None}
        live = {found for found in named if self._live_for_reply(found, event.occurred_at)}
        return self._unite(live) if len(live) > 1 else ()

    def _merge_named(self, event: Facts) -> tuple[tuple[ConversationId, ConversationId], ...]:
        """Make one of the two conversations that an event says are one; the second keeps its id."""
        if event.united is None:
            return ()
        gone, into = (self._conversation_written(written) for written in event.united)
        return self._unite({gone, into}, into) if gone and into and gone != into else ()

    def _unite(
        self, ids: set[ConversationId], keeps: ConversationId | None = None
    ) -> tuple[tuple[ConversationId, ConversationId], ...]:
        """Make one of several; the one opened first keeps its id, unless `keeps` does."""
        into, *others = sorted((self.conversation(id_) for id_ in ids), key=lambda c: (c.id != keeps, c.opened))
        for gone in others:
            self._absorb(into, gone)
        return tuple((gone.id, into.id) for gone in others)

    def _absorb(self, into: Conversation, gone: Conversation) -> None:
        for id_, target in list(self.canonical.items()):
            if target == gone.id:
                self.canonical[id_] = into.id
        self.canonical[gone.id] = into.id
        if gone.opened < into.opened:
            into.opened, into.owner_leaf, into.follow_up_of = gone.opened, gone.owner_leaf, gone.follow_up_of
        times = [at for at in (into.last_activity_at, gone.last_activity_at) if at]
        into.last_activity_at = max(times, default=None)
        # One matter of which a part is still open is open.
        into.resolved_at = max(into.resolved_at, gone.resolved_at) if into.resolved_at and gone.resolved_at else None
        into.tickets |= gone.tickets
