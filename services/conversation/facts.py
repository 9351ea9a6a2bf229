"""What one event says about who and where: the only view of an event that identity and stitching have.

Pure. Everything is read from the event and the tenant's policy, so that stored events can be read again under
another policy.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

from services.conversation.identity import Node, strength
from services.conversation.policy import Policy
from shared import handles
from shared.events import COMINGS_AND_GOINGS, DECISIONS, JOINED, TYPE_PREFIX, InboundEvent, family_of
from shared.mail_ids import without_comments

Order = tuple[datetime, str, str]
"""(occurred_at, source, event id): the one order in which events are taken, whenever they arrive."""

Key = str
"""Something that names a conversation: `<kind>:<value>`, e.g. `ticket:T-1042` or `mail:<id@host>`."""

SESSION_CHANNELS = frozenset({"chat", "web", "phone"})
"""Channels whose contact is a session between one person and us: what is said in one is said by one person."""

_SUBJECT_TICKET = re.compile(r"\[#(T-[A-Za-z0-9][A-Za-z0-9_-]{0,63})\]")
_MAIL_ID = re.compile(r"<[^<>@\s]+@[^<>@\s]+>")
REFERENCES_AT_EACH_END = 99
"""How many References count from the start and from the end; real mail has been seen with 10,000."""

_LONGEST_KEY = 240
"""Longer values are known by their hash: an index row has a limit."""

_LIFECYCLE = frozenset(
    f"conversation.{name}"
    for name in ("opened", "assigned", "transferred", "escalated", "pending", "resolved", "reopened")
)
UNITED = "conversation.merged"
"""Type by which an integration says that two conversations are one."""

_MESSAGES = frozenset({"message.received", "message.sent"})
_NO_ACTIVITY = COMINGS_AND_GOINGS | {"message.status", JOINED, UNITED}


class Claim(NamedTuple):
    """One handle as the event gave it, with the form by which it is compared. `usable`: it may identify."""

    node: Node
    shown: str
    verified: bool
    usable: bool


class Facts(NamedTuple):
    """One event as identity and stitching see it."""

    entry_id: UUID
    order: Order
    type: str
    """Without the prefix."""
    channel: str | None
    claims: tuple[Claim, ...]
    contact: str | None
    nodes: tuple[Node, ...]
    """What this event proves to belong together: usable handles that link, and the session."""
    owners: tuple[Node, ...]
    """Usable handles that link and the session, strongest first: the first that is not shared owns the entry."""
    weak: Node | None
    """A handle that identifies nobody by itself (a browser): it owns only what nothing else says whose it is."""
    actor: str | None
    automatic: bool
    conversation_id: str | None
    tokens: tuple[Key, ...]
    mails: tuple[Key, ...]
    own_mail: Key | None
    sent_mail: Key | None
    """Its own mail id, where we sent it: an id that we sent to several customers is a bulk mail's."""
    sessions: tuple[Key, ...]
    """The contact and the one that it continues, where these bind always."""
    threads: tuple[Key, ...]
    """Perpetual threads (DM, SMS, WhatsApp), which bind only while the conversation is warm."""
    to_channel: str | None
    decisions: tuple[tuple[Node, Node, bool], ...] = ()
    """An agent's word on pairs of nodes: together (true) or apart, for ever."""
    united: tuple[str, str] | None = None
    """(from, into): two conversations, as their ids are written, that are one from this event on."""
    joined: tuple[UUID, ...] = ()
    """Entries that belong, by an agent's word, into the conversation that this event names."""
    kept: tuple[tuple[UUID, UUID], ...] = ()
    """(entry, conversation): those that stay where they were when others were taken from among them."""

    copy_key: Key | None = None
    """What copies of one mail have in common: its Message-ID and, where we sent it, to whom. None: not a mail."""
    copies: tuple[Facts, ...] = ()
    """The other events of the same mail, whose links count as well."""

    @property
    def entries_put(self) -> tuple[UUID, ...]:
        """All entries about whose place it says something."""
        return (*self.joined, *(entry_id for entry_id, _ in self.kept))

    @property
    def named(self) -> tuple[str, ...]:
        """The ids of conversations that it names, the one it would be in first."""
        if self.united:
            return tuple(reversed(self.united))
        return (self.conversation_id,) if self.conversation_id else ()

    @property
    def occurred_at(self) -> datetime:
        return self.order[0]

    @property
    def claimants(self) -> tuple[Node, ...]:
        """All nodes that may own the entry or, without an owner, stand for whom it is about."""
        return (*self.owners, self.weak) if self.weak else self.owners

    @property
    def nobody(self) -> Node:
        """The node that owns the entry where nothing says whose it is."""
        return f"anonymous:{self.entry_id}"

    @property
    def opens(self) -> bool:
        """Whether it opens a conversation by itself (a call does when it is answered, see stitching.py)."""
        return self.type in _MESSAGES or self.type == "conversation.opened"

    @property
    def is_message(self) -> bool:
        return self.type in _MESSAGES

    @property
    def seeks_open_conversation(self) -> bool:
        """Whether rule 4 may place it: what opens a conversation, and what speaks about one."""
        return not self.automatic and (self.opens or self.type in _LIFECYCLE)

    @property
    def is_activity(self) -> bool:
        return not self.automatic and self.type not in _NO_ACTIVITY

    @property
    def from_customer(self) -> bool:
        return self.type == "message.received" and not self.automatic

    def owner(self, shared: Container[Node] = ()) -> Node | None:
        """Return the node that owns the entry, or None where it is nobody's by itself."""
        return next((node for node in self.owners if node not in shared), None)

    @property
    def is_a_decision(self) -> bool:
        """Tell whether somebody decided about people or places: nobody was seen at that time."""
        return self.type in DECISIONS or self.type == JOINED

    @property
    def keys(self) -> tuple[Key, ...]:
        """All keys that it binds."""
        return (*self.tokens, *self.mails, *self.sessions, *self.threads)


def facts_of(event: InboundEvent, entry_id: UUID, policy: Policy) -> Facts:
    """Read an event under a policy."""
    order = (event.occurred_at, event.source, event.id)
    return facts_from(entry_id, order, event.type, event.region, event.data, policy)


def facts_from(
    entry_id: UUID, order: Order, type_: str, region: str | None, data: dict[str, Any], policy: Policy
) -> Facts:
    """Read what is known of an event under a policy, as `facts_of` does."""
    channel = data.get("channel") or None
    kind = type_.removeprefix(TYPE_PREFIX)
    if kind in DECISIONS:
        return _decision(entry_id, order, kind, data)
    if kind == JOINED:
        return _joining(entry_id, order, data)
    claims = tuple(_claims(data, region or policy.default_region, policy))
    contact = data.get("contact_id") or None
    thread = data.get("thread") or {}
    session = key_of("contact", contact) if contact and _in_a_session(kind, channel) else None
    linking: list[Node] = []
    weak: list[Node] = []
    for claim in claims:
        if claim.usable:
            (linking if strength(claim.node) < handles.WEAK else weak).append(claim.node)
    actor = (data.get("actor") or {}).get("type")
    own_mail = _mail_key(data.get("message_id")) if channel == "email" else None
    perpetual = family_of(channel) == "social"
    contact_keys = dict.fromkeys(key_of("contact", value) for value in (contact, thread.get("continues")) if value)
    dm = [key_of("dm", thread["dm_thread"])] if thread.get("dm_thread") else []
    nodes = tuple(dict.fromkeys([*linking, session] if session else linking))
    return Facts(
        entry_id=entry_id,
        order=order,
        type=kind,
        channel=channel,
        claims=claims,
        contact=contact,
        nodes=nodes,
        owners=tuple(sorted(nodes, key=lambda node: (strength(node), node))) if len(nodes) > 1 else nodes,
        weak=min(weak, default=None),
        actor=actor,
        automatic=is_automatic(data, kind, actor, policy, claims),
        conversation_id=_written(data.get("conversation_id")),
        tokens=tuple(_tokens(data, thread)),
        mails=tuple(_mails(thread, own_mail)),
        own_mail=own_mail,
        sent_mail=own_mail if kind == "message.sent" else None,
        sessions=() if perpetual else tuple(contact_keys),
        threads=tuple(dict.fromkeys([*contact_keys, *dm])) if perpetual else tuple(dm),
        to_channel=data.get("to_channel") or None,
        united=_united(data) if kind == UNITED else None,
        copy_key=_copy_key(kind, own_mail, claims),
    )


def _in_a_session(kind: str, channel: str | None) -> bool:
    """Tell whether a contact is a session; where no channel is told, a call's is, and what an identification names."""
    if channel is None:
        return kind == "customer.identified" or kind.startswith("call.")
    return channel in SESSION_CHANNELS


def _copy_key(kind: str, own_mail: Key | None, claims: tuple[Claim, ...]) -> Key | None:
    if own_mail is None or kind not in _MESSAGES:
        return None
    if kind == "message.received":
        return f"own:{own_mail}"
    # One that we sent to several is one entry for each of them. Whom it names counts, not whom the policy trusts:
    # another policy may not make two entries of one.
    to = min((not claim.node.startswith("email:"), claim.node) for claim in claims)[1] if claims else ""
    return f"own:{own_mail}|{to}"


MOST_COPIES = 100
"""How many copies of one mail count, in their order."""


def with_copies(own: Facts, copies: Iterable[Facts]) -> Facts:
    """Return the facts of a mail of which there are several events, `own` the first of them: the links of all count.

    What each proves of people it proves by itself: see `copies`.
    """
    known = sorted(copies, key=lambda copy: copy.order)[:MOST_COPIES]
    if not known:
        return own
    all_ = (own, *known)

    def union(field: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(value for fact in all_ for value in getattr(fact, field)))

    return own._replace(
        claims=tuple({claim.node: claim for fact in reversed(all_) for claim in reversed(fact.claims)}.values())[::-1],
        owners=union("owners"),
        weak=next((fact.weak for fact in all_ if fact.weak), None),
        conversation_id=next((fact.conversation_id for fact in all_ if fact.conversation_id), None),
        tokens=union("tokens"),
        mails=union("mails"),
        sessions=union("sessions"),
        threads=union("threads"),
        copies=tuple(known),
    )


def _written(conversation_id: object) -> str | None:
    """Return a conversation's id as it is compared."""
    return None if conversation_id is None else str(conversation_id or "").strip().lower()[:_LONGEST_KEY] or None


def _united(data: dict[str, Any]) -> tuple[str, str] | None:
    one, other = _written(data.get("from")), _written(data.get("into"))
    return (one, other) if one and other and one != other else None


def _decision(entry_id: UUID, order: Order, kind: str, data: dict[str, Any]) -> Facts:
    """Read an agent's merge or split: it names two sets of nodes, links nothing else and belongs to the first."""
    one, other = ([str(node) for node in side] for side in data["sides"])
    together = kind == "customer.merged"
    decided = {(min(a, b), max(a, b), together) for a in one for b in other if a != b}
    return _word(entry_id, order, kind, data)._replace(
        owners=tuple(sorted(one, key=lambda node: (strength(node), node))),
        decisions=tuple(sorted(decided)),
    )


def _joining(entry_id: UUID, order: Order, data: dict[str, Any]) -> Facts:
    """Read an agent's join: it belongs to the conversation that it names, and puts others there."""
    into = str(UUID(data["into"]))
    return _word(entry_id, order, JOINED, data)._replace(
        conversation_id=into,
        united=(str(UUID(data["from"])), into) if data.get("from") else None,
        joined=tuple(UUID(id_) for id_ in data.get("entry_ids") or ()),
        kept=tuple((UUID(entry), UUID(id_)) for id_, stay in (data.get("kept") or {}).items() for entry in stay),
    )


def _word(entry_id: UUID, order: Order, kind: str, data: dict[str, Any]) -> Facts:
    """Return the facts of something that an agent said about other events: by itself it is nobody's."""
    return Facts(
        entry_id=entry_id,
        order=order,
        type=kind,
        channel=None,
        claims=(),
        contact=None,
        nodes=(),
        owners=(),
        weak=None,
        actor=(data.get("actor") or {}).get("type"),
        automatic=False,
        conversation_id=None,
        tokens=(),
        mails=(),
        own_mail=None,
        sent_mail=None,
        sessions=(),
        threads=(),
        to_channel=None,
    )


def _claims(data: dict[str, Any], region: str, policy: Policy) -> list[Claim]:
    claims = {}
    for given in (data.get("customer") or {}).get("handles") or ():
        node, shown = _handle(given["kind"], given["value"], region)
        if node is not None and node not in claims:
            claims[node] = Claim(node, shown, bool(given.get("verified")), node not in policy.barred)
    return list(claims.values())


@lru_cache(maxsize=16_384)
def _handle(kind: str, value: str, region: str) -> tuple[Node | None, str]:
    """Return the form of a handle by which it is compared, and as it is shown: most are read again and again."""
    return handles.matching(kind, value, region), handles.shown(kind, value)


def is_automatic(data: dict[str, Any], kind: str, actor: str | None, policy: Policy, claims: tuple[Claim, ...]) -> bool:
    """Tell a machine's message (auto-reply, bounce, list, bulk, our own address as sender) from a person's.

    Source: RFC 3834 (Auto-Submitted), RFC 3464 (reports); docs/decisions/0005-stitching-as-a-fold.md
    """
    if actor == "automated":
        return True
    if data.get("channel") != "email" or kind not in _MESSAGES:
        return False
    if kind == "message.received" and policy.own and any(claim.node in policy.own for claim in claims):
        return True
    given = data.get("headers")
    if not given:
        return False
    headers = {name.lower(): str(value).strip().lower() for name, value in given.items()}
    return (
        without_comments(headers.get("auto-submitted", "no")).partition(";")[0].strip() not in ("", "no")
        or headers.get("content-type", "").startswith("multipart/report")
        or headers.get("return-path") == "<>"
        or headers.get("precedence") in ("bulk", "junk", "list")
        or "x-auto-response-suppress" in headers
        or any(name.startswith("list-") for name in headers)
    )


def _tokens(data: dict[str, Any], thread: dict[str, Any]) -> list[Key]:
    subject = data.get("subject")
    tickets = [thread["ticket"]] if thread.get("ticket") else _SUBJECT_TICKET.findall(str(subject)) if subject else []
    if not thread and not tickets:
        return []
    named = [("handoff", thread.get("handoff_token")), ("callback", thread.get("callback_id"))]
    named += [("ticket", ticket) for ticket in tickets]
    return list(dict.fromkeys(key_of(kind, value) for kind, value in named if value))


def _mails(thread: dict[str, Any], own: Key | None) -> list[Key]:
    if not thread:
        return [own] if own else []
    references = [key for key in map(_mail_key, thread.get("references") or ()) if key]
    if len(references) > 2 * REFERENCES_AT_EACH_END:
        references = references[:REFERENCES_AT_EACH_END] + references[-REFERENCES_AT_EACH_END:]
    # Own id first, then the nearest relative: the order in which they are asked.
    named = [own, _mail_key(thread.get("in_reply_to")), *reversed(references)]
    named.append(_mail_key(thread.get("original_message_id")))
    return list(dict.fromkeys(key for key in named if key))


def _mail_key(written: Any) -> Key | None:
    """Return the key of one msg-id. Anything that is not just one `<id@host>` (comments aside) names no mail."""
    if not isinstance(written, str) or len(written) > 2_000:
        return None
    bare = without_comments(written).strip()
    if _MAIL_ID.fullmatch(bare):
        return key_of("mail", bare)
    wrapped = f"<{bare}>"
    return key_of("mail", wrapped) if _MAIL_ID.fullmatch(wrapped) else None


def key_of(kind: str, value: str) -> Key:
    """Return the key `kind:value`, with the value's hash in its place where it is long."""
    if len(value) > _LONGEST_KEY:
        value = "sha256:" + sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{kind}:{value}"
