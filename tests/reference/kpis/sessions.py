"""Sessions without a human: menus, bots, help pages, suggestions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from tests.reference.kpis.history import DAY, UNITS, Reference, Unit, at, is_bot, is_human_message, units, windowed
from tests.reference.kpis.volume import channels_in


@units("ivr_containment_ratio")
def _ivr(r: Reference) -> Iterable[Unit]:
    for customer in r.customers():
        for session in r.sessions(customer, "ivr.ended"):
            end = session[-1]
            again = r.contacted(customer, at(end), at(end) + DAY)
            yield at(end), int(end["outcome"] != "to_agent" and not again), 1


@units("containment_ratio")
def _containment(r: Reference) -> Iterable[Unit]:
    for customer in r.customers():
        for session in r.sessions(customer, "bot.answered", "bot.handed_over"):
            start, end = at(session[0]), at(session[-1])
            handed = any(e["type"] == "bot.handed_over" for e in session)
            name = r.canonical.get(session[0].get("conversation_id") or "", session[0].get("conversation_id"))
            done = name in r.opened and any(start <= at(e) <= start + DAY for e, _ in r.resolutions(name))
            yield start, int(done and not handed and not r.contacted(customer, end, end + DAY)), 1


@units("deflection_ratio")
def _deflection(r: Reference) -> Iterable[Unit]:
    for customer in r.customers():
        for session in r.sessions(customer, "selfservice.viewed", "selfservice.deflected"):
            start, end = at(session[0]), at(session[-1])
            yield start, int(not r.contacted(customer, start, end + DAY)), 1


@units("selfservice_first_ratio")
def _tried_first(r: Reference) -> Iterable[Unit]:
    for name in r.opened:
        views = [e for e in r.of(r.customer_of(name)) if e["type"] == "selfservice.viewed"]
        for start, _, _ in r.episodes(name):
            yield at(start), int(any(timedelta(0) <= at(start) - at(v) <= DAY for v in views)), 1


@windowed("portal_adoption_ratio")
def _portal(r: Reference, start: datetime, end: datetime) -> tuple[float, float]:
    viewing, active = set(), set()
    for c in r.customers():
        if any(e["type"] == "selfservice.viewed" and start <= at(e) < end for e in r.of(c)):
            viewing.add(c)
        if channels_in(r, c, start, end):
            active.add(c)
    return len(viewing), len(viewing | active)


@units("bot_share_ratio")
def _bot_share(r: Reference) -> Iterable[Unit]:
    for name in r.opened:
        for start, _, again in r.episodes(name):
            yield at(start), int(any(is_bot(e) for e in r.between(name, start, again))), 1


def suggestion(accepted: bool) -> Callable[[Reference], Iterable[Unit]]:
    def found(r: Reference) -> Iterable[Unit]:
        for name in r.opened:
            taken = {e["suggestion_id"] for e in r.conversations[name] if e["type"] == "suggestion.accepted"}
            for e in r.conversations[name]:
                if is_human_message(e):
                    told = e.get("suggestion_id")
                    yield at(e), int(told in taken if accepted else told is not None), 1

    return found


UNITS["ai_suggestion_ratio"] = suggestion(False)
UNITS["ai_suggestion_ratio?variant=accepted"] = suggestion(True)
