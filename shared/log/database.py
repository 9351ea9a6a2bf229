"""What the log needs to know of the database driver: its connections, and which errors may pass."""

from __future__ import annotations

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from shared.database.engine import translated
from shared.errors import LogUnavailable, Retryable

Connection = asyncpg.Connection | PoolConnectionProxy
"""A connection as a pool or `connect` gives it."""


def retryable(error: Exception) -> Retryable | None:
    """Return `error` as the Retryable that it means, None where trying again would not help (a bug, a refusal)."""
    if isinstance(error, Retryable):
        return error
    try:
        with translated():
            raise error
    except Retryable as found:
        return found
    except Exception:
        return None


def passes(error: Exception) -> bool:
    """Tell whether the same work may succeed later."""
    return retryable(error) is not None


def in_log(error: Exception) -> Exception:
    """Return what `error` means where the database is the log: LogUnavailable if it may pass, itself if not."""
    meant = retryable(error)
    if meant is None or isinstance(meant, LogUnavailable):
        return meant or error
    return LogUnavailable(f"the log's database does not work now: {meant}")
