"""Every error of the driver and the system means one of two things: not now, or never."""

from __future__ import annotations

import asyncio
import builtins

import asyncpg
import pytest

from shared.database.engine import as_unavailable, describe, translated
from shared.errors import DatabaseUnavailable

# SQLSTATE classes and codes that say the server is not able to now.
NOT_NOW = ("08", "40", "53", "57", "58", "25P03", "25P04", "55000", "55P03")


def _subclasses(base: type) -> list[type]:
    return [found for child in base.__subclasses__() for found in (child, *_subclasses(child))]


SERVER_ERRORS = [error for error in _subclasses(asyncpg.PostgresError) if getattr(error, "sqlstate", None)]
SYSTEM_ERRORS = [error for error in vars(builtins).values() if isinstance(error, type) and issubclass(error, OSError)]


def test_the_driver_still_has_the_errors_that_this_test_is_about() -> None:
    assert len(SERVER_ERRORS) > 200


@pytest.mark.parametrize("error", SERVER_ERRORS, ids=lambda error: error.__name__)
def test_server_error_is_translated_exactly_if_its_code_says_not_now(error: type[Exception]) -> None:
    expected = error.sqlstate.startswith(NOT_NOW)  # type: ignore[attr-defined]
    assert (as_unavailable(error("message")) is not None) == expected


@pytest.mark.parametrize("error", [*SYSTEM_ERRORS, asyncio.TimeoutError, EOFError], ids=lambda error: error.__name__)
def test_system_errors_of_a_connection_are_translated(error: type[Exception]) -> None:
    made = asyncio.IncompleteReadError(b"", 1) if error is EOFError else error()
    with pytest.raises(DatabaseUnavailable) as caught, translated():
        raise made
    assert caught.value.__cause__ is made


@pytest.mark.parametrize(
    "message",
    [
        "connection is closed",
        "pool is closing",
        "pool is closed",
        "cannot perform operation: connection is closed",
        "cannot call Connection.fetch(): connection has been released back to the pool",
        "the underlying connection is closed",
    ],
)
def test_connection_that_went_away_is_translated(message: str) -> None:
    assert as_unavailable(asyncpg.InterfaceError(message)) is not None


def test_wrong_use_of_the_driver_stays_a_bug() -> None:
    assert as_unavailable(asyncpg.InterfaceError("cannot perform operation: another operation is in progress")) is None
    assert as_unavailable(ValueError("x")) is None


def test_what_is_said_names_no_address() -> None:
    error = ConnectionRefusedError(111, "Connect call failed ('10.1.2.3', 5432)")
    assert "10.1.2.3" not in describe(error)
    assert "\n" not in describe(asyncpg.PostgresConnectionError("gone"))


def test_what_the_driver_says_while_tidying_up_after_a_lost_connection_is_unavailable() -> None:
    try:
        try:
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        finally:
            raise asyncpg.InterfaceError("cannot perform operation: another operation is in progress")
    except asyncpg.InterfaceError as error:
        assert as_unavailable(error) is not None
