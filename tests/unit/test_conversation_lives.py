"""The life of a conversation: what opens one, keeps it warm and reopens it. Pure: a fold over a handful of events."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from services.conversation.facts import facts_of
from services.conversation.policy import Policy
from tests.stories import ANN, BOB, HOUR, REOPEN, SECOND, WINDOW, Story, a_call, a_chat, a_mail, id_of

# What opens one and what does not -------------------------------------------------------------------------------------


def test_a_call_opens_where_it_queued_if_it_was_ever_answered() -> None:
    story = Story().tell("queued", timedelta(), "phone:+31612345671", type="call.queued", **a_call("c1"))
    assert story.of["queued"] is None
    story.tell("answered", 60 * SECOND, type="call.answered", **a_call("c1"))
    assert story.of == {"queued": "queued", "answered": "queued"}


def test_an_answer_to_a_call_without_an_id_opens_too() -> None:
    assert Story().tell("answered", type="call.answered", channel="phone").of["answered"] == "answered"


def test_an_answer_dated_before_its_queue_opens_by_itself() -> None:
    story = Story().tell("answered", type="call.answered", **a_call("c1"))
    assert story.tell("queued", SECOND, type="call.queued", **a_call("c1")).of["queued"] == "answered"


def test_an_abandoned_call_is_in_none_and_is_no_activity() -> None:
    caller = "phone:+31612345671"
    story = Story().tell("one", timedelta(), caller, channel="sms")
    story.tell("queued", WINDOW, caller, type="call.queued", **a_call("c1"))
    story.tell("abandoned", WINDOW, caller, type="call.abandoned", **a_call("c1"))
    story.tell("late", WINDOW + SECOND, caller, channel="sms")
    assert (story.of["queued"], story.of["abandoned"], story.of["late"]) == (None, None, "late")


@pytest.mark.parametrize("type_", ["customer.identified", "survey.answered", "cost.recorded"])
def test_what_is_no_message_opens_none_and_is_put_in_none_by_the_person_alone(type_: str) -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1)).tell("other", HOUR, ANN, type=type_)
    assert story.of["other"] is None
    assert Story().tell("alone", timedelta(), ANN, type=type_).of["alone"] is None


def test_an_identification_in_a_session_is_in_its_conversation() -> None:
    story = Story().tell("one", **a_chat("s1"))
    assert story.tell("known", HOUR, ANN, type="customer.identified", **a_chat("s1")).of["known"] == "one"


# Automatic mail -------------------------------------------------------------------------------------------------------

AUTOMATIC = [
    {"headers": {"Auto-Submitted": "auto-replied"}}, {"headers": {"List-Id": "<news>"}},
    {"headers": {"Precedence": "bulk"}}, {"headers": {"Return-Path": "<>"}},
    {"headers": {"X-Auto-Response-Suppress": "All"}}, {"headers": {"Content-Type": "multipart/report; x=y"}},
    {"actor": {"type": "automated"}},
]  # fmt: skip


@pytest.mark.parametrize("how", AUTOMATIC)
def test_automatic_mail_is_threaded_by_its_ids_and_never_by_the_person(how: dict[str, Any]) -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1))
    story.tell("away", HOUR, ANN, **a_mail(2, answers="1", **how)).tell("news", HOUR, ANN, **a_mail(3, **how))
    assert (story.of["away"], story.of["news"]) == ("one", "news")


@pytest.mark.parametrize("how", AUTOMATIC)
def test_automatic_mail_keeps_nothing_warm_and_reopens_nothing(how: dict[str, Any]) -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1))
    story.tell("away", WINDOW, ANN, **a_mail(2, answers="1", **how))
    assert story.tell("two", WINDOW + SECOND, ANN, **a_mail(3)).of["two"] == "two"
    story = Story().tell("one", timedelta(), ANN, **a_mail(1))
    story.tell("done", HOUR, type="conversation.resolved", thread={"in_reply_to": "<1@x>"})
    story.tell("away", 2 * HOUR, ANN, **a_mail(2, answers="1", **how))
    assert not story.placements()["away"].reopened
    assert story.tell("two", 3 * HOUR, ANN, **a_mail(3)).of["two"] == "two"


def test_mail_from_our_own_address_is_automatic_and_auto_submitted_no_is_not() -> None:
    story = Story(Policy(own_addresses=("us@own.example",))).tell("one", timedelta(), ANN, **a_mail(1))
    story.tell("loop", HOUR, "email:Us@own.example", **a_mail(2, answers="1"))
    story.tell("person", 2 * HOUR, ANN, **a_mail(3, headers={"Auto-Submitted": "No (really)"}))
    assert facts_of(story.events[1], id_of("loop"), story.policy).automatic
    assert (story.of["loop"], story.of["person"]) == ("one", "one")


# Life of a conversation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "reopens"), [(REOPEN, True), (REOPEN + SECOND, False)])
def test_a_customers_own_message_reopens_within_four_weeks(after: timedelta, *, reopens: bool) -> None:
    story = Story().tell("one", timedelta(), ANN, **a_chat("s1"))
    story.tell("done", HOUR, type="conversation.resolved", **a_chat("s1"))
    story.tell("back", HOUR + after, ANN, **a_chat("s1"))
    assert story.of["back"] == "one", "a session binds always"
    assert story.placements()["back"].reopened == reopens


def test_an_agents_message_reopens_nothing() -> None:
    story = Story().tell("one", timedelta(), ANN, **a_chat("s1"))
    story.tell("done", HOUR, type="conversation.resolved", **a_chat("s1"))
    story.tell("bye", 2 * HOUR, type="message.sent", actor={"type": "agent"}, **a_chat("s1"))
    assert not story.placements()["bye"].reopened


def test_another_channel_inside_a_conversation_is_an_escalation_unless_somebody_posted_it() -> None:
    story = Story().tell("chat", timedelta(), ANN, **a_chat("s1", thread={"ticket": "T-1"}))
    story.tell("mail", HOUR, ANN, **a_mail(1, thread={"ticket": "T-1"}))
    assert story.placements()["mail"].escalated_from == "chat"
    story = Story().tell("chat", timedelta(), ANN, **a_chat("s1", thread={"ticket": "T-1"}))
    story.tell("posted", SECOND, type="conversation.escalated", to_channel="email", **a_chat("s1"))
    story.tell("mail", HOUR, ANN, **a_mail(1, thread={"ticket": "T-1"}))
    assert story.placements()["mail"].escalated_from is None


def test_the_order_in_which_events_are_told_means_nothing() -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1)).tell("two", HOUR, BOB, **a_mail(2, answers="1"))
    story.tell("three", HOUR, BOB, **a_mail(3)).tell("four", 2 * HOUR, ANN, **a_mail(4, answers="3"))
    forward = dict(story.of)
    story.events.reverse()
    assert dict(story.of) == forward
