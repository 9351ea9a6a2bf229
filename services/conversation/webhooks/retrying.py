"""What an endpoint's answer means, and when to try again: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

SCHEDULE_S: Sequence[float] = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds between the attempts of one delivery, as Standard Webhooks proposes: ten over three days and a half."""

JITTER = 0.1
"""By so much of itself a wait is longer or shorter."""

LONGEST_RETRY_AFTER_S = 86_400.0
PAUSE_FIRST_S = 1.0
PAUSE_LONGEST_S = 600.0
FAILURES_OF_AN_OUTAGE = 5
"""So many failures in a row, of whatever customers, and the endpoint itself is taken to be the trouble."""

_AWAY = frozenset({408, 425, 429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one attempt: a status, or (`status` None) the reason why there is none."""

    status: int | None
    error: str | None = None
    retry_after_s: float | None = None
    excerpt: str = ""
    """The beginning of the answer's body, for people."""
    duration_ms: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer means. `away`: the endpoint is the trouble, not this delivery. `gone`: it wants no more (410)."""

    delivered: bool
    away: bool = False
    gone: bool = False
    reason: str | None = None

    @property
    def refused(self) -> bool:
        """Whether it is this delivery that was not taken, for what it is."""
        return not (self.delivered or self.away or self.gone)


def judge(answer: Answer) -> Verdict:
    """Say what `answer` means; anything but 2xx is a failure, a redirect too: nobody is followed to another address."""
    status = answer.status
    if status is None:
        return Verdict(False, away=True, reason=answer.error or "no answer")
    if 200 <= status < 300:
        return Verdict(True)
    if status == 410:
        return Verdict(False, gone=True, reason="answered 410: the endpoint wants no more deliveries")
    if 300 <= status < 400:
        return Verdict(False, away=True, reason=f"answered {status}, a redirect, which is not followed: change the URL")
    return Verdict(False, away=status in _AWAY, reason=f"answered {status}")


def next_attempt_s(
    attempts: int, answer: Answer, jitter: float = 0.5, schedule: Sequence[float] = SCHEDULE_S
) -> float | None:
    """Return seconds until the next attempt after `attempts` failed ones; None where it was the last.

    `jitter` in [0, 1) moves it by up to a tenth either way. `Retry-After` is waited for where it asks for longer.
    """
    if attempts > len(schedule):
        return None
    wait_s = schedule[attempts - 1] * (1 - JITTER + 2 * JITTER * jitter)
    return max(wait_s, min(answer.retry_after_s or 0.0, LONGEST_RETRY_AFTER_S))


def attempt_counts(attempts: int, age_s: float, schedule: Sequence[float] = SCHEDULE_S) -> bool:
    """Tell whether an attempt counts after `attempts` that did, at a delivery that is `age_s` old.

    What is tried before its own time, because the endpoint came back or somebody changed it, costs no attempt: else one
    that comes and goes would use up within minutes what is to last for days.
    """
    return age_s >= sum(schedule[:attempts]) * (1 - JITTER)


def tells_of_endpoint(last_status: int | None, verdict: Verdict) -> bool:
    """Tell whether a failure says anything of its endpoint, where the attempt before it got `last_status`, if any.

    What was refused for itself and is refused again tells nothing new, however many such deliveries there are.
    """
    return not verdict.refused or last_status is None or not judge(Answer(last_status)).refused


def pause_s(failures: int, answer: Answer, verdict: Verdict) -> float | None:
    """Return seconds for which the whole endpoint is left alone after `failures` in a row; None: not at all.

    Deliveries that an endpoint chokes on must not hold up the others, so only what speaks of the endpoint counts: no
    answer, "not now", a redirect, or a run of failures (see `tells_of_endpoint`).
    """
    if not verdict.away and failures < FAILURES_OF_AN_OUTAGE:
        return None
    backed_off = min(PAUSE_FIRST_S * (1 << min(failures - 1, 20)), PAUSE_LONGEST_S)
    return max(backed_off, min(answer.retry_after_s or 0.0, LONGEST_RETRY_AFTER_S))


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Read a `Retry-After`, seconds or a date; None where there is none or it makes no sense."""
    if not header:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:12]), int(LONGEST_RETRY_AFTER_S)))
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return max(0.0, (at - now).total_seconds())
