"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import require
from tests.kafka_broker import broker


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """The address of a real broker for the whole run; each test takes a topic prefix of its own."""
    require("kafka")
    with broker() as running:
        yield running.bootstrap
