"""A call is one contact with one set of numbers, whichever deliveries tell of it and in whatever order they come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, permutations
from random import Random
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import Account, Draft, Headers, RawRequest, reread
from services.metrics.entries import compact
from services.metrics.evaluation import Timeline, recount
from shared.business import Rules
from shared.events import rfc3339
from tests.kpi_timeline import ask, uid

START = datetime(2026, 3, 3, 9, 0, tzinfo=UTC)
CALL, ANN, BOB = ("CA" + name * 32 for name in "0ab")
CALLER, OURS = "+31612345678", "+3197010200300"
FORM = "application/x-www-form-urlencoded"

Delivery = tuple[RawRequest, Account]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def twilio(seconds: float, query: str = "", options: dict[str, Any] | None = None, **form: str) -> Delivery:
    """A webhook of Twilio, received so many seconds after the start."""
    given = {"CallSid": CALL, "From": CALLER, "To": OURS, "Direction": "inbound", **form}
    request = RawRequest("POST", "", query, Headers([("content-type", FORM)]), urlencode(given).encode(), at(seconds))
    return request, Account("t", "twilio", "acme", (), options=options or {})


def leg(seconds: float, status: str, sid: str = CALL, **form: str) -> Delivery:
    """A status callback of one leg; it comes two seconds after what it tells."""
    of_agent = {} if sid == CALL else {"ParentCallSid": CALL, "Direction": "outbound-dial", "To": f"client:{sid[2:5]}"}
    stamp = at(seconds).strftime("%a, %d %b %Y %H:%M:%S +0000")
    facts = {"CallSid": sid, "CallStatus": status, "Timestamp": stamp, **of_agent, **form}
    return twilio(seconds + 2, **facts)


def queue(seconds: float, waited: int, **form: str) -> Delivery:
    return twilio(seconds, QueueSid="QU1", QueueTime=str(waited), **form)


def room(seconds: float, event: str, sid: str, number: int, **form: str) -> Delivery:
    """A callback of a conference that is named after the caller's leg."""
    stamp = at(seconds).strftime("%a, %d %b %Y %H:%M:%S +0000")
    facts = {"ConferenceSid": "CF1", "FriendlyName": CALL, "StatusCallbackEvent": event, "SequenceNumber": str(number)}
    return twilio(seconds + 1, CallSid=sid, Timestamp=stamp, From="", To="", **facts, **form)


def ami(seconds: float, event: str, **fields: str) -> Delivery:
    """An AMI event, posted five seconds later."""
    body = {"Event": event, "Uniqueid": "17.1", "Linkedid": "17.1", "Timestamp": f"{at(seconds).timestamp():.6f}"}
    request = RawRequest("POST", "", "", Headers([("content-type", "application/json")]),
                         orjson.dumps({**body, **fields}), at(seconds + 5))  # fmt: skip
    return request, Account("t", "asterisk", "pbx", ())


def queue_log(lines: str) -> list[Delivery]:
    """Lines of queue_log, `SECONDS|…`, each posted by itself."""
    found = []
    for line in lines.split():
        seconds, _, rest = line.partition("|")
        body = f"{int(at(float(seconds)).timestamp())}|17.1|support|{rest}\n".encode()
        request = RawRequest("POST", "", "", Headers([("content-type", "text/plain")]), body, at(float(seconds) + 5))
        found.append((request, Account("t", "asterisk", "pbx", (), options={"callback_keys": ["1"]})))
    return found


def drafts_of(deliveries: Iterable[Delivery]) -> dict[str, Draft]:
    """Return what the log takes, the first under an id, as deliveries come."""
    taken: dict[str, Draft] = {}
    for request, account in deliveries:
        delivery = reread(ADAPTERS[account.provider], request, account)
        assert not delivery.quarantined
        for draft in delivery.events:
            taken.setdefault(draft.id, draft)
    return taken


def body_of(draft: Draft, call: str = "") -> dict[str, Any]:
    """Return the timeline entry of a draft; `call` tells apart the calls of one test."""
    data, when = draft.data, rfc3339(draft.time or START)
    contact = data["contact_id"]
    return {
        "id": uid(f"{call} {draft.id}"), "event_id": f"{call}{draft.id}", "source": "/p", "type": draft.type,
        "occurred_at": when, "recorded_at": when, "channel": "phone", "contact_id": contact and f"{call}{contact}",
        "conversation_id": uid(f"conversation {call}"), "leaf_id": uid(f"leaf {call}"), "actor": data.get("actor"),
        "automatic": (data.get("actor") or {}).get("type") == "automated", "data": data,
    }  # fmt: skip


@dataclass(frozen=True)
class Numbers:
    """What the KPIs say of one call, in seconds and counts; None where they say nothing."""

    asa: float | None = None
    answered: float = 0
    abandoned: float = 0
    to_abandon: float | None = None
    hold: float | None = None
    aht: float | None = None
    callbacks: float = 0
    to_callback: float | None = None
    transfers: float = 0
    first_reply: float | None = None
    received: float = 0
    sent: float = 0


RESOLVED = Draft("r", "threadline.conversation.resolved", at(5_000), {"contact_id": None, "actor": {"type": "agent"}})
"""What counts at a resolution counts with it."""


def numbers(drafts: Iterable[Draft]) -> Numbers:
    entries = [compact(body_of(draft)) for draft in (*drafts, RESOLVED)]
    cells = recount(Timeline(entries, {}, {}), Rules())

    def of(kpi: str, part: str = "value", **parameters: str) -> Any:
        total = ask(cells, Rules(), kpi, START, at(90_000), now=at(90_000), **parameters).total
        return getattr(total.figures, part)

    return Numbers(
        asa=of("asa"), answered=of("asa", "count") or 0, abandoned=of("abandonment_ratio", "numerator") or 0,
        to_abandon=of("time_to_abandon"), hold=of("hold_time"), aht=of("aht"),
        callbacks=of("callback_ratio", "numerator") or 0,
        to_callback=of("callback_ratio", variant="time_to_callback"), transfers=of("transfer_ratio", "numerator") or 0,
        first_reply=of("first_reply_time"), received=of("messages_received") or 0, sent=of("messages_sent") or 0,
    )  # fmt: skip


QUEUED_LIVE = [
    leg(0, "ringing"), queue(4, 0), queue(34, 30, QueuePosition="1"), queue(46, 42, DequeingCallSid=ANN),
    queue(346, 42, QueueResult="bridged"), leg(345, "completed", CallDuration="345"),
]  # fmt: skip
CALLS = {
    "queued, told live": (QUEUED_LIVE, Numbers(asa=42, answered=1, hold=0, aht=299, first_reply=42)),
    "queued, told live but not who took it": (
        [one for one in QUEUED_LIVE if b"Dequeing" not in one[0].body],
        Numbers(asa=42, answered=1, hold=0, aht=299, first_reply=42),
    ),
    "queued, told only after the talk": (
        [queue(346, 42, QueueResult="bridged"), leg(345, "completed", CallDuration="342")],
        Numbers(asa=42, answered=1, hold=0, aht=300, first_reply=42),
    ),
    "given up, told live": (
        [queue(4, 0), queue(34, 30), queue(64, 60, QueueResult="hangup"), leg(64, "completed", CallDuration="64")],
        Numbers(abandoned=1, to_abandon=60),
    ),
    "given up, told at the end": ([queue(64, 60, QueueResult="hangup")], Numbers(abandoned=1, to_abandon=60)),
    "rings one agent after another, cold transfer": (
        [
            leg(0, "ringing"), leg(5, "initiated", ANN), leg(25, "no-answer", ANN), leg(26, "initiated", BOB),
            leg(30, "in-progress", BOB), leg(90, "completed", BOB),
            leg(95, "in-progress", "CA" + "c" * 32), leg(200, "completed", CALL, CallDuration="200"),
        ],
        Numbers(asa=25, answered=1, hold=0, aht=170, transfers=1, first_reply=25),
    ),
    "conference: hold, warm transfer": (
        [
            queue(4, 0), room(10, "participant-join", CALL, 1), room(20, "participant-join", ANN, 2),
            room(60, "participant-hold", CALL, 3, Hold="true"), room(70, "participant-join", BOB, 4),
            room(90, "participant-unhold", CALL, 5, Hold="false"), room(95, "participant-leave", ANN, 6),
            leg(220, "completed", CALL, CallDuration="220"),
        ],
        Numbers(asa=16, answered=1, hold=30, aht=200, transfers=1, first_reply=16),
    ),
    "conference in which both agents hang up": (
        [
            queue(4, 0), room(20, "participant-join", ANN, 2), room(95, "participant-leave", ANN, 6),
            leg(95, "completed", CALL, CallDuration="95"),
        ],
        Numbers(asa=16, answered=1, hold=0, aht=75, first_reply=16),
    ),
    "transferred out of the queue's talk": (
        [queue(4, 0), queue(130, 20, QueueResult="redirected-from-bridged"), leg(300, "completed", CallDuration="300")],
        Numbers(asa=20, answered=1, hold=0, aht=276, transfers=1, first_reply=20),
    ),
    "voicemail, its recording and its text": (
        [
            queue(4, 0), queue(64, 60, QueueResult="leave"),
            twilio(99, RecordingSid="RE1", RecordingUrl="https://api.example/RE1", RecordingSource="RecordVerb",
                   RecordingDuration="20", RecordingStartTime=at(70).strftime("%a, %d %b %Y %H:%M:%S +0000")),
            twilio(120, RecordingSid="RE1", TranscriptionSid="TR1", TranscriptionStatus="completed",
                   TranscriptionText="Please call me back"),
        ],
        Numbers(received=1),
    ),
    "call-back asked for and made": (
        [
            queue(4, 0),
            twilio(64, options={"callback_on": ["leave"]}, QueueSid="QU1", QueueTime="60", QueueResult="leave"),
            twilio(662, "callback_of=" + CALL, CallSid=BOB, CallStatus="completed", Direction="outbound-api", From=OURS,
                   To=CALLER, Timestamp=at(664).strftime("%a, %d %b %Y %H:%M:%S +0000")),
        ],
        Numbers(callbacks=1, to_callback=600),
    ),
    "transcript is part of the call": (
        [
            *QUEUED_LIVE[1:4],
            *(
                twilio(50 + number, TranscriptionEvent="transcription-content", TranscriptionSid="GT1", Final="true",
                       SequenceId=str(number), Track=track, Timestamp=at(50 + number).isoformat(),
                       TranscriptionData='{"transcript": "Hello"}')
                for number, track in enumerate(("outbound_track", "inbound_track"))
            ),
        ],
        Numbers(asa=42, answered=1, first_reply=42),
    ),
    "asterisk: hold, blind transfer, second agent": (
        [
            ami(0, "QueueCallerJoin", Queue="support", CallerIDNum=CALLER), ami(12, "AgentConnect", Queue="support",
            MemberName="Ann", HoldTime="12"), ami(30, "Hold", Uniqueid="17.2"), ami(55, "Unhold", Uniqueid="17.2"),
            ami(80, "BlindTransfer", TransfererUniqueid="17.2", TransfererLinkedid="17.1", Extension="200"),
            ami(80, "AgentComplete", Queue="support", MemberName="Ann", TalkTime="68", Reason="transfer"),
            ami(90, "AgentConnect", Queue="second", MemberName="Bob", HoldTime="5"),
            ami(150, "AgentComplete", Queue="second", MemberName="Bob", TalkTime="60", Reason="caller"),
        ],
        Numbers(asa=12, answered=1, hold=25, aht=138, transfers=1, first_reply=12),
    ),
    "asterisk: only the queue's events tell of the transfer": (
        [
            ami(0, "QueueCallerJoin", Queue="support"), ami(12, "AgentConnect", Queue="support", MemberName="Ann"),
            ami(80, "AgentComplete", Queue="support", MemberName="Ann", TalkTime="68", Reason="transfer"),
        ],
        Numbers(asa=12, answered=1, transfers=1, first_reply=12),
    ),
    "queue_log: answered after one who did not pick up": (
        queue_log(
            f"0|NONE|ENTERQUEUE||{CALLER}|1 15|Ann|RINGNOANSWER|5000"
            " 20|Bob|CONNECT|20|17.2|3 80|Bob|COMPLETECALLER|20|60"
        ),
        Numbers(asa=20, answered=1, hold=0, aht=60, first_reply=20),
    ),
    "queue_log: key pressed for a call-back": (
        queue_log(f"0|NONE|ENTERQUEUE||{CALLER}|1 40|NONE|EXITWITHKEY|1|1"), Numbers(callbacks=1),
    ),
    "queue_log: given up": (
        queue_log(f"0|NONE|ENTERQUEUE||{CALLER}|1 45|NONE|ABANDON|1|1|45"), Numbers(abandoned=1, to_abandon=45),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("deliveries", "expected"), CALLS.values(), ids=CALLS)
def test_call_counts_as_it_happened(deliveries: Sequence[Delivery], expected: Numbers) -> None:
    drafts = drafts_of(deliveries)
    assert numbers(drafts.values()) == expected
    # The call back is a call of its own.
    contacts = {draft.data["contact_id"] for draft in drafts.values()} - {BOB}
    assert contacts in ({CALL}, {"asterisk:pbx/17.1"})


@pytest.mark.parametrize(("deliveries", "expected"), CALLS.values(), ids=CALLS)
def test_order_of_deliveries_does_not_matter(deliveries: Sequence[Delivery], expected: Numbers) -> None:
    told = drafts_of(deliveries)
    # All orders of the short ones, some hundreds of the long ones; each delivery twice.
    orders = list(islice(permutations(deliveries), 720)) if len(deliveries) <= 6 else shuffles(deliveries, 300)
    for index, order in enumerate(orders):
        came = drafts_of([*order, *order])
        assert came == told
        if index % 24 == 0:
            assert numbers(came.values()) == expected


def shuffles(deliveries: Sequence[Delivery], count: int) -> list[list[Delivery]]:
    chance = Random(5)
    return [chance.sample(deliveries, len(deliveries)) for _ in range(count)]


def test_hidden_numbers_are_nobody() -> None:
    for number in ("+266696687", "+7378742833", "+86282452253", "anonymous"):
        (draft,) = drafts_of([leg(0, "ringing", From=number)]).values()
        assert "customer" not in draft.data


def test_leg_of_our_own_is_nobodys() -> None:
    request, account = leg(0, "ringing", From="+31201112222")
    ours = Account("t", "twilio", "acme", (), own_addresses=("+31201112222",))
    assert "customer" in drafts_of([(request, account)])[f"{CALL}:ringing"].data
    assert "customer" not in drafts_of([(request, ours)])[f"{CALL}:ringing"].data
