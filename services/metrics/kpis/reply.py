"""How long people wait for an answer, and whether they get one."""

from __future__ import annotations

from services.metrics.buckets import Dims, Sink
from services.metrics.entries import SECOND
from services.metrics.facts import DAY, Conversation
from services.metrics.kpis.definition import ALL, CLOCK, DAY_S, NO_AGENT, Definition, Entity, Shape, timed
from shared.business import Rules

NEVER = "-"
"""Member of a `reply_within_ratio` contribution whose conversation has no human reply."""


def first_reply(c: Conversation, rules: Rules, sink: Sink) -> None:
    """From the opening (variant: from the bot's hand-over) to the first human reply. Once a conversation."""
    reply = c.first_reply
    if reply is None:
        return
    dims = c.at_entry(reply)
    timed(sink, rules, "first_reply_time", reply.at, dims, c.opened_at, reply.at, (c.opening, reply))
    if c.handover is not None:
        series = "first_reply_time:from_handover"
        timed(sink, rules, series, reply.at, dims, c.handover.at, reply.at, (c.handover, reply))


def responses(c: Conversation, rules: Rules, sink: Sink) -> None:
    """From the oldest unanswered message to the human reply, each time."""
    for asked, reply in c.stretches:
        timed(sink, rules, "response_time", reply.at, c.at_entry(reply), asked.at, reply.at, (asked, reply))


def acknowledgement(c: Conversation, rules: Rules, sink: Sink) -> None:
    """From the opening to the first acknowledgement."""
    ack = c.acknowledged
    if ack is not None:
        dims = Dims(ack.channel or c.dims.channel, ack.team, None, c.segment, c.language)
        sink.time("ack_time", ack.at, dims, ack.at - c.opened_at, (c.opening, ack))


def reply_or_due(c: Conversation, rules: Rules, sink: Sink) -> None:
    """Each opening with the instant of its first reply, so that any threshold on any clock can be read from it."""
    if not c.by_customer:
        return
    reply = c.first_reply
    dims = c.dims if reply is None else Dims(c.dims.channel, reply.team, reply.agent, c.segment, c.language)
    member = NEVER if reply is None else str(reply.at)
    sink.add("reply_within_ratio", c.opened_at, dims, 1, 0, (c.opening, reply), member=member)


def before_reply(c: Conversation, rules: Rules, sink: Sink) -> None:
    """Messages received before the first human reply, where that is a message."""
    reply = c.first_reply
    if reply is not None and reply.type == "message.sent":
        why = (*c.inbound_before_reply, reply)
        count = len(c.inbound_before_reply) * SECOND
        sink.add("messages_before_reply", reply.at, c.at_entry(reply), 1, count, why)


def unanswered(c: Conversation, rules: Rules, sink: Sink) -> None:
    """Whether a day went by without a human reply; lands when the day is over."""
    if not c.by_customer:
        return
    due = c.opened_at + DAY
    reply = c.first_reply
    late = reply is None or reply.at > due
    dims = c.dims._replace(agent=None, team=None)
    sink.add("unanswered_ratio", due, dims, 1, int(late), (c.opening, None if late else reply), due=True)


DEFINITIONS = (
    Definition(
        "first_reply_time", "Time from opening (or the bot's hand-over) to the first human reply",
        "first human reply − opened", "s", "down", "reply", ALL, Shape.mean, ((Entity.conversation, first_reply),),
        parameters={**CLOCK, "variant": ("from_handover",)}, histogram=True,
        benchmark="mean 10 min–12 h; min 1 min; max 8 d", benchmark_source="0 1",
    ),
    Definition(
        "response_time", "Time from the oldest unanswered message to the human reply, every time",
        "human reply − oldest unanswered inbound", "s", "down", "reply", ALL, Shape.mean,
        ((Entity.conversation, responses),), parameters=CLOCK, histogram=True,
        benchmark="table lost", benchmark_source="4",
    ),
    Definition(
        "ack_time", "Time from opening to the first acknowledgement", "first acknowledgement − opened", "s", "down",
        "acknowledgement", NO_AGENT, Shape.mean, ((Entity.conversation, acknowledgement),), histogram=True,
        benchmark="named without a figure", benchmark_source="4",
    ),
    Definition(
        "reply_within_ratio", "Share of openings answered by a human within the threshold",
        "replied ≤ T / (replied ≤ T + due passed)", "1", "up", "reply or due", ALL, Shape.special,
        ((Entity.conversation, reply_or_due),), parameters={**CLOCK, "threshold_s": ()},
        benchmark="12% expect 15 min, 46% 4 h; social 24 h", benchmark_source="0 1 3",
    ),
    Definition(
        "messages_before_reply", "Messages a customer sends before the first human reply",
        "inbound before the first human reply / first replies by message", "n", "down", "reply", ALL, Shape.mean,
        ((Entity.conversation, before_reply),), benchmark="1.15", benchmark_source="0 1",
    ),
    Definition(
        "unanswered_ratio", "Share of openings without a human reply within 24 h", "no human reply ≤ 24 h / opened",
        "1", "down", "due", NO_AGENT, Shape.ratio, ((Entity.conversation, unanswered),), ttl_s=DAY_S,
        benchmark="50%; on social 85% are answered", benchmark_source="0 1 3",
    ),
)  # fmt: skip
