"""What has to be decided together, and from which instant on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from uuid import UUID

NEVER = datetime(9999, 12, 31, tzinfo=UTC)


class Scope:
    """Disjoint sets of names (keys `k:`, components of people `p:`, conversations `c:`), each with an instant.

    A part of the scope is everything that may influence each other; it is decided again from its instant on.
    """

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._since: dict[str, datetime] = {}
        self.version = 0
        """Grows whenever parts are united or reach further back."""

    def touch(self, names: Iterable[str], since: datetime = NEVER) -> None:
        """Say that `names` are one part, to be decided from `since` on at the latest."""
        roots = {self._root(name) for name in names}
        if not roots:
            return
        first, *others = sorted(roots)
        earliest = min(since, *(self._since[root] for root in roots))
        if others or earliest < self._since[first]:
            self.version += 1
        for root in others:
            self._parent[root] = first
            del self._since[root]
        self._since[first] = earliest

    def _root(self, name: str) -> str:
        if name not in self._parent:
            self._parent[name] = name
            self._since[name] = NEVER
            self.version += 1
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def since(self, name: str) -> datetime:
        """Return the instant from which the part of `name` is decided."""
        return self._since[self._root(name)]

    def keys_known(self) -> list[str]:
        return [name[2:] for name in self._names("k:")]

    def components(self) -> list[UUID]:
        return [UUID(name[2:]) for name in self._names("p:")]

    def conversations(self) -> list[UUID]:
        return [UUID(name[2:]) for name in self._names("c:")]

    def _names(self, prefix: str) -> Iterator[str]:
        return (name for name in list(self._parent) if name.startswith(prefix))
