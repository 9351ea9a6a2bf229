"""Work that is done again and again, and outlives a database that is away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from shared.errors import Retryable

TRIED_AGAIN = (
    Retryable,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)


@contextmanager
def tried_again(log: Any, later: str) -> Iterator[None]:
    """Let a round of a loop fail without ending the loop: the log is told `later`, and the next round tries again."""
    try:
        yield
    except TRIED_AGAIN as error:
        log.warning(later, error=type(error).__name__)
