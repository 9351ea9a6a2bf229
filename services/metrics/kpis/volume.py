"""Volume and mix: how much comes in, where, and how much of it is open."""

from __future__ import annotations

from services.metrics.buckets import NO_DIMS, Dims, Sink
from services.metrics.customer import Customer
from services.metrics.entries import Entry
from services.metrics.facts import Contact, Conversation
from services.metrics.kpis.definition import ALL, DAY_S, NO_AGENT, TENANT, Definition, Entity, Shape
from shared.business import Rules


def received(entry: Entry, rules: Rules, sink: Sink) -> None:
    """One for each message that a person wrote to us."""
    if entry.type == "message.received" and not entry.automatic:
        dims = Dims(entry.channel, entry.team, entry.agent, entry.segment, entry.language)
        sink.add("messages_received", entry.at, dims, 1, 1, (entry,))


def received_in(c: Conversation, rules: Rules, sink: Sink) -> None:
    """`received` for all messages of a conversation, with its segment and language."""
    for entry in c.received:
        sink.add("messages_received", entry.at, c.at_entry(entry), 1, 1, (entry,))


def sent(entry: Entry, rules: Rules, sink: Sink) -> None:
    """One for each message that a human of ours wrote."""
    if entry.type == "message.sent" and entry.human and not entry.automatic:
        dims = Dims(entry.channel, entry.team, entry.agent, entry.segment, entry.language)
        sink.add("messages_sent", entry.at, dims, 1, 1, (entry,))


def sent_in(c: Conversation, rules: Rules, sink: Sink) -> None:
    """`sent` for all messages of a conversation."""
    for entry in c.sent:
        sink.add("messages_sent", entry.at, c.at_entry(entry), 1, 1, (entry,))


def opened(c: Conversation, rules: Rules, sink: Sink) -> None:
    """One where the conversation opened."""
    sink.add("conversations_opened", c.opened_at, c.dims, 1, 1, (c.opening,))


def resolved(c: Conversation, rules: Rules, sink: Sink) -> None:
    """One for each resolution of an episode; the member lets distinct conversations be counted."""
    for episode in c.episodes:
        if episode.resolved is not None:
            at = episode.resolved.at
            sink.add("resolutions", at, c.resolution_dims(episode), 1, 1, (episode.resolved,), member=c.id)


def now_resolved(c: Conversation, rules: Rules, sink: Sink) -> None:
    """Whether the conversation stands resolved, where it opened."""
    standing = c.standing()
    why = (c.opening, standing.resolved if standing else None)
    sink.add("resolution_ratio", c.opened_at, c.dims, 1, int(standing is not None), why)


def open_spans(c: Conversation, rules: Rules, sink: Sink) -> None:
    """Up where an episode starts, down where it is resolved: the level is the backlog."""
    for episode in c.episodes:
        sink.step("backlog", episode.start, c.dims, 1, (episode.opened_by,), member=c.id)
        if episode.resolved is not None:
            sink.step("backlog", episode.resolved.at, c.dims, -1, (episode.resolved,), member=c.id)


def contact_dims(contact: Contact, segment: str | None, language: str | None) -> Dims:
    """Dimensions of a contact: its channel and the team that answered it."""
    return Dims(contact.channel, contact.answered.team if contact.answered else None, None, segment, language)


def contacts_in(c: Conversation, rules: Rules, sink: Sink) -> None:
    """One for each leg of the conversation that is no call, where it started (calls count for themselves)."""
    for contact in c.contacts.values():
        if not contact.is_call:
            dims = contact_dims(contact, c.segment, c.language)
            sink.add("contacts", contact.start, dims, 1, 1, (contact.first,))


def contact_customers(customer: Customer, rules: Rules, sink: Sink) -> None:
    """Who contacted us on which channel: one member a contact."""
    for contact in customer.contacts:
        dims = Dims(contact.channel, None, None, customer.segment, None)
        sink.add("contact_customers", contact.start, dims, 1, 0, (contact.first,), member=customer.id)


_WEB = frozenset({"web", "chat", "portal", "search", "app", "self_service"})


def journeys(customer: Customer, rules: Rules, sink: Sink) -> None:
    """Where the first touch of each episode was: the earliest in the day before it, else its own first entry."""
    dims = Dims(segment=customer.segment)
    for episode in customer.episode_starts():
        touch = customer.first_touch(episode.opened_by)
        channel, device = touch.channel or "", str(touch.data.get("device") or "")
        online = channel in _WEB or touch.type.startswith("selfservice.")
        shares = {"web": online, "phone": channel == "phone", "desktop": device == "desktop"}
        for variant, hit in (*shares.items(), ("mobile", device == "mobile"), ("device", bool(device))):
            sink.add(f"journey_start_ratio:{variant}", touch.at, dims, 1, int(hit), (touch, episode.opened_by))


DEFINITIONS = (
    Definition(
        "messages_received", "Messages that people sent us", "Σ message.received", "n", "none", "itself", ALL,
        Shape.counted, ((Entity.conversation, received_in), (Entity.entry, received)),
    ),
    Definition(
        "messages_sent", "Messages that humans of ours sent", "Σ message.sent by a human", "n", "none", "itself", ALL,
        Shape.counted, ((Entity.conversation, sent_in), (Entity.entry, sent)),
    ),
    Definition(
        "conversations_opened", "Conversations opened", "Σ opened", "n", "none", "opened", ALL, Shape.counted,
        ((Entity.conversation, opened),),
    ),
    Definition(
        "resolutions", "Episodes resolved; distinct: conversations with a resolution",
        "Σ resolved; distinct: conversations", "n", "up", "resolved", ALL, Shape.special,
        ((Entity.conversation, resolved),), parameters={"variant": ("distinct",)},
    ),
    Definition(
        "resolution_ratio", "Share of the conversations opened that stand resolved now", "now resolved / opened", "1",
        "up", "opened", ALL, Shape.ratio, ((Entity.conversation, now_resolved),), ttl_s=7 * DAY_S,
        benchmark="chart lost", benchmark_source="4",
    ),
    Definition(
        "backlog", "Conversations open at the window's end, with their age", "Σ opened + reopened − resolved", "n",
        "down", "the instant", ALL, Shape.special, ((Entity.conversation, open_spans),),
    ),
    Definition(
        "arrivals_by_hour", "Contacts by hour of the tenant's day", "contacts per local hour", "n", "none", "start",
        NO_AGENT, Shape.special, ((Entity.conversation, contacts_in),), reads=("contacts",),
        benchmark="chat 11–15 h, calls peak at 11 h; calls 7–19 h", benchmark_source="0 1",
    ),
    Definition(
        "channel_mix_ratio", "Share of contacts on a channel; distinct: share of the customers who used it",
        "contacts in channel / contacts", "1", "none", "start", NO_AGENT, Shape.special,
        ((Entity.customer, contact_customers),), parameters={"variant": ("distinct",)},
        reads=("contacts", "contact_customers"), benchmark="phone 70%, e-mail 63%, chat 40%", benchmark_source="3",
    ),
    Definition(
        "channel_growth_ratio", "Growth of contacts against the same window a year before",
        "contacts / contacts in the same window last year − 1", "1", "none", "start", NO_AGENT, Shape.special,
        reads=("contacts",), benchmark="messaging +36%", benchmark_source="2",
    ),
    Definition(
        "journey_start_ratio", "Share of episodes whose first touch was on the web, by phone, on a device",
        "episodes whose first touch is X / episodes", "1", "none", "first touch", TENANT, Shape.ratio,
        ((Entity.customer, journeys),), parameters={"variant": ("web", "phone", "desktop", "mobile", "device")},
        benchmark="online 52%, phone 43%; desktop 67%, mobile 33%", benchmark_source="3",
    ),
)  # fmt: skip

__all__ = ["DEFINITIONS", "NO_DIMS"]
