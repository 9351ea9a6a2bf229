"""Resolution: how long it takes, whether it holds, and what was promised about it."""

from __future__ import annotations

from services.metrics.buckets import Dims, Sink
from services.metrics.customer import Customer
from services.metrics.entries import SECOND, Entry
from services.metrics.facts import DAY, Conversation, Episode
from services.metrics.kpis.definition import ALL, CLOCK, DAY_S, TENANT, Definition, Entity, Shape, timed
from shared.business import Rules, due, used_up

WEEK = 7 * DAY


def first_resolution(c: Conversation, rules: Rules, sink: Sink) -> None:
    """From the opening to the first resolution."""
    episode = c.episodes[0]
    if episode.resolved is not None:
        at, dims = episode.resolved.at, c.resolution_dims(episode)
        timed(sink, rules, "first_resolution_time", at, dims, c.opened_at, at, (c.opening, episode.resolved))


def full_resolution(c: Conversation, rules: Rules, sink: Sink) -> None:
    """From the opening to the last resolution, only while it stands."""
    episode = c.standing()
    if episode is not None and episode.resolved is not None:
        at, dims = episode.resolved.at, c.resolution_dims(episode)
        timed(sink, rules, "full_resolution_time", at, dims, c.opened_at, at, (c.opening, episode.resolved))


def requester_wait(c: Conversation, rules: Rules, sink: Sink) -> None:
    """All the time the customer's messages waited for us until the resolution that stands."""
    episode = c.standing()
    if episode is None or episode.resolved is None:
        return
    at, dims = episode.resolved.at, c.resolution_dims(episode)
    spans = [(start, end) for start, end in c.waits if end <= at]
    why = (c.opening, episode.resolved)
    sink.time("requester_wait_time", at, dims, sum(end - start for start, end in spans), why)
    if rules.schedules:
        business = sum(rules.elapsed(start, end) for start, end in spans)
        sink.time("requester_wait_time:business", at, dims, business, why)


def agreement(c: Conversation, rules: Rules, sink: Sink) -> None:
    """What the agreement in force at the opening promised: met where it happened, breached when it was due."""
    for target, at, met, why in sla_outcomes(c, rules):
        dims = c.dims
        sink.add("sla_attainment_ratio", at, dims, 1, int(met), why, member=target, due=not met)


def sla_outcomes(c: Conversation, rules: Rules) -> list[tuple[str, int, bool, tuple[Entry | None, ...]]]:
    """Return (target, instant, met, evidence): a breach is at its due time, which may still lie ahead."""
    policy = rules.sla_at(c.opened_at)
    if policy is None or not c.by_customer:
        return []
    outcomes: list[tuple[str, int, bool, tuple[Entry | None, ...]]] = []
    if policy.first_reply is not None:
        at = due(rules, policy, c.opened_at, policy.first_reply)
        reply = c.first_reply
        if reply is not None and (at is None or reply.at <= at):
            outcomes.append(("first_reply", reply.at, True, (c.opening, reply)))
        elif at is not None:
            outcomes.append(("first_reply", at, False, (c.opening,)))
    if policy.resolution is not None:
        resolved = c.episodes[0].resolved
        at = used_up(rules, policy, c.turns, resolved.at if resolved else None)
        if at is not None:
            outcomes.append(("resolution", at, False, (c.opening,)))
        elif resolved is not None:
            outcomes.append(("resolution", resolved.at, True, (c.opening, resolved)))
    return outcomes


def reopened(c: Conversation, rules: Rules, sink: Sink) -> None:
    """Whether each resolution was undone by a reopening within 7 days."""
    for episode in c.episodes:
        if episode.resolved is not None:
            undone = episode.reopened_within(WEEK)
            why = (episode.resolved, episode.reopened_by if undone else None)
            sink.add("reopen_ratio", episode.resolved.at, c.resolution_dims(episode), 1, int(undone), why)


def transferred(c: Conversation, rules: Rules, sink: Sink) -> None:
    """Whether an episode that a human handled was transferred, and how often."""
    for episode in c.episodes:
        if episode.resolved is not None and episode.handled is not None:
            at, dims, moves = episode.resolved.at, c.resolution_dims(episode), len(episode.transfers)
            why = (episode.handled, *episode.transfers, episode.resolved)
            sink.add("transfer_ratio", at, dims, 1, int(moves > 0), why)
            sink.add("transfer_ratio:mean", at, dims, 1, moves, why)


def escalated(c: Conversation, rules: Rules, sink: Sink) -> None:
    """For each contact a human answered, the channels it was escalated to within 7 days of its start."""
    for contact in c.contacts.values():
        answer = contact.answered
        if answer is None:
            continue
        dims = Dims(contact.channel, answer.team, answer.agent, c.segment, c.language)
        moves = {to: e for to, e in contact.to_channels.items() if e.at - contact.start <= WEEK}
        why = (contact.first, answer, *moves.values())
        sink.add("escalation_ratio", contact.start, dims, 1, int(bool(moves)), why)
        for channel, entry in moves.items():
            sink.add(f"escalation_ratio:{channel}", contact.start, dims, 0, 1, (contact.first, entry))


def first_contact(customer: Customer, rules: Rules, sink: Sink) -> None:
    """Whether the first resolution took one contact and held: not reopened, no contact on its topic within 7 days."""
    for c in customer.conversations:
        episode = c.episodes[0]
        if episode.resolved is None:
            continue
        hit = _one_handled_contact(c, episode) and not episode.reopened_within(WEEK)
        hit = hit and customer.contact_again(c, episode.resolved, WEEK) is None
        at, dims = episode.resolved.at, c.resolution_dims(episode)
        why = (c.opening, episode.resolved)
        sink.add("fcr_net_ratio:gross", at, dims, 1, int(hit), why)
        if c.eligible:
            sink.add("fcr_net_ratio", at, dims, 1, int(hit), why)


def _one_handled_contact(c: Conversation, episode: Episode) -> bool:
    assert episode.resolved is not None
    until = episode.resolved.order
    contacts = [contact for contact in c.contacts.values() if contact.first.order <= until]
    return len(contacts) == 1 and (contacts[0].answered is not None or contacts[0].bot_at is not None)


def repeated(customer: Customer, rules: Rules, sink: Sink) -> None:
    """Whether a conversation opened within 7 days of any resolution of another one on its topic."""
    for c in customer.conversations:
        before = customer.resolution_before(c, WEEK)
        sink.add("repeat_contact_ratio", c.opened_at, c.dims, 1, int(before is not None), (before, c.opening))


def switches(customer: Customer, rules: Rules, sink: Sink) -> None:
    """From the first of the unanswered contacts on one channel to the contact on another directly after them."""
    for start, contact in customer.switches():
        value = contact.start - start.start
        sink.time(
            "channel_switch_wait", contact.start, Dims(segment=customer.segment), value, (start.first, contact.first)
        )


HOUR_S = 3600

DEFINITIONS = (
    Definition(
        "first_resolution_time", "Time from opening to the first resolution", "first resolved − opened", "s", "down",
        "resolved", ALL, Shape.mean, ((Entity.conversation, first_resolution),), parameters=CLOCK, histogram=True,
        benchmark="named without a figure", benchmark_source="2",
    ),
    Definition(
        "full_resolution_time", "Time from opening to the last resolution, while it stands", "last resolved − opened",
        "s", "down", "resolved", ALL, Shape.mean, ((Entity.conversation, full_resolution),), parameters=CLOCK,
        histogram=True, ttl_s=7 * DAY_S, benchmark="named without a figure", benchmark_source="2",
    ),
    Definition(
        "requester_wait_time", "Time a customer spent waiting for us in a conversation", "Σ time awaiting us", "s",
        "down", "resolved", ALL, Shape.mean, ((Entity.conversation, requester_wait),), parameters=CLOCK,
        histogram=True, ttl_s=7 * DAY_S,
    ),
    Definition(
        "sla_attainment_ratio", "Share of promises kept, by the agreement in force at the opening",
        "met / (met + breached)", "1", "up", "reply, resolution or due", ALL, Shape.special,
        ((Entity.conversation, agreement),), parameters={"variant": ("first_reply", "resolution")},
    ),
    Definition(
        "fcr_net_ratio", "First contact resolution: solved in one contact, and it held for 7 days",
        "one contact, no reopening, no contact on the topic ≤ 7 d / eligible resolutions; gross: all", "1", "up",
        "first resolved", ALL, Shape.ratio, ((Entity.customer, first_contact),),
        parameters={"variant": ("gross",)}, ttl_s=7 * DAY_S, benchmark="74%; goal 75%", benchmark_source="0 1 2",
    ),
    Definition(
        "reopen_ratio", "Share of resolutions reopened within 7 days", "resolutions reopened ≤ 7 d / resolutions", "1",
        "down", "resolved", ALL, Shape.ratio, ((Entity.conversation, reopened),), ttl_s=7 * DAY_S,
    ),
    Definition(
        "repeat_contact_ratio", "Share of conversations opened within 7 days of a resolution on the same topic",
        "opened ≤ 7 d after same-topic resolution / opened", "1", "down", "opened", ALL, Shape.ratio,
        ((Entity.customer, repeated),),
    ),
    Definition(
        "transfer_ratio", "Share of handled episodes with a transfer; mean: transfers per episode",
        "episodes with ≥ 1 transfer / handled", "1", "down", "resolved", ALL, Shape.ratio,
        ((Entity.conversation, transferred),), parameters={"variant": ("mean",)}, benchmark="27% solved once only",
        benchmark_source="2 3",
    ),
    Definition(
        "escalation_ratio", "Share of answered contacts escalated to another channel",
        "from-contacts escalated to the channel / answered from-contacts", "1", "down", "contact start", ALL,
        Shape.special, ((Entity.conversation, escalated),), parameters={"from_channel": (), "to_channel": ()},
        ttl_s=7 * DAY_S, benchmark="chat→email 25%, call→email 20%, email→call 5%", benchmark_source="0 1",
    ),
    Definition(
        "channel_switch_wait", "Wait before a customer tried another channel; share that waited an hour",
        "start on the other channel − start of the unanswered run before it", "s", "none", "switch", TENANT,
        Shape.mean, ((Entity.customer, switches),), histogram=True, ttl_s=DAY_S,
        benchmark="40% of Millennials wait 60 min", benchmark_source="0 1",
    ),
)  # fmt: skip

__all__ = ["DEFINITIONS", "HOUR_S", "SECOND", "sla_outcomes"]
