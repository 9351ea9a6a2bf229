"""What has to be decided together, and from which instant on."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from services.conversation.stitching import NEVER

Name = tuple[Literal["key", "component", "conversation"], Any]


class Scope:
    """Disjoint sets of names (keys, components of people, conversations), each with an instant.

    A part of the scope is everything that may influence each other; it is decided again from its instant on.
    """

    def __init__(self) -> None:
        self._parent: dict[Name, Name] = {}
        self._since: dict[Name, datetime] = {}
        self._size: dict[Name, int] = {}
        self.version = 0
        """Grows whenever parts are united or reach further back."""

    def touch(self, names: Iterable[Name], since: datetime = NEVER) -> None:
        """Say that `names` are one part, to be decided from `since` on at the latest."""
        part: Name | None = None
        for name in names:
            root = self._root(name)
            part = root if part is None or part is root else self._united(part, root)
        if part is not None and since < self._since[part]:
            self._since[part] = since
            self.version += 1

    def _united(self, one: Name, other: Name) -> Name:
        if self._size[one] < self._size[other]:
            one, other = other, one
        self._parent[other] = one
        self._size[one] += self._size.pop(other)
        self._since[one] = min(self._since[one], self._since.pop(other))
        self.version += 1
        return one

    def _root(self, name: Name) -> Name:
        parent = self._parent
        above = parent.get(name)
        if above is None:
            parent[name] = name
            self._since[name], self._size[name] = NEVER, 1
            self.version += 1
            return name
        # A root is its own parent, the very object.
        while (next_ := parent[above]) is not above:
            parent[name] = next_
            name, above = above, next_
        return above

    def part(self, name: Name) -> Name:
        """Return the name that stands for the whole part of `name`, until parts are united."""
        return self._root(name)

    def since(self, name: Name) -> datetime:
        """Return the instant from which the part of `name` is decided."""
        return self._since[self._root(name)]

    def earliest(self) -> datetime:
        """Return the first instant from which any part is decided."""
        return min(self._since[name] for name in self._size)

    def keys_known(self) -> list[str]:
        return [name for kind, name in self._parent if kind == "key"]

    def components(self) -> list[UUID]:
        return [name for kind, name in self._parent if kind == "component"]

    def conversations(self) -> list[UUID]:
        return [name for kind, name in self._parent if kind == "conversation"]


def key_name(key: str) -> Name:
    return "key", key


def component_name(component_id: UUID) -> Name:
    return "component", component_id


def conversation_name(conversation_id: UUID) -> Name:
    return "conversation", conversation_id
