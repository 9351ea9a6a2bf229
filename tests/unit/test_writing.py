"""Statements that run while the next are made ready: their order, and what is left when one of them fails."""

from __future__ import annotations

import asyncio

import pytest

from services.conversation.writing import Writing, breathe, parts


async def test_statements_run_one_after_the_other_while_who_gives_them_goes_on() -> None:
    said: list[str] = []

    async def statement(name: str) -> str:
        said.append(f"{name} begins")
        await asyncio.sleep(0.01)
        said.append(f"{name} is done")
        return name

    async with Writing() as writing:
        first = writing.begin(statement, "first")
        writing.begin(statement, "second")
        await breathe()
        said.append("went on")
        assert await first == "first"
    assert said == ["first begins", "went on", "first is done", "second begins", "second is done"]


async def test_what_comes_after_a_statement_that_fails_is_not_begun() -> None:
    said: list[str] = []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def statement() -> None:
        said.append("begun")

    with pytest.raises(ValueError, match="no"):
        async with Writing() as writing:
            writing.begin(fail)
            writing.begin(statement)
    assert said == []


async def test_nothing_is_left_under_way_when_who_gives_statements_fails() -> None:
    said: list[str] = []

    async def statement() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            said.append("ended")

    with pytest.raises(ValueError, match="no"):
        async with Writing() as writing:
            writing.begin(statement)
            writing.begin(statement)
            await breathe()
            raise ValueError("no")
    assert said == ["ended"]


def test_parts_are_all_of_it_in_order() -> None:
    things = list(range(127))
    assert [thing for part in parts(things) for thing in part] == things
    assert list(parts([])) == []
