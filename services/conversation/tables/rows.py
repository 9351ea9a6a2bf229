"""Rows and columns on their way to the driver."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from asyncpg.pgproto.pgproto import UUID as DriverUUID

Rows = Sequence[Sequence[Any]]


def fast_id(raw: bytes) -> UUID:
    """Return the id of these 16 bytes in the driver's own class, which hashes, compares and writes itself in C."""
    made: UUID = DriverUUID(raw)
    return made


def new_id() -> UUID:
    """Return a random id."""
    return fast_id(uuid4().bytes)


FEW = 8
"""Up to so many rows are inserted one by one, which is one turn with the server; COPY takes two."""


async def insert(
    connection: asyncpg.Connection, table: str, names: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Append rows of `names` to a table of the schema `conversation`; none of them may be there yet."""
    if len(rows) > FEW:
        await connection.copy_records_to_table(table, schema_name="conversation", columns=names, records=rows)
    elif rows:
        values = ", ".join(f"${number}" for number in range(1, len(names) + 1))
        statement = f"INSERT INTO conversation.{table} ({', '.join(names)}) VALUES ({values})"  # noqa: S608 - our names
        await connection.executemany(statement, rows)


def columns(rows: Iterable[Sequence[Any]], width: int) -> list[list[Any]]:
    """Turn rows into the column arrays that `unnest` takes."""
    turned = list(zip(*rows, strict=True))
    return [list(column) for column in turned] if turned else [[] for _ in range(width)]
