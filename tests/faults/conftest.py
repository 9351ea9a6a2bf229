"""Fixtures of the fault tests: things of their own that they may break."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared import directory
from shared.database import embedded
from shared.database.migrate import migrate
from tests.conftest import require
from tests.kafka_broker import Broker, broker

SECRET_KEY = base64.b64encode(b"f" * 32).decode()


@dataclass(frozen=True)
class Ground:
    """A broker and a PostgreSQL server that only this test uses, and the settings that name them."""

    broker: Broker
    server: embedded.Server
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            "THREADLINE_DATABASE_URL": self.server.url,
            "THREADLINE_KAFKA": self.broker.bootstrap,
            "THREADLINE_SECRET_KEY": SECRET_KEY,
        }


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """A running broker of this test alone."""
    require("kafka")
    with broker() as running:
        yield running


@pytest.fixture
async def ground(own_broker: Broker) -> AsyncIterator[Ground]:
    """A broker and a durable, supervised PostgreSQL server of this test alone."""
    folder = directory.temporary("threadline fault ")
    try:
        with directory.hold(folder, "tests", lasting=True), embedded.running(folder) as server:
            await migrate(server.url)
            watch = asyncio.create_task(server.supervise())
            try:
                yield Ground(own_broker, server, folder)
            finally:
                watch.cancel()
                with suppress(asyncio.CancelledError):
                    await watch
    finally:
        shutil.rmtree(folder, ignore_errors=True)
