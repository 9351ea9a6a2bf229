"""No statement compares all with all, whatever the statistics: of a new tenant, or on a new database, there are none.

Such a plan is quick while there are few rows, is kept until they are counted, and held up the timeline for seconds. A
tenant that was not there when they were counted has one row for the planner: a brief took a minute.
"""

from __future__ import annotations

import re
from types import ModuleType

import asyncpg
import pytest

from services.conversation import copies, explaining, suggesting, tables
from services.conversation.reading import briefs, conversations, customers

ALL_WITH_ALL = re.compile(r"Nested Loop[^\n]*\n\s+Join Filter")

EVERYTHING = {"ALL_LEAVES", "ALL_ENTRIES"}
"""Those that read all of a tenant on purpose."""


def statements(module: ModuleType) -> dict[str, str]:
    found = {name: text for name, text in vars(module).items() if name.isupper() and isinstance(text, str)}
    return {name: text for name, text in found.items() if "$2" in text and name not in EVERYTHING}


OF_THE_BATCH = (tables.leaves, tables.conversations, tables.entries, tables.tenants, tables.changes, copies)
READING = (explaining, suggesting, briefs, conversations, customers)
STATEMENTS = {
    f"{module.__name__.removeprefix('services.conversation.')}.{name}": text
    for module in (*OF_THE_BATCH, *READING)
    for name, text in statements(module).items()
}


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_statement_compares_not_all_with_all(pool: asyncpg.Pool, name: str) -> None:
    parameters = max(int(number) for number in re.findall(r"\$(\d+)", STATEMENTS[name]))
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE looked_at AS {STATEMENTS[name]}")
        nulls = ", ".join(["NULL"] * parameters)
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE looked_at({nulls})"))
        await connection.execute("DEALLOCATE looked_at")
    assert "Seq Scan" not in plan, plan
    assert not ALL_WITH_ALL.search(plan), plan


def test_there_are_statements_to_look_at() -> None:
    assert len(STATEMENTS) > 20
