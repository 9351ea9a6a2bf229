"""What customers say when asked, and whether they are asked. An answer lands when it is given, the last one counts.

Dimensions are frozen at the resolution the survey is about (or by survey.sent, where it names the agent).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.metrics.buckets import Dims, Sink
from services.metrics.entries import SECOND, Entry
from services.metrics.facts import Conversation, Episode, corrected
from services.metrics.kpis.definition import ALL, DAY_S, NO_AGENT, TENANT, Definition, Entity, Shape
from services.metrics.survey import ANSWER_WITHIN, Answer, kind_of, kinds_of, last_answers
from shared.business import Rules


class Survey:
    """One survey: its sending and its answers, and the conversations they name."""

    __slots__ = ("conversations", "entries", "id")

    def __init__(self, id: str, entries: Sequence[Entry], conversations: Mapping[str, Conversation]) -> None:
        self.id = id
        self.entries = corrected(entries)
        self.conversations = conversations

    def about(self, entry: Entry) -> tuple[Conversation | None, Episode | None]:
        """Return the conversation of `entry` and its last episode resolved by then."""
        c = self.conversations.get(entry.conversation or "")
        if c is None:
            return None, None
        done = [e for e in c.episodes if e.resolved is not None and e.resolved.at <= entry.at]
        return c, done[-1] if done else None

    def dims(self, sent: Entry | None, answered: Entry | None) -> tuple[Dims, Episode | None, Conversation | None]:
        """Return the frozen dimensions, and the episode and conversation they come from."""
        for entry in (sent, answered):
            if entry is None:
                continue
            c, episode = self.about(entry)
            if c is not None:
                dims = c.resolution_dims(episode) if episode is not None else c.dims
                if entry.agent is not None:
                    dims = dims._replace(agent=entry.agent, team=entry.team or dims.team)
                return dims, episode, c
        entry = sent or answered
        assert entry is not None
        return Dims(entry.channel, entry.team, entry.agent, entry.segment, entry.language), None, None


def answers(survey: Survey, rules: Rules, sink: Sink) -> None:
    """The scores that count: satisfaction, effort, recommendation."""
    for answer in last_answers(survey.entries):
        dims, episode, c = survey.dims(answer.sent, answer.answered)
        why = (answer.sent, answer.answered)
        _SCORES[answer.kind](sink, answer, dims, answer.answered.at, "", why)
        if answer.kind == "csat" and episode is not None and episode.resolved is not None:
            _csat(sink, answer, dims, episode.resolved.at, ":cohort", (*why, episode.resolved))
        if answer.kind == "csat" and c is not None and any(contact.is_call for contact in c.contacts.values()):
            _csat(sink, answer, dims, answer.answered.at, ":waited", why)


def _csat(sink: Sink, answer: Answer, dims: Dims, at: int, suffix: str, why: tuple[Entry | None, ...]) -> None:
    satisfied = int(answer.points >= 4 * SECOND)
    sink.add(f"csat_ratio{suffix}", at, dims, 1, satisfied, why, bucket=_class(answer.points))
    sink.add(f"csat_mean{suffix}", at, dims, 1, answer.points, why, bucket=_class(answer.points))


def _ces(sink: Sink, answer: Answer, dims: Dims, at: int, suffix: str, why: tuple[Entry | None, ...]) -> None:
    sink.add("ces_mean", at, dims, 1, answer.points, why, bucket=_class(answer.points))
    sink.add("high_effort_ratio", at, dims, 1, int(answer.points <= 2 * SECOND), why)
    sink.add("high_effort_ratio:some", at, dims, 1, int(answer.points <= 4 * SECOND), why)


def _nps(sink: Sink, answer: Answer, dims: Dims, at: int, suffix: str, why: tuple[Entry | None, ...]) -> None:
    judgement = int(answer.points >= 9 * SECOND) - int(answer.points <= 6 * SECOND)
    sink.add("nps", at, Dims(segment=dims.segment), 1, judgement, why, bucket=_class(answer.points))


def _class(points: int) -> int:
    return (points + SECOND // 2) // SECOND


_SCORES = {"csat": _csat, "ces": _ces, "nps": _nps}


def responded(survey: Survey, rules: Rules, sink: Sink) -> None:
    """For each kind that was asked, whether it was answered; lands when it was asked."""
    sent = next((e for e in survey.entries if e.type == "survey.sent"), None)
    if sent is None:
        return
    dims = survey.dims(sent, None)[0]
    answered = {a.kind: a.answered for a in last_answers(survey.entries)}
    for kind in kinds_of(sent):
        hit, why = int(kind in answered), (sent, answered.get(kind))
        sink.add("survey_response_ratio", sent.at, dims, 1, hit, why, member=kind)
        sink.add(f"survey_response_ratio:{kind}", sent.at, dims, 1, hit, why)


def asked(c: Conversation, rules: Rules, sink: Sink) -> None:
    """Whether a resolution was followed by a survey, within 30 days and before the next resolution."""
    surveys = c.surveys
    resolved = [e for e in c.episodes if e.resolved is not None]
    for index, episode in enumerate(resolved):
        at = episode.resolved.at if episode.resolved else 0
        following = resolved[index + 1].resolved if index + 1 < len(resolved) else None
        until = at + ANSWER_WITHIN + 1 if following is None else min(following.at, at + ANSWER_WITHIN + 1)
        hit = next((e for e in surveys if at <= e.at < until), None)
        dims = c.resolution_dims(episode)
        sink.add("survey_asked_ratio", at, dims, 1, int(hit is not None), (episode.resolved, hit))


MOODS = ("praise", "complaint", "neutral")


def moods(c: Conversation, rules: Rules, sink: Sink) -> None:
    """For each contact on a social channel, the moods its messages were marked with."""
    for contact in c.contacts.values():
        dims = Dims(contact.channel, contact.answered.team if contact.answered else None, None, c.segment, c.language)
        for mood in MOODS:
            entry = contact.sentiments.get(mood)
            why = (contact.first, entry)
            sink.add(f"mention_ratio:{mood}", contact.start, dims, 1, int(entry is not None), why)


KINDS = ("csat", "ces", "nps")

DEFINITIONS = (
    Definition(
        "csat_ratio", "Share of satisfied answers (4–5 of 5)", "scores 4–5 / answers", "1", "up",
        "answer (cohort: resolved)", ALL, Shape.ratio, ((Entity.survey, answers),),
        parameters={"variant": ("cohort", "waited")}, benchmark="86%; goal 80%, 85→90%", benchmark_source="0 1 2",
    ),
    Definition(
        "csat_mean", "Mean satisfaction, 1–5", "Σ score / answers", "p", "up", "answer (cohort: resolved)", ALL,
        Shape.mean, parameters={"variant": ("cohort", "waited")},
    ),
    Definition(
        "ces_mean", "Mean ease, 1–7", "Σ score / answers", "p", "up", "answer", ALL, Shape.mean, benchmark="5.5",
        benchmark_source="0 1",
    ),
    Definition(
        "high_effort_ratio", "Share of answers that tell of much effort (1–2); some: 1–4", "scores 1–2 / answers", "1",
        "down", "answer", ALL, Shape.ratio, parameters={"variant": ("some",)}, benchmark="much 18%, some 62%",
        benchmark_source="3",
    ),
    Definition(
        "nps", "Net promoter score", "100 · (scores 9–10 − scores 0–6) / answers", "p", "up", "answer", TENANT,
        Shape.special, benchmark="+32", benchmark_source="0 1",
    ),
    Definition(
        "survey_asked_ratio", "Share of resolutions followed by a survey", "sent / resolved", "1", "up", "resolved",
        ALL, Shape.ratio, ((Entity.conversation, asked),), ttl_s=30 * DAY_S, benchmark="77% like being asked",
        benchmark_source="3",
    ),
    Definition(
        "survey_response_ratio", "Share of survey questions answered, by (survey, kind)", "answered / sent", "1", "up",
        "sent", ALL, Shape.ratio, ((Entity.survey, responded),), parameters={"variant": KINDS}, ttl_s=30 * DAY_S,
        benchmark="named without a figure", benchmark_source="3",
    ),
    Definition(
        "mention_ratio", "Share of social contacts with praise or complaint",
        "social praise or complaint / social contacts", "1", "none", "itself", NO_AGENT, Shape.special,
        ((Entity.conversation, moods),), parameters={"sentiment": MOODS}, benchmark="37% praise, 31% complain",
        benchmark_source="3",
    ),
)  # fmt: skip

__all__ = ["DEFINITIONS", "Survey", "kind_of"]
