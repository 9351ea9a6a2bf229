"""How many events the lane decides together, from how long that took. Pure.

A decision has a part that it costs however many events come to it (what is there is told anew) and one for each of
them. Where the first is the larger, more are decided together, since fewer would take hardly less long.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST, MOST = 64, 2_000
"""Events that are decided together, at first and at the most."""
SHORT_S, LONG_S = 1.0, 3.0
"""More are decided together where that took less than the one, fewer where their own part took more than the other."""


@dataclass(frozen=True, slots=True)
class Step:
    """So many events were decided together in so long."""

    events: int
    took_s: float


class Pace:
    """The number for one tenant. It learns the two parts from two steps of different size."""

    def __init__(self) -> None:
        self.together = FIRST
        self._last: Step | None = None
        self._other: Step | None = None
        """The latest step of another size than the last."""

    def took(self, events: int, seconds: float) -> None:
        """Hear how long the decision on so many events took, storing it included."""
        own_s = self._own_s(Step(events, seconds))
        if events >= self.together and (seconds < SHORT_S or own_s < seconds / 2):
            self.together = min(MOST, 2 * self.together)
        elif own_s > LONG_S:
            self.together = max(1, self.together // 2)

    def overtaken(self, events: int, seconds: float) -> None:
        """Hear that it took so long and is of no use, since something that it had to do with was touched meanwhile.

        What takes less long is overtaken less often. Where fewer would take as long, more get done when it succeeds.
        """
        if self._own_s(Step(events, seconds)) >= seconds / 2:
            self.together = max(1, self.together // 4)
        elif events >= self.together:
            self.together = min(MOST, 2 * self.together)

    def _own_s(self, step: Step) -> float:
        """Note a step; return how much of its time was for the events themselves, nothing where that is not known."""
        if self._last is not None and self._last.events != step.events:
            self._other = self._last
        self._last, other = step, self._other
        if other is None:
            return 0.0
        each_s = (step.took_s - other.took_s) / (step.events - other.events)
        return min(max(each_s, 0.0) * step.events, step.took_s)
