"""Connections to PostgreSQL: the pool, what it translates, and reading as one tenant."""

from __future__ import annotations

import asyncio
import socket
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson

from shared.errors import DatabaseUnavailable, SetupError

if TYPE_CHECKING:
    from shared.settings import Settings

# The role goes last: once it is set, only what the reader may do is allowed. Both end with the transaction.
BECOME_READER = "SELECT set_config('threadline.tenant', $1, true), set_config('role', 'threadline_reader', true)"

CONNECT_LIMIT_S = 10.0

_UNAVAILABLE = (
    asyncpg.PostgresConnectionError,  # 08: the connection is gone
    asyncpg.OperatorInterventionError,  # 57: shut down, cannot connect now, cancelled by statement_timeout
    asyncpg.InsufficientResourcesError,  # 53: too many connections, disk full, out of memory
    asyncpg.TransactionRollbackError,  # 40: deadlock, serialization failure: the same again may succeed
    asyncpg.LockNotAvailableError,
    asyncpg.ObjectNotInPrerequisiteStateError,  # the database does not accept connections now (maintenance)
    asyncpg.PostgresSystemError,  # 58: the server's own input/output failed
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,  # pool closing, connection closed in the middle of an operation
    OSError,  # includes ConnectionError and, since 3.11, TimeoutError of asyncio
    asyncio.TimeoutError,
    asyncio.IncompleteReadError,
)

# Kinds of ObjectNotInPrerequisiteStateError that are no better later: wrong use of the server, like _is_misuse below.
_NEVER = (
    asyncpg.ObjectInUseError,
    asyncpg.CantChangeRuntimeParamError,
    asyncpg.UnsafeNewEnumValueUsageError,
)


@contextmanager
def translated() -> Iterator[None]:
    """Turn every error that says "the database is not able to now" into DatabaseUnavailable, with its cause.

    What says "this statement is wrong" (a constraint, a syntax error) stays what it is: a bug or the caller's business.
    """
    try:
        yield
    except DatabaseUnavailable:
        raise
    except _UNAVAILABLE as error:
        if _is_misuse(error):
            raise
        raise DatabaseUnavailable(describe(error)) from error


def _is_misuse(error: BaseException) -> bool:
    # asyncpg calls two kinds of thing InterfaceError: a connection that went away, and an API used wrongly.
    if not isinstance(error, asyncpg.InterfaceError):
        return isinstance(error, _NEVER)
    if any(sign in str(error) for sign in ("closed", "closing", "terminated", "released", "lost", "not initialized")):
        return False
    # A server that ends in the middle of an answer leaves a connection on which "another operation is in progress":
    # the pool says so when it takes the connection back, and whoever tidies up after the first error says so again.
    tidying = any(
        frame.f_code.co_name == "release" and frame.f_code.co_filename.endswith("pool.py")
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )
    before = error.__context__
    return not tidying and not (isinstance(before, _UNAVAILABLE) and not _is_misuse(before))


def as_unavailable(error: BaseException) -> DatabaseUnavailable | None:
    """Return what `error` means where it says that the database is not able to now, None where it says otherwise."""
    try:
        with translated():
            raise error
    except DatabaseUnavailable as found:
        return found
    except BaseException:
        return None


def describe(error: BaseException) -> str:
    """Say in a few words what went wrong, without addresses or credentials."""
    if isinstance(error, asyncpg.PostgresError):
        return f"the database answered: {error.args[0] if error.args else type(error).__name__}"
    if isinstance(error, TimeoutError):
        return "the database did not answer in time"
    if isinstance(error, socket.gaierror):
        return "the database's host name is not known"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens at the database's address"
    if isinstance(error, OSError):
        return f"the database cannot be reached: {(error.strerror or type(error).__name__).lower()}"
    return "the connection to the database is gone"


async def prepare_connection(connection: asyncpg.Connection) -> None:
    """Make json and jsonb parameters and results Python objects (orjson)."""
    for name, prefix in (("json", b""), ("jsonb", b"\x01")):
        await connection.set_type_codec(
            name,
            schema="pg_catalog",
            format="binary",
            encoder=_encoder(prefix),
            decoder=_decoder(len(prefix)),
        )


def _encoder(prefix: bytes) -> Any:
    def encode(value: Any) -> bytes:
        return prefix + orjson.dumps(value)

    return encode


def _decoder(skip: int) -> Any:
    loads = orjson.loads  # for every row of a page

    def decode(value: bytes) -> Any:
        return loads(value[skip:])

    return decode if skip else loads


async def connect(url: str, **settings: str) -> asyncpg.Connection:
    """Open one connection outside a pool. Raises DatabaseUnavailable, SetupError."""
    try:
        with translated():
            return await asyncpg.connect(
                url, timeout=CONNECT_LIMIT_S, server_settings={"application_name": "threadline", **settings}
            )
    except (asyncpg.PostgresError, ValueError) as error:
        raise SetupError(_refused(error)) from error


class PooledConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that is taken and given back many times a second.

    Nothing here changes a session beyond its transaction (whoever must, takes it back: shared/log/postgres.py), so
    there is nothing to reset: asking the server to cost every reader and every batch a round trip.
    """

    def get_reset_query(self) -> str:
        """Return no query, where asyncpg would close, unlisten and reset all."""
        return ""


@asynccontextmanager
async def open_pool(settings: Settings, url: str, *, name: str = "threadline") -> AsyncIterator[asyncpg.Pool]:
    """Open the process's pool on the database at `url`; closed at the end of the context.

    Raises DatabaseUnavailable where nothing answers, SetupError where it refuses us (password, missing database).
    """
    pool = asyncpg.create_pool(
        url,
        connection_class=PooledConnection,
        min_size=1,
        max_size=settings.database_pool_size,
        max_inactive_connection_lifetime=300.0,
        command_timeout=settings.database_statement_timeout_s,
        timeout=CONNECT_LIMIT_S,
        statement_cache_size=512,
        max_cacheable_statement_size=64 * 1024,
        init=prepare_connection,
        server_settings={
            "application_name": name,
            "timezone": "UTC",
            # A process that froze inside a transaction must not hold its rows for ever.
            "idle_in_transaction_session_timeout": str(int(settings.database_idle_transaction_s * 1000)),
        },
    )
    try:
        with translated():
            await pool
    except (asyncpg.PostgresError, ValueError) as error:
        raise SetupError(_refused(error)) from error
    try:
        yield pool
    finally:
        try:
            await asyncio.wait_for(pool.close(), 5.0)
        except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            pool.terminate()  # the server is gone or somebody still holds a connection


def _refused(error: Exception) -> str:
    if isinstance(error, asyncpg.InvalidPasswordError | asyncpg.InvalidAuthorizationSpecificationError):
        return "the database refuses the user or password of THREADLINE_DATABASE_URL"
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return "the database named in THREADLINE_DATABASE_URL does not exist; create it first"
    if isinstance(error, asyncpg.PostgresError):
        return f"the database refuses the connection: {error.args[0] if error.args else type(error).__name__}"
    return "THREADLINE_DATABASE_URL is not a PostgreSQL address (postgresql://user:password@host:5432/name)"


@asynccontextmanager
async def tenant_reader(pool: asyncpg.Pool, tenant: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection in a read-only transaction that sees the rows of `tenant` and no others.

    Everything read inside comes from one snapshot. Raises DatabaseUnavailable.
    """
    with translated():
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.fetchval(BECOME_READER, tenant)
            yield connection


@asynccontextmanager
async def transaction(pool: asyncpg.Pool) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection in a transaction as the writer; commits at the end. Raises DatabaseUnavailable."""
    with translated():
        async with pool.acquire() as connection, connection.transaction():
            yield connection


async def check(pool: asyncpg.Pool, limit_s: float = 2.0) -> None:
    """Raise DatabaseUnavailable if the database does not answer within `limit_s` seconds."""
    with translated():
        async with asyncio.timeout(limit_s), pool.acquire(timeout=limit_s) as connection:
            await connection.fetchval("SELECT 1")
