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
        self.version = 0
        """Grows whenever parts are united or reach further back."""

    def touch(self, names: Iterable[Name], since: datetime = NEVER) -> None:
        """Say that `names` are one part, to be decided from `since` on at the latest."""
        roots = {self._root(name) for name in names}
        if not roots:
            return
        first, *others = roots
        earliest = min(since, *(self._since[root] for root in roots))
        if others or earliest < self._since[first]:
            self.version += 1
        for root in others:
            self._parent[root] = first
            del self._since[root]
        self._since[first] = earliest

    def _root(self, name: Name) -> Name:
        if name not in self._parent:
            self._parent[name] = name
            self._since[name] = NEVER
            self.version += 1
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def since(self, name: Name) -> datetime:
        """Return the instant from which the part of `name` is decided."""
        return self._since[self._root(name)]

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
