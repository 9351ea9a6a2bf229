"""Who goes first where consumers of one process want the same processors: timelines, before what is made of them."""

from __future__ import annotations

from collections.abc import Callable

PATIENCE_S = 5.0
"""What can be late gives way until what waits there is so old; then it takes its share, however much is to be done."""


class Precedence:
    """Tells those that can be late whether somebody who goes first is behind."""

    def __init__(self) -> None:
        self._first: list[Callable[[], bool]] = []

    def claim(self, behind: Callable[[], bool]) -> None:
        """Let who says by `behind` whether they are go first, for the life of the process."""
        self._first.append(behind)

    def taken(self) -> bool:
        """Tell whether somebody who goes first is behind now."""
        return any(behind() for behind in self._first)
