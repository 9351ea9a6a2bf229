"""The simulated traffic: the same for the same seed, valid, in order, and with the figures that it is told to have."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from math import sqrt

import pytest

from services.cli.traffic.events import Event
from services.cli.traffic.mix import Mix, described
from services.cli.traffic.truth import truth
from services.cli.traffic.world import Courier, Going, World, cloudevent, deliveries, history
from services.ingest.validation import validate
from shared.events import COMINGS_AND_GOINGS, POSTED, TYPE_PREFIX

END = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
DAY_S = 86_400.0
PEOPLE = 1_500


def a_world(seed: int = 1, people: int = 60, days: float = 28, mix: Mix | None = None) -> World:
    return World(seed, people, END - days * DAY_S, END, mix or Mix())


@pytest.fixture(scope="module")
def many() -> list[Event]:
    """A month of many people."""
    return list(history(a_world(seed=4, people=PEOPLE)))


def within(share: float, wanted: float, of: int, sigmas: float = 4.0) -> bool:
    """Whether a share of `of` draws is as near to `wanted` as chance allows."""
    return abs(share - wanted) <= sigmas * sqrt(wanted * (1 - wanted) / of)


def test_same_seed_gives_the_same_deliveries() -> None:
    assert list(deliveries(a_world())) == list(deliveries(a_world()))


def test_another_seed_gives_other_people() -> None:
    one, other = (truth(history(a_world(seed)), "t", seed)["clusters"] for seed in (1, 2))
    assert not one.keys() & other.keys()


def test_events_come_in_order_of_time_each_once_and_within_the_span(many: list[Event]) -> None:
    assert all(one.at <= next_one.at for one, next_one in pairwise(many))
    assert len({(event.source, event.id) for event in many}) == len(many)
    assert all(END - 28 * DAY_S <= event.at < END for event in many)


def test_every_event_is_one_that_ingest_accepts(many: list[Event]) -> None:
    for event in many[:6_000]:
        validate(json.loads(json.dumps(cloudevent(event))), "t", datetime.fromtimestamp(END, UTC))


def test_traffic_has_nearly_every_type_that_can_be_posted(many: list[Event]) -> None:
    made = {event.type.removeprefix(TYPE_PREFIX) for event in many}
    rare = {"agent.left"}
    never = {
        # What only providers tell, or what Threadline derives unless somebody posts it.
        "message.status", "message.edited", "message.deleted", "message.reacted", "conversation.opened",
        "conversation.reopened", "conversation.merged", "conversation.pending", "selfservice.deflected",
        "suggestion.offered", "suggestion.accepted", *COMINGS_AND_GOINGS,
    }  # fmt: skip
    assert POSTED - made - rare == never


def test_late_and_repeated_deliveries_are_of_the_same_events() -> None:
    world = a_world(mix=Mix(duplicates=0.2, late=0.3))
    arrived = list(deliveries(world))
    names = Counter((event.source, event.id) for event in arrived)
    assert set(names) == {(event.source, event.id) for event in history(world)}
    assert within(sum(count > 1 for count in names.values()) / len(names), 0.2, len(names))
    assert arrived != sorted(arrived, key=lambda event: event.at)


def test_customers_use_as_many_channels_as_the_mix_says(many: list[Event]) -> None:
    channels: dict[int | None, set[str]] = defaultdict(set)
    for event in many:
        if event.type in ("threadline.message.received", "threadline.call.queued"):
            channels[event.person].add(event.data["channel"])
    several = sum(3 <= len(one) <= 5 for one in channels.values())
    assert within(several / len(channels), Mix().multichannel, len(channels))


def by_conversation(events: Sequence[Event]) -> dict[str, list[Event]]:
    told = truth(events, "t", 4)["events"]
    found: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        conversation = told[f"t|{event.source}|{event.id}"]["by_rules"]
        if conversation:
            found[conversation].append(event)
    return found


def is_reply(event: Event) -> bool:
    kind = event.type.removeprefix(TYPE_PREFIX)
    return kind == "call.answered" or (kind == "message.sent" and event.data["actor"]["type"] == "agent")


def test_escalations_and_unanswered_conversations_are_as_many_as_the_mix_says(many: list[Event]) -> None:
    mix, answered, gone_on = Mix(), Counter[str](), Counter[tuple[str, str]]()
    opened = unanswered = 0
    waiting_before: list[int] = []
    for events in by_conversation(many).values():
        replies = [event for event in events if is_reply(event)]
        if events[0].at < END - DAY_S:
            opened += 1
            unanswered += not replies or replies[0].at > events[0].at + DAY_S
        if replies and replies[0].type.endswith("message.sent"):
            waiting_before.append(sum(e.type.endswith("message.received") and e.at < replies[0].at for e in events))
        legs = [
            e.data["channel"] for e in events if e.type.endswith(("message.received", "message.sent", "call.queued"))
        ]
        served = {event.data["channel"] for event in replies}
        answered.update(served)
        gone_on.update({(one, other) for one, other in pairwise(legs) if one != other and one in served})
    for one, other, wanted in (
        ("chat", "email", mix.escalate_chat_email),
        ("phone", "email", mix.escalate_phone_email),
        ("email", "phone", mix.escalate_email_phone),
    ):
        assert within(gone_on[one, other] / answered[one], wanted, answered[one]), (one, other)
    assert within(unanswered / opened, mix.unanswered, opened, sigmas=5)
    assert abs(sum(waiting_before) / len(waiting_before) - mix.messages_before_reply) < 0.08


def test_surveys_score_as_the_mix_says(many: list[Event]) -> None:
    scores: dict[str, list[int]] = defaultdict(list)
    for event in many:
        if event.type == "threadline.survey.answered":
            scores[event.data["kind"]].append(event.data["score"])
    csat, ces, nps = scores["csat"], scores["ces"], scores["nps"]
    assert within(sum(score >= 4 for score in csat) / len(csat), Mix().csat_good, len(csat))
    assert abs(sum(ces) / len(ces) - Mix().ces_mean) < 0.2
    assert abs(100 * (sum(n >= 9 for n in nps) - sum(n <= 6 for n in nps)) / len(nps) - Mix().nps) < 14


def test_traffic_peaks_by_day_and_is_quiet_at_night(many: list[Event]) -> None:
    hours = Counter(
        datetime.fromtimestamp(e.at, UTC).hour
        for e in many
        if e.type == "threadline.message.received" and e.data["channel"] == "chat"
    )
    assert sum(hours[h] for h in range(9, 14)) > 3 * sum(hours[h] for h in range(0, 5))


def test_every_figure_is_an_option() -> None:
    assert Mix().change(["escalate_chat_email=0.9", "nps=10"]) == Mix(escalate_chat_email=0.9, nps=10)
    assert {name for name, _, _ in described()} == set(Mix.__dataclass_fields__)


@pytest.mark.parametrize("setting", ["nonsense=1", "nps", "nps=many", "nps=-3"])
def test_a_wrong_option_is_named(setting: str) -> None:
    with pytest.raises(ValueError, match=setting.partition("=")[0]):
        Mix().change([setting])


def test_live_traffic_begins_when_asked_and_ends_with_its_people() -> None:
    going = Going(World(1, 0, END, END, Mix()), people=2)
    assert going.due(END) is None
    assert going.begin(END)
    first = going.due(END + 120)
    assert first is not None
    assert END <= first.at <= END + 120
    assert going.begin(END)
    assert not going.begin(END)


def test_each_new_person_has_something_to_say_at_once() -> None:
    going = Going(World(1, 0, END, END, Mix()))
    for place in range(200):
        now = END + place * 10_000 + place / 7
        while going.due(now) is not None:
            pass
        assert going.begin(now - 0.01)
        assert going.due(now) is not None


def test_courier_delivers_everything_in_the_end() -> None:
    courier = Courier(1, Mix(duplicates=0.0, late=1.0))
    events = list(history(a_world(people=5)))
    for event in events:
        courier.take(event)
    assert sorted(event.id for event in courier.arrived(float("inf"))) == sorted(event.id for event in events)
