"""Each test of a log runs on PostgreSQL and on a real Kafka broker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.log.protocol import Log
from tests.contract.log.places import Place


@pytest.fixture(params=["postgres", "kafka"])
def place(request: pytest.FixtureRequest, database: str) -> Place:
    if request.param == "postgres":
        return Place(database, None)
    return Place(database, request.getfixturevalue("kafka_broker").bootstrap)


@pytest.fixture
async def log(place: Place) -> AsyncIterator[Log]:
    async with place.open() as (_, opened_log):
        yield opened_log
