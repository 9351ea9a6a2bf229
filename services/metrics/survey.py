"""Surveys: what was asked, what was answered last, and the score on its scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from services.metrics.entries import SECOND, Entry

ANSWER_WITHIN = 30 * 86_400 * SECOND

SCALES = {"csat": (1, 5), "ces": (1, 7), "nps": (0, 10)}
"""The scale each kind is counted on, and assumed where none is given. Scores on others are mapped on it, linearly."""


class Answer(NamedTuple):
    """The answer that counts of one (survey, kind). `points` are millionths of a point on the kind's own scale."""

    kind: str
    points: int
    answered: Entry
    sent: Entry | None


def kind_of(entry: Entry) -> str | None:
    """Return csat, ces or nps; None where the entry names none of them."""
    for name in ("kind", "metric"):
        value = entry.data.get(name)
        if isinstance(value, str) and value.lower() in SCALES:
            return value.lower()
    return None


def kinds_of(sent: Entry) -> list[str]:
    """Return the kinds a survey asked for."""
    kinds = sent.data.get("kinds")
    if isinstance(kinds, list):
        return sorted({k.lower() for k in kinds if isinstance(k, str) and k.lower() in SCALES})
    kind = kind_of(sent)
    return [kind] if kind else []


def points_of(entry: Entry, kind: str) -> int | None:
    """Return the score in millionths of a point on the scale of `kind`; None where it is no score on its scale."""
    score = _number(entry.data.get("score"))
    low, high = SCALES[kind]
    scale = entry.data.get("scale")
    if isinstance(scale, list) and len(scale) == 2:
        least, most = _number(scale[0]), _number(scale[1])
    else:
        least, most = float(low), _number(scale) if scale is not None else float(high)
    if score is None or least is None or most is None or most <= least or not least <= score <= most:
        return None
    if (least, most) == (low, high):
        return round(score * SECOND)
    return round((low + (score - least) * (high - low) / (most - least)) * SECOND)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e6 < value < 1e6:
        return None
    return float(value)


def last_answers(entries: Sequence[Entry]) -> list[Answer]:
    """Return, per kind, the last answer of one survey given within 30 days of its first sending.

    An answer whose survey.sent never came counts too: a survey tool may post answers only.
    """
    ordered = sorted(entries, key=lambda e: e.order)
    sent = next((e for e in ordered if e.type == "survey.sent"), None)
    last: dict[str, Answer] = {}
    for entry in ordered:
        kind = kind_of(entry) if entry.type == "survey.answered" else None
        points = points_of(entry, kind) if kind else None
        if kind is None or points is None:
            continue
        if sent is None or entry.at - sent.at <= ANSWER_WITHIN:
            last[kind] = Answer(kind, points, entry, sent)
    return [last[kind] for kind in sorted(last)]
