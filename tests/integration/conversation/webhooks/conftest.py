"""Timelines whose webhooks may call this machine, and a receiver."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from shared.settings import Settings
from tests.receiver import Receiver, receiving
from tests.timeline_app import Timelines, running_timelines


@pytest.fixture
async def timelines(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Timelines]:
    here = settings.model_copy(update={"webhook_allowed_networks": "127.0.0.1/32", "webhook_timeout_s": 1.0})
    async with running_timelines(pool, here) as running:
        yield running


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running
