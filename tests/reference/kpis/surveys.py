"""Surveys and what is said of us."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from tests.reference.kpis.history import SOCIAL, UNITS, Reference, Unit, at, units


def survey_units(name: str, kind: str, judge: Callable[[int], Any]) -> None:
    UNITS[name] = lambda r: [(at(e), judge(e["score"]), 1) for e, _ in r.answers() if e["kind"] == kind]


survey_units("csat_ratio", "csat", lambda s: int(s >= 4))
survey_units("csat_mean", "csat", lambda s: s)
survey_units("ces_mean", "ces", lambda s: s)
survey_units("high_effort_ratio", "ces", lambda s: int(s <= 2))
survey_units("high_effort_ratio?variant=some", "ces", lambda s: int(s <= 4))
survey_units("nps", "nps", lambda s: 100 * (int(s >= 9) - int(s <= 6)))


@units("csat_ratio?variant=cohort")
def _cohort(r: Reference) -> Iterable[Unit]:
    for answered, sent in r.answers():
        if answered["kind"] != "csat":
            continue
        about = None
        for e in (sent, answered):
            name = (
                r.canonical.get(e["conversation_id"], e["conversation_id"]) if e and e.get("conversation_id") else None
            )
            if e is not None and name in r.opened and about is None:
                about = (name, at(e))
        done = [x for x, _ in r.resolutions(about[0]) if at(x) <= about[1]] if about else []
        if done:
            yield at(done[-1]), int(answered["score"] >= 4), 1


@units("survey_asked_ratio")
def _asked(r: Reference) -> Iterable[Unit]:
    for name in r.opened:
        done = [e for e, _ in r.resolutions(name)]
        for index, resolved in enumerate(done):
            until = at(resolved) + timedelta(days=30)
            sent = [e for e in r.conversations[name] if e["type"] == "survey.sent" and at(resolved) <= at(e) <= until]
            if index + 1 < len(done):
                sent = [e for e in sent if at(e) < at(done[index + 1])]
            yield at(resolved), int(bool(sent)), 1


@units("survey_response_ratio")
def _response(r: Reference) -> Iterable[Unit]:
    answered = {(e["survey_id"], e["kind"]) for e, _ in r.answers()}
    seen = set()
    for e in r.events:
        if e["type"] == "survey.sent" and e["survey_id"] not in seen:
            seen.add(e["survey_id"])
            for kind in e["kinds"]:
                yield at(e), int((e["survey_id"], kind) in answered), 1


def mention(mood: str) -> Callable[[Reference], Iterable[Unit]]:
    def found(r: Reference) -> Iterable[Unit]:
        for name in r.opened:
            for contact in r.contacts(r.conversations[name]):
                if contact[0]["channel"] in SOCIAL:
                    yield at(contact[0]), int(any(e.get("sentiment") == mood for e in contact)), 1

    return found


UNITS["mention_ratio"] = mention("praise")
UNITS["mention_ratio?sentiment=complaint"] = mention("complaint")
