"""A statement that grows by conditions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Query:
    """Conditions of one statement with their parameters."""

    arguments: list[Any]
    conditions: list[str] = field(default_factory=list)

    def parameter(self, value: Any) -> str:
        self.arguments.append(value)
        return f"${len(self.arguments)}"

    def add(self, condition: str, *values: Any) -> None:
        self.conditions.append(condition.format(*(self.parameter(value) for value in values)))

    def text(self) -> str:
        return "".join(f" AND {condition}" for condition in self.conditions)
