"""Rows and columns on their way to the driver."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID, uuid4

from asyncpg.pgproto.pgproto import UUID as DriverUUID

Rows = Sequence[Sequence[Any]]


def fast_id(raw: bytes) -> UUID:
    """Return the id of these 16 bytes in the driver's own class, which hashes, compares and writes itself in C."""
    made: UUID = DriverUUID(raw)
    return made


def new_id() -> UUID:
    """Return a random id."""
    return fast_id(uuid4().bytes)


def columns(rows: Iterable[Sequence[Any]], width: int) -> list[list[Any]]:
    """Turn rows into the column arrays that `unnest` takes."""
    turned = list(zip(*rows, strict=True))
    return [list(column) for column in turned] if turned else [[] for _ in range(width)]
