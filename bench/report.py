"""What every measurement returns, and how it is printed: a figure, what it is compared with, and their ratio.

A module of this folder joins the one table of `python -m bench` where it has `def rows() -> Sequence[Row]`; one that
has not prints its own. Absolute figures depend on the machine; a ratio of one run travels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `against` says what `base` measures; `ratio` is value / base."""

    name: str
    value: float
    unit: str
    against: str = ""
    base: float | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.base if self.base else None


def show(rows: Iterable[Row], title: str = "") -> None:
    """Print `rows` as a table."""
    table = Table(title=title or None, title_justify="left")
    for heading in ("measurement", "figure", "unit", "against", "its figure", "ratio"):
        table.add_column(heading, justify="right" if heading in ("figure", "its figure", "ratio") else "left")
    for row in rows:
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        table.add_row(row.name, number(row.value), row.unit, row.against, number(row.base), ratio)
    Console(width=140).print(table)


def as_json(rows: Sequence[Row]) -> str:
    """Return `rows` as JSON, for a file that is kept."""
    return json.dumps([{**asdict(row), "ratio": row.ratio} for row in rows], indent=1)


def number(value: float | None) -> str:
    """Return `value` with as many digits as are worth reading."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def quantile(values: Sequence[float], q: float) -> float:
    """Return the `q` quantile of `values` (nearest rank). Raises ValueError where there are none."""
    if not values:
        raise ValueError("no values to take a quantile of")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
