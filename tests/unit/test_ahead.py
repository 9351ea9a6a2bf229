"""Events that are read before their turn say what they would say in it, and each only once."""

from __future__ import annotations

from datetime import UTC, datetime

from services.conversation.ahead import Ahead, said_by
from services.conversation.entries import shown_of
from services.conversation.facts import facts_of
from services.conversation.policy import DEFAULT
from shared.events import InboundEvent
from shared.log.protocol import Record

AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
SECRET = b"s" * 32


def a_record(offset: int, value: bytes) -> Record:
    return Record("inbound.v1", 0, offset, b"k", value, (), AT)


def a_mail(number: int) -> InboundEvent:
    text = "New.\n\nOn Monday Ann wrote:\n> Old.\n"
    data = {"channel": "email", "text": text, "html": "<p onclick=x>New.</p>"}
    return InboundEvent("acme", "/mail", str(number), "threadline.message.received", AT, AT, data)


async def test_what_is_read_ahead_is_what_the_event_says_in_its_turn() -> None:
    ahead, records = Ahead(SECRET), [a_record(n, a_mail(n).encode()) for n in range(40)]
    await ahead.read(records)
    for number, record in enumerate(records):
        taken = ahead.take(record)
        assert taken is not None
        event, said = taken
        assert event == a_mail(number)
        facts = facts_of(event, said.entry_id, DEFAULT)
        assert said == said_by(event, SECRET)._replace(shown=shown_of(event), facts=facts, policy=DEFAULT)
        assert said.shown is not None and said.shown.quoted_text is not None and "onclick" not in str(said.shown.html)
        assert ahead.take(record) is None


async def test_what_makes_no_sense_is_left_for_its_turn() -> None:
    ahead, bad = Ahead(SECRET), a_record(0, b"no event")
    good = a_record(1, a_mail(1).encode())
    await ahead.read([bad, good])
    assert ahead.take(bad) is None
    assert ahead.take(good) is not None


async def test_no_more_than_the_batch_in_hand_and_the_next_are_kept() -> None:
    ahead, records = Ahead(SECRET), [a_record(n, a_mail(n).encode()) for n in range(3)]
    for record in records:
        await ahead.read([record])
    assert [ahead.take(record) is not None for record in records] == [False, True, True]
