"""Which conversation: each rule and each trap of stitching, as a sentence. Pure: a fold over a handful of events."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from services.conversation.policy import Policy
from tests.stories import ANN, BOB, DAY, HOUR, REOPEN, SECOND, WINDOW, Story, a_chat, a_dm, a_mail, id_of

# Rule 0: conversation_id ----------------------------------------------------------------------------------------------


def test_an_entry_that_names_a_conversation_is_in_it_whatever_else_it_names() -> None:
    story = Story().tell("one", **a_chat("s1")).tell("two", HOUR, **a_chat("s2"))
    story.tell("reply", 2 * HOUR, type="message.sent", conversation_id=str(id_of("one")), **a_chat("s2"))
    assert story.of["reply"] == "one"
    assert story.rule_of("reply") == "conversation_id"


def test_the_id_of_any_entry_means_the_conversation_that_holds_it() -> None:
    story = Story().tell("one", **a_chat("s1")).tell("second line", HOUR, **a_chat("s1"))
    story.tell("reply", 2 * HOUR, type="message.sent", conversation_id=str(id_of("second line")))
    assert story.of["reply"] == "one"


def test_a_conversation_that_is_named_before_its_first_entry_is_waited_for() -> None:
    story = Story().tell("reply", type="message.sent", conversation_id=str(id_of("question")))
    story.tell("question", HOUR, ANN, **a_mail(1))
    assert story.of["question"] == "reply"


def test_an_id_that_is_none_of_ours_binds_like_any_key() -> None:
    story = Story().tell("one", conversation_id="case 7").tell("two", 99 * DAY, conversation_id="Case 7")
    assert story.of["two"] == "one"


# Rule 1: our own tokens -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["handoff_token", "callback_id", "ticket"])
def test_a_token_leads_back_over_channels_and_people(name: str) -> None:
    story = Story().tell("chat", timedelta(), ANN, **a_chat("s1", thread={name: "t"}))
    story.tell("mail", 5 * DAY, BOB, **a_mail(1, thread={name: "t"}))
    assert story.of["mail"] == "chat"
    assert story.rule_of("mail") == name


def test_handoff_comes_before_callback_and_callback_before_ticket() -> None:
    story = Story()
    for number, name in enumerate(("handoff_token", "callback_id", "ticket")):
        story.tell(name, number * HOUR, channel="chat", thread={name: "t"})
    all_three = {"handoff_token": "t", "callback_id": "t", "ticket": "t"}
    assert story.tell("all", DAY, thread=all_three).of["all"] == "handoff_token"
    two = {"callback_id": "t", "ticket": "t"}
    # "all" took every key with it.
    assert story.tell("two", 2 * DAY, thread=two).of["two"] == "handoff_token"


def test_a_ticket_in_the_subject_counts_and_one_in_the_body_does_not() -> None:
    story = Story().tell("one", channel="chat", thread={"ticket": "T-9"})
    story.tell("subject", HOUR, **a_mail(1, subject="Re: [#T-9] your order"))
    story.tell("body", 2 * HOUR, **a_mail(2, text="about [#T-9]", subject="T-9"))
    assert story.of["subject"] == "one"
    assert story.of["body"] == "body"


def test_a_token_that_is_named_before_its_conversation_still_joins() -> None:
    story = Story().tell("answer", channel="phone", thread={"callback_id": "b"})
    story.tell("request", HOUR, **a_chat("s1", thread={"callback_id": "b"}))
    assert story.of["request"] == "answer"


# Rule 2: mail ids -----------------------------------------------------------------------------------------------------


def test_a_reply_is_with_what_it_answers() -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1)).tell("two", 5 * DAY, BOB, **a_mail(2, answers="1"))
    assert story.of["two"] == "one"


def test_a_reply_that_overtakes_its_parent_joins_the_same_conversation() -> None:
    story = Story().tell("reply", timedelta(), BOB, **a_mail(2, answers="1"))
    story.tell("parent", HOUR, ANN, **a_mail(1))
    assert story.of["parent"] == "reply"


def test_two_replies_to_a_mail_that_never_comes_are_one_conversation() -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(2, answers="ghost"))
    assert story.tell("two", DAY, BOB, **a_mail(3, answers="ghost")).of["two"] == "one"


def test_not_only_the_direct_parent_counts() -> None:
    story = Story().tell("one", **a_mail(1))
    story.tell("far", 5 * DAY, **a_mail(9, answers="unseen", thread={"references": ["<1@x>", "<unseen@x>"]}))
    assert story.of["far"] == "one"


def test_a_bounce_finds_its_thread_by_the_original_message_id() -> None:
    story = Story().tell("one", type="message.sent", **a_mail(1))
    story.tell("bounce", HOUR, channel="email", thread={"original_message_id": "<1@x>"}, actor={"type": "automated"})
    assert story.of["bounce"] == "one"


def test_a_mail_that_names_two_conversations_makes_them_one_named_by_the_first_entry() -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1)).tell("two", HOUR, BOB, **a_mail(2))
    assert story.of["two"] == "two"
    story.tell("both", 2 * HOUR, **a_mail(3, thread={"references": ["<2@x>", "<1@x>"]}))
    assert set(story.of.values()) == {"one"}
    assert story.placements()["both"].merged == ((id_of("two"), id_of("one")),)


def test_mail_ids_make_one_even_where_a_token_decides() -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1)).tell("two", HOUR, BOB, **a_mail(2))
    story.tell("ticket", 2 * HOUR, channel="chat", thread={"ticket": "T-1"})
    named = {"references": ["<2@x>", "<1@x>"], "ticket": "T-1"}
    story.tell("both", 3 * HOUR, **a_mail(3, thread=named))
    assert story.of["both"] == "ticket"
    assert story.of["two"] == "one"


def test_two_who_answer_a_bulk_mail_never_share_a_conversation() -> None:
    story = Story().tell("to ann", timedelta(), ANN, type="message.sent", **a_mail("news"))
    story.tell("to bob", SECOND, BOB, type="message.sent", **a_mail("news"))
    story.tell("bob answers", 5 * DAY, BOB, **a_mail(1, answers="news"))
    story.tell("ann answers", 6 * DAY, ANN, **a_mail(2, answers="news"))
    assert story.of == {"to ann": "to ann", "to bob": "to bob", "bob answers": "to bob", "ann answers": "to ann"}
    story.tell("cy answers", 6 * DAY, "email:cy@c.example", **a_mail(3, answers="news"))
    assert story.of["cy answers"] == "cy answers"


def test_who_got_a_bulk_mail_may_answer_it_from_another_handle_of_theirs() -> None:
    story = Story().tell("to ann", timedelta(), ANN, type="message.sent", **a_mail("news"))
    story.tell("to bob", SECOND, BOB, type="message.sent", **a_mail("news"))
    story.tell("known", HOUR, "email:home@a.example", ANN, type="customer.identified")
    story.tell("answer", 5 * DAY, "email:home@a.example", **a_mail(1, answers="news"))
    assert story.of["answer"] == "to ann"


def test_a_mail_to_one_customer_is_no_bulk_mail_however_often_it_is_sent() -> None:
    story = Story().tell("first", timedelta(), ANN, type="message.sent", **a_mail(1))
    story.tell("again", HOUR, ANN, type="message.sent", **a_mail(1))
    story.tell("answer of another", 5 * DAY, BOB, **a_mail(2, answers="1"))
    assert set(story.of.values()) == {"first"}


@pytest.mark.parametrize("reference", ["<yes>", "yes", "<>", "@", "<a@b> <c@d>"])
def test_a_reference_that_is_no_mail_id_joins_nothing(reference: str) -> None:
    story = Story().tell("one", timedelta(), ANN, channel="email", thread={"references": [reference]})
    story.tell("two", HOUR, BOB, channel="email", thread={"references": [reference]})
    assert story.of["two"] == "two"


def test_an_address_within_words_is_no_mail_id_but_a_comment_may_stand_beside_one() -> None:
    story = Story().tell("one", **a_mail(1))
    story.tell("words", HOUR, channel="email", thread={"in_reply_to": "your mail to <1@x> of Monday"})
    story.tell("comment", 2 * HOUR, channel="email", thread={"in_reply_to": "<1@x> (your mail (of Monday))"})
    assert story.of["words"] == "words"
    assert story.of["comment"] == "one"


def test_what_stands_in_parentheses_within_an_id_is_part_of_it() -> None:
    story = Story().tell("one", **a_mail("n(1)"))
    story.tell("other", HOUR, channel="email", thread={"in_reply_to": "<n(2)@x>"})
    story.tell("reply", 2 * HOUR, channel="email", thread={"in_reply_to": "<n(1)@x>"})
    assert (story.of["other"], story.of["reply"]) == ("other", "one")


def test_of_ten_thousand_references_the_ends_count() -> None:
    story = Story()
    for number in (0, 5_000, 9_999):
        story.tell(f"mail {number}", number * SECOND, **a_mail(number))
    references = [f"<{number}@x>" for number in range(10_000)]
    story.tell("long", 9 * HOUR, **a_mail("long", thread={"references": references}))
    assert story.of["long"] == "mail 0"
    assert story.of["mail 9999"] == "mail 0"
    assert story.of["mail 5000"] == "mail 5000"


# Rule 3: sessions and threads -----------------------------------------------------------------------------------------


def test_a_session_binds_always() -> None:
    story = Story().tell("one", timedelta(), ANN, **a_chat("s1")).tell("later", 400 * DAY, BOB, **a_chat("s1"))
    assert story.of["later"] == "one"


def test_what_continues_a_session_is_with_it() -> None:
    story = Story().tell("chat", timedelta(), ANN, **a_chat("s1"))
    story.tell("mail", 5 * DAY, BOB, **a_mail(1, thread={"continues": "s1"}))
    assert story.of["mail"] == "chat"


def test_a_contact_that_names_itself_as_what_it_continues_is_one_key() -> None:
    story = Story().tell("chat", **a_chat("s1", thread={"continues": "s1"}))
    assert story.tell("more", HOUR, **a_chat("s1")).of["more"] == "chat"


@pytest.mark.parametrize(("after", "joins"), [(WINDOW, True), (WINDOW + SECOND, False)])
def test_a_perpetual_thread_binds_while_it_is_warm(after: timedelta, *, joins: bool) -> None:
    # Two who are strangers to each other: rule 4 cannot help.
    story = Story().tell("one", timedelta(), "messenger:p/1", **a_dm())
    story.tell("two", after, "messenger:p/2", **a_dm())
    assert story.of["two"] == ("one" if joins else "two")


def test_a_thread_that_a_machine_opened_is_warm_for_who_answers_it() -> None:
    story = Story().tell("greeting", type="message.sent", actor={"type": "automated"}, **a_dm())
    assert story.tell("answer", HOUR, "messenger:p/1", **a_dm()).of["answer"] == "greeting"


def test_the_contact_of_a_perpetual_channel_is_as_perpetual() -> None:
    story = Story().tell("one", timedelta(), "phone:+31612345671", channel="whatsapp", contact_id="w")
    story.tell("two", WINDOW + SECOND, "phone:+31612345672", channel="whatsapp", contact_id="w")
    assert story.of["two"] == "two"


def test_a_key_means_the_conversation_that_it_was_bound_to_last() -> None:
    story = Story().tell("one", **a_chat("s1")).tell("two", HOUR, **a_chat("s2", thread={"ticket": "T-1"}))
    story.tell("moved", 2 * HOUR, **a_chat("s1", thread={"ticket": "T-1"}))
    assert story.of["moved"] == "two"
    assert story.tell("after", 3 * HOUR, **a_chat("s1")).of["after"] == "two"


# Rule 4: the one open conversation ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "joins"), [(WINDOW, True), (WINDOW + SECOND, False)])
def test_the_window_of_an_open_conversation_ends_to_the_second(after: timedelta, *, joins: bool) -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1)).tell("two", after, ANN, **a_mail(2))
    assert story.of["two"] == ("one" if joins else "two")


def test_a_window_of_nothing_switches_the_rule_off() -> None:
    story = Story(Policy(open_window_s=0)).tell("one", timedelta(), ANN, **a_mail(1))
    assert story.tell("two", timedelta(), ANN, **a_mail(2)).of["two"] == "two"


def test_of_two_open_conversations_neither_is_guessed() -> None:
    story = Story().tell("one", timedelta(), ANN, channel="email", thread={"ticket": "T-1"})
    story.tell("two", HOUR, ANN, channel="email", thread={"ticket": "T-2"})
    assert story.tell("three", 2 * HOUR, ANN, **a_mail(3)).of["three"] == "three"


def test_a_resolved_conversation_is_not_open() -> None:
    story = Story().tell("one", timedelta(), ANN, **a_chat("s1"))
    story.tell("done", HOUR, type="conversation.resolved", **a_chat("s1"))
    assert story.tell("two", 2 * HOUR, ANN, **a_mail(1)).of["two"] == "two"


def test_a_ticket_that_means_nothing_yet_does_not_join_the_conversation_of_another() -> None:
    story = Story().tell("one", timedelta(), ANN, channel="email", thread={"ticket": "T-1"})
    story.tell("two", HOUR, ANN, channel="email", thread={"ticket": "T-2"})
    assert story.of["two"] == "two"


def test_a_ticket_that_means_nothing_yet_may_join_one_without() -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1))
    assert story.tell("two", HOUR, ANN, channel="email", thread={"ticket": "T-2"}).of["two"] == "one"


def test_who_takes_part_finds_it_open_as_its_first_writer_does() -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1)).tell("copy", HOUR, BOB, **a_mail(2, answers="1"))
    assert story.tell("three", 2 * HOUR, BOB, **a_mail(3)).of["three"] == "one"


@pytest.mark.parametrize(("known", "joins"), [(WINDOW, True), (WINDOW + SECOND, False)])
def test_who_is_one_customer_is_asked_as_of_the_window_after_the_event(known: timedelta, *, joins: bool) -> None:
    story = Story().tell("chat", timedelta(), ANN, **a_chat("s1")).tell("dm", HOUR, "messenger:p/1", **a_dm())
    story.tell("one person", HOUR + known, ANN, "messenger:p/1", type="customer.identified")
    assert story.of["dm"] == ("chat" if joins else "dm")


def test_the_subject_neither_joins_nor_splits() -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1, subject="Order 7"))
    story.tell("other person", HOUR, BOB, **a_mail(2, subject="Re: Order 7"))
    story.tell("other subject", 2 * HOUR, ANN, **a_mail(3, answers="1", subject="Something else"))
    assert story.of["other person"] == "other person"
    assert story.of["other subject"] == "one"


def test_a_visitor_is_nobody_in_a_conversation_that_another_opened() -> None:
    story = Story().tell("mail", timedelta(), ANN, **a_mail(1))
    story.tell("guest", HOUR, "visitor:v", channel="web", thread={"in_reply_to": "<1@x>"})
    assert story.of["guest"] == "mail"
    assert story.tell("again", 2 * HOUR, "visitor:v", channel="web").of["again"] == "again"


def test_a_visitor_finds_what_they_opened_themselves() -> None:
    story = Story().tell("one", timedelta(), "visitor:v", channel="web")
    assert story.tell("two", HOUR, "visitor:v", channel="web").of["two"] == "one"
    assert story.tell("other", HOUR, "visitor:w", channel="web").of["other"] == "other"


# Rule 5: a new one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "joins"), [(REOPEN, True), (REOPEN + SECOND, False)])
@pytest.mark.parametrize("key", [{"thread": {"ticket": "T-1"}}, {"thread": {"in_reply_to": "<1@x>"}}])
def test_a_key_used_too_late_opens_a_new_one_that_says_what_it_follows(
    key: dict[str, Any], after: timedelta, *, joins: bool
) -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1, thread={"ticket": "T-1"}))
    story.tell("late", after, ANN, channel="email", **key)
    assert story.of["late"] == ("one" if joins else "late")
    assert story.placements()["late"].follow_up_of == (None if joins else id_of("one"))


def test_the_time_of_a_resolved_conversation_runs_from_its_resolution() -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1, thread={"ticket": "T-1"}))
    story.tell("done", HOUR, type="conversation.resolved", thread={"ticket": "T-1"})
    story.tell("note", 20 * DAY, type="message.sent", actor={"type": "agent"}, thread={"ticket": "T-1"})
    assert story.of["note"] == "one"
    assert story.tell("late", HOUR + REOPEN + SECOND, ANN, thread={"ticket": "T-1"}).of["late"] == "late"


def test_a_key_used_too_late_does_not_take_the_conversation_that_is_open_now() -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1, thread={"ticket": "T-1"}))
    story.tell("open", 30 * DAY, ANN, **a_chat("s1"))
    story.tell("late", 30 * DAY + HOUR, ANN, channel="email", thread={"ticket": "T-1"})
    assert story.of["late"] == "late"
    assert story.placements()["late"].follow_up_of == id_of("one")


def test_the_end_of_a_ticket_long_closed_does_not_resolve_what_is_open_now() -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1, thread={"ticket": "T-1"}))
    story.tell("open", 30 * DAY, ANN, **a_chat("s1"))
    story.tell("done", 30 * DAY + HOUR, ANN, type="conversation.resolved", thread={"ticket": "T-1"})
    assert story.of["done"] is None


def test_another_live_key_goes_before_one_used_too_late() -> None:
    story = Story().tell("one", timedelta(), ANN, **a_mail(1, thread={"ticket": "T-1"}))
    story.tell("two", 30 * DAY, BOB, **a_mail(2))
    story.tell("late", 31 * DAY, ANN, **a_mail(3, answers="2", thread={"ticket": "T-1"}))
    assert story.of["late"] == "two"
