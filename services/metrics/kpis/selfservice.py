"""Bots, IVR and self-service: what people solved without us, and whether it lasted a day."""

from __future__ import annotations

from services.metrics.buckets import Dims, Sink, without_agent
from services.metrics.customer import Customer
from services.metrics.entries import Entry, name
from services.metrics.facts import DAY, Conversation
from services.metrics.kpis.definition import ALL, DAY_S, NO_AGENT, TENANT, Definition, Entity, Shape
from shared.business import Rules


def _dims(entry: Entry, customer: Customer) -> Dims:
    return Dims(entry.channel, entry.team, None, entry.segment or customer.segment, entry.language)


def ivr(customer: Customer, rules: Rules, sink: Sink) -> None:
    """Whether an IVR session ended without an agent and without a contact in the day after."""
    for session in customer.sessions("ivr.ended"):
        entry = session.entries[-1]
        again = customer.contact_between(entry.at, entry.at + DAY)
        alone = entry.data.get("outcome") != "to_agent" and again is None
        dims, why = _dims(entry, customer), (entry, again.first if again else None)
        sink.add("ivr_containment_ratio", entry.at, dims, 1, int(alone), why)


def containment(customer: Customer, rules: Rules, sink: Sink) -> None:
    """Whether a bot session was resolved within a day, without hand-over and without a new contact in the day after."""
    for session in customer.sessions("bot.answered", "bot.handed_over"):
        first = session.entries[0]
        handed = next((e for e in session.entries if e.type == "bot.handed_over"), None)
        resolved = _resolved_between(customer, first, session.start, session.start + DAY)
        again = customer.contact_between(session.end, session.end + DAY)
        hit = handed is None and resolved is not None and again is None
        why = (first, handed, resolved, again.first if again else None)
        sink.add("containment_ratio", session.start, _dims(first, customer), 1, int(hit), why)


def _resolved_between(customer: Customer, entry: Entry, start: int, end: int) -> Entry | None:
    """Return the resolution in [start, end] of the conversation that `entry` is in."""
    c = customer.conversation_of(entry)
    if c is None:
        return None
    resolutions = (episode.resolved for episode in c.episodes)
    return next((e for e in resolutions if e is not None and start <= e.at <= end), None)


def deflection(customer: Customer, rules: Rules, sink: Sink) -> None:
    """Whether a self-service session was followed by no contact within a day of its end."""
    for session in customer.sessions("selfservice.viewed", "selfservice.deflected"):
        again = customer.contact_between(session.start, session.end + DAY)
        why = (*session.entries, again.first if again else None)
        sink.add("deflection_ratio", session.start, customer.dims, 1, int(again is None), why)


def tried_first(customer: Customer, rules: Rules, sink: Sink) -> None:
    """Whether an episode came within a day after a self-service view."""
    for episode in customer.episode_starts():
        view = customer.view_before(episode.start, DAY)
        why = (view, episode.opened_by)
        sink.add("selfservice_first_ratio", episode.start, customer.dims, 1, int(view is not None), why)


def portal(customer: Customer, rules: Rules, sink: Sink) -> None:
    """Customers who viewed, and customers who did anything, as members."""
    for view in customer.views:
        sink.add("portal_adoption_ratio", view.at, customer.dims, 1, 0, (view,), member=customer.id)


def bots(c: Conversation, rules: Rules, sink: Sink) -> None:
    """Whether a bot took part in an episode."""
    dims = without_agent(c.dims)
    for episode in c.episodes:
        hit = episode.bot is not None
        sink.add("bot_share_ratio", episode.start, dims, 1, int(hit), (episode.opened_by, episode.bot))


def suggestions(c: Conversation, rules: Rules, sink: Sink) -> None:
    """Whether a human's reply came from a suggestion; accepted: one that was accepted."""
    for entry in c.sent:
        suggestion, dims = name(entry.data.get("suggestion_id")), c.at_entry(entry)
        sink.add("ai_suggestion_ratio", entry.at, dims, 1, int(suggestion is not None), (entry,))
        sink.add("ai_suggestion_ratio:accepted", entry.at, dims, 1, int(suggestion in c.accepted), (entry,))


DEFINITIONS = (
    Definition(
        "ivr_containment_ratio", "Share of IVR sessions that ended without an agent and without a contact within 24 h",
        "IVR exits without agent or contact ≤ 24 h / IVR sessions", "1", "up", "session", NO_AGENT, Shape.ratio,
        ((Entity.customer, ivr),), ttl_s=DAY_S, benchmark="30% are irritated by IVR", benchmark_source="3 2",
    ),
    Definition(
        "containment_ratio", "Share of bot sessions resolved without a human and without a new contact within 24 h",
        "bot sessions resolved, no hand-over or contact ≤ 24 h / bot sessions", "1", "up", "session", NO_AGENT,
        Shape.ratio, ((Entity.customer, containment),), ttl_s=2 * DAY_S, benchmark="named without a figure",
        benchmark_source="2",
    ),
    Definition(
        "deflection_ratio", "Share of self-service sessions without a contact within 24 h",
        "self-service sessions without contact ≤ 24 h / sessions", "1", "up", "session", TENANT, Shape.ratio,
        ((Entity.customer, deflection),), ttl_s=DAY_S, benchmark="13%", benchmark_source="3",
    ),
    Definition(
        "selfservice_first_ratio", "Share of episodes that came within 24 h after a self-service view",
        "episodes preceded ≤ 24 h by a view / episodes", "1", "none", "opened", TENANT, Shape.ratio,
        ((Entity.customer, tried_first),), benchmark="81%", benchmark_source="0 1",
    ),
    Definition(
        "portal_adoption_ratio", "Share of active customers who used self-service",
        "customers viewing / active customers", "1", "up", "window", TENANT, Shape.special,
        ((Entity.customer, portal),), reads=("contact_customers",), benchmark="<10% of companies offer; 90% expect",
        benchmark_source="0 1 3",
    ),
    Definition(
        "bot_share_ratio", "Share of episodes with a bot", "episodes with bot / episodes", "1", "none", "opened",
        NO_AGENT, Shape.ratio, ((Entity.conversation, bots),), benchmark="85% by 2020", benchmark_source="3",
    ),
    Definition(
        "ai_suggestion_ratio", "Share of replies from a suggestion; accepted: one marked accepted",
        "replies suggested / replies", "1", "up", "reply", ALL, Shape.ratio, ((Entity.conversation, suggestions),),
        parameters={"variant": ("accepted",)}, benchmark="50%", benchmark_source="3",
    ),
)  # fmt: skip
