"""Asterisk: AMI events and queue_log lines, as a small forwarder at the PBX posts them.

Sources: asterisk/documentation (AMI_Events, Queue-Logs). The body is one AMI event or a list of them as JSON, or text:
AMI blocks (`Event: …`) or queue_log lines (`epoch|call|queue|agent|EVENT|…`). Proof: HTTP Basic.
All legs of a call are one contact, named by Linkedid (in queue_log by the call id). Durations are seconds; only
RINGNOANSWER in queue_log is milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from services.ingest.adapters import events
from services.ingest.adapters.base import (
    Account,
    Delivery,
    Draft,
    Plain,
    Quarantined,
    RawRequest,
    Unreadable,
    body_key,
    part_key,
)
from services.ingest.adapters.payloads import Json, items, mapping, media_type, read_json, text, whole
from services.ingest.adapters.signatures import require_basic
from services.ingest.adapters.times import told_slack
from services.ingest.mail.words import clean

_MOST_EVENTS = 5_000
_UNKNOWN = "unknown"


class Asterisk(Plain):
    """One PBX."""

    def verify(self, request: RawRequest, account: Account) -> None:
        """HTTP Basic."""
        require_basic(request, account)

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the events of the batch."""
        # Call ids are unique within one PBX only.
        scope = f"asterisk:{account.account}/"
        kind = media_type(request.headers.get("content-type"))
        start = request.body.lstrip()[:1]
        found: list[Draft | Quarantined]
        if kind == "application/json" or (kind != "text/plain" and start in (b"{", b"[")):
            value = read_json(request.body)
            found = [_ami(mapping(part), scope) for part in (items(value) or [value])[:_MOST_EVENTS]]
        else:
            lines = clean(request.body.decode("utf-8", "replace")).replace("\r\n", "\n")
            if lines.count("\n") > 20 * _MOST_EVENTS:
                raise Unreadable("more lines than one delivery may hold")
            if any("|" in line for line in lines[:2_000].split("\n")) and not lines.lstrip().startswith("Event:"):
                keys = frozenset(text(key) or "" for key in items(account.options.get("callback_keys")))
                found = [_queue_log(line.strip(), scope, keys) for line in lines.split("\n") if line.strip()]
            else:
                found = [_ami(block, scope) for block in _blocks(lines)]
        return Delivery(
            self.taken(account, ""),
            tuple(part for part in found if isinstance(part, Draft)),
            tuple(part for part in found if isinstance(part, Quarantined)),
        )


def _blocks(lines: str) -> Iterator[dict[str, str]]:
    for block in lines.split("\n\n"):
        fields = {}
        for line in block.split("\n"):
            name, colon, value = line.partition(":")
            if colon:
                fields[name.strip()] = value.strip()
        if fields:
            yield fields


def _draft(kind: str, event_id: str, at: events.When, contact: str, caller: str | None, **facts: Any) -> Draft:
    person = events.customer("phone", caller if caller and _is_number(caller) else None)
    return events.draft(
        f"threadline.{kind}", event_id, at,
        **{"channel": "phone", "customer": person, "actor": events.AUTOMATED, "contact_id": contact, **facts},
    )  # fmt: skip


def _is_number(caller: str) -> bool:
    return len(caller) >= 6 and caller.lstrip("+").isdigit()


# --- AMI -----------------------------------------------------------------------------------------------------------


def _ami(part: Mapping[str, Json], scope: str) -> Draft | Quarantined:
    kind = text(part.get("Event")) or text(part.get("event")) or ""
    unique = text(part.get("Uniqueid")) or text(part.get("TransfererUniqueid")) or text(part.get("DestUniqueid"))
    stamp = text(part.get("Timestamp"))
    if not kind or not unique:
        return Quarantined(f"an AMI event {kind[:80]!r} without Uniqueid", part_key(dict(part)))
    # AMI gives events no id. Without timestampevents=yes the event itself is all there is to tell repeats by.
    event_id = events.key(unique, kind, stamp or part_key(dict(part)).removeprefix("sha256:")[:16])
    contact = scope + (text(part.get("Linkedid")) or text(part.get("TransfererLinkedid")) or unique)
    caller = text(part.get("CallerIDNum"))
    at = told_slack(stamp)
    queue, agent = text(part.get("Queue")), text(part.get("MemberName")) or text(part.get("Interface"))
    facts: dict[str, Any] = {"queue": queue, "wait_s": whole(part.get("HoldTime"))}
    waiting: dict[str, Any] = {"actor": events.CUSTOMER, "queue": queue or _UNKNOWN}
    if kind == "QueueCallerJoin":
        return _draft("call.queued", event_id, at, contact, caller, **waiting, position=whole(part.get("Position")))
    if kind == "QueueCallerAbandon":
        return _draft("call.abandoned", event_id, at, contact, caller, **facts | waiting)
    if kind == "AgentConnect":
        ring = whole(part.get("RingTime"))
        return _draft("call.answered", event_id, at, contact, caller, **facts, **_by(agent), ring_s=ring)
    if kind == "AgentComplete":
        talk, reason = whole(part.get("TalkTime")), text(part.get("Reason"))
        if reason == "transfer":
            # BlindTransfer and AttendedTransfer tell it better, where they are told.
            more = {**facts, "talk_s": talk, "told_late": True}
            return _transferred(event_id, at, contact, caller, agent, None, "transfer", **more)
        return _draft("call.ended", event_id, at, contact, caller, **facts, **_by(agent), talk_s=talk, reason=reason)
    if kind in ("BlindTransfer", "AttendedTransfer"):
        by = text(part.get("TransfererConnectedLineNum")) or text(part.get("TransfererCallerIDNum"))
        to = text(part.get("Extension")) or text(part.get("SecondTransfererConnectedLineNum"))
        person = text(part.get("TransfereeCallerIDNum"))
        return _transferred(event_id, at, contact, person, by, to, kind)
    if kind in ("Hold", "Unhold"):
        # Whoever pressed it; how long it lasted shows from both.
        return _status(event_id, at, contact, caller, kind.lower(), hold=kind == "Hold", leg=unique)
    if kind in ("QueueCallerLeave", "AgentCalled", "AgentRingNoAnswer", "AgentDump", "Hangup"):
        # Points in time that no KPI counts by themselves.
        cause = text(part.get("Cause-txt"))
        return _status(event_id, at, contact, caller, kind.lower(), queue=queue, agent_id=agent, reason=cause)
    return Quarantined(f"an AMI event {kind[:80]!r} is not understood", event_id)


def _by(agent: str | None) -> dict[str, Any]:
    return {"actor": events.agent(agent), "agent_id": agent}


def _status(event_id: str, at: events.When, contact: str, caller: str | None, status: str, **facts: Any) -> Draft:
    return _draft("message.status", event_id, at, contact, caller, refers_to=contact, status=status, **facts)


def _transferred(
    event_id: str, at: events.When, contact: str, caller: str | None, by: str | None, to: str | None, reason: str,
    **facts: Any,
) -> Draft:  # fmt: skip
    return _draft(
        "conversation.transferred", event_id, at, contact, caller, actor=events.agent(by),
        **{"from": by or _UNKNOWN, "to": to or _UNKNOWN}, reason=reason, **facts,
    )  # fmt: skip


# --- queue_log -----------------------------------------------------------------------------------------------------

_ENDED = {"COMPLETEAGENT": "agent", "COMPLETECALLER": "caller"}
_LEFT = frozenset({"EXITWITHTIMEOUT", "EXITEMPTY", "EXITWITHKEY", "FULL", "JOINEMPTY", "JOINUNAVAIL"})
_TOLD = frozenset({"RINGNOANSWER", "RINGCANCELED", "AGENTDUMP", "SYSCOMPAT", "DID", "CALLSTATUS"})
_STATES = {
    "AGENTLOGIN": "available", "AGENTCALLBACKLOGIN": "available", "ADDMEMBER": "on_queue", "UNPAUSE": "on_queue",
    "PAUSE": "busy", "REMOVEMEMBER": "offline", "AGENTLOGOFF": "offline", "AGENTCALLBACKLOGOFF": "offline",
}  # fmt: skip


def _queue_log(line: str, scope: str, callback_keys: frozenset[str]) -> Draft | Quarantined:
    columns = line.split("|")
    if len(columns) < 5 or not columns[0].replace(".", "", 1).isdigit():
        return Quarantined("a line that is none of queue_log's", body_key(line.encode()))
    stamp, call, queue, agent, kind = (column.strip() for column in columns[:5])
    more = [*columns[5:15], *[""] * 10]
    at = told_slack(stamp)
    who = agent if agent not in ("", "NONE") else None
    event_id = events.key(call, kind, stamp, *([who] if who else []))
    if kind in _STATES and who:
        return events.draft(
            "threadline.agent.status", event_id, at, channel="phone", actor=events.agent(who), agent_id=who,
            state=_STATES[kind], queue=queue if queue != "NONE" else None, reason=more[0],
        )  # fmt: skip
    facts: dict[str, Any] = {"queue": queue or _UNKNOWN}
    contact = scope + call
    waiting = {**facts, "actor": events.CUSTOMER}
    if kind == "ENTERQUEUE":
        return _draft("call.queued", event_id, at, contact, more[1], **waiting, position=whole(more[2]))
    if kind == "CONNECT":
        return _draft("call.answered", event_id, at, contact, None, **facts, **_by(who), wait_s=whole(more[0]),
                      ring_s=whole(more[2]))  # fmt: skip
    if kind == "ABANDON":
        return _draft("call.abandoned", event_id, at, contact, None, **waiting, wait_s=whole(more[2]))
    if kind in _ENDED:
        return _draft("call.ended", event_id, at, contact, None, **facts, **_by(who), wait_s=whole(more[0]),
                      talk_s=whole(more[1]), reason=_ENDED[kind])  # fmt: skip
    if kind in ("TRANSFER", "BLINDTRANSFER", "ATTENDEDTRANSFER"):
        return _transferred(event_id, at, contact, None, who, more[0] or None, kind.lower(), queue=queue)
    if kind == "EXITWITHKEY" and more[0] in callback_keys:
        return _draft("callback.requested", event_id, at, contact, None, **waiting, reason=kind.lower())
    if kind in _LEFT:
        return _draft("call.overflowed", event_id, at, contact, None, **facts, reason=kind.lower())
    if kind in _TOLD:
        ring = {"ring_ms": whole(more[0])} if kind == "RINGNOANSWER" else {}
        return _status(event_id, at, contact, None, kind.lower(), agent_id=who, **facts, **ring)
    return Quarantined(f"a queue_log event {kind[:80]!r} is not understood", event_id)
