"""Bring a database to the newest schema. Quick where there is nothing to do, and safe to start from many processes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import asyncpg

from shared.database.engine import connect, translated
from shared.errors import SetupError

MIGRATIONS = Path(__file__).parent / "migrations"

# Any constant; all processes of Threadline on one database take the same.
LOCK = "SELECT pg_advisory_lock(7302041655123)"
UNLOCK = "SELECT pg_advisory_unlock(7302041655123)"
CURRENT = "SELECT version_num FROM public.alembic_version"

OLDEST_SERVER = 16


@cache
def head() -> str:
    """Return the newest revision: migrations are one chain, numbered in their file names (a test checks that)."""
    return max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


async def current(connection: asyncpg.Connection) -> str | None:
    """Return the revision that the database is at, None for an empty one."""
    try:
        found: str | None = await connection.fetchval(CURRENT)
    except asyncpg.UndefinedTableError:
        return None
    return found


async def migrate(url: str) -> bool:
    """Bring the database at `url` to `head()`; return whether there was anything to do.

    All pending migrations are one transaction: they happen whole or not at all. Who comes second waits for the first.
    Raises DatabaseUnavailable, SetupError (too old a server, missing rights, a database from a newer Threadline).
    """
    connection = await connect(url)
    try:
        with translated():
            if await _is_current(connection):
                return False
            _check_server(connection)
            await connection.execute(LOCK)
            try:
                if await _is_current(connection):
                    return False
                await _upgrade(url)
                return True
            finally:
                await connection.execute(UNLOCK)
    finally:
        await connection.close(timeout=5)


async def _is_current(connection: asyncpg.Connection) -> bool:
    found = await current(connection)
    if found is not None and found > head():
        raise SetupError(
            f"the database is at revision {found}, newer than this Threadline ({head()}); upgrade Threadline"
        )
    return found == head()


def _check_server(connection: asyncpg.Connection) -> None:
    version = connection.get_server_version()
    if version.major < OLDEST_SERVER:
        raise SetupError(f"the server is PostgreSQL {version.major}, Threadline needs {OLDEST_SERVER} or later")


async def _upgrade(url: str) -> None:
    # Both are slow to import and needed only when there is something to do.
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import Connection
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    def run(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    # asyncpg reads the address itself, so that an address means the same here and in the pool.
    engine = create_async_engine("postgresql+asyncpg://", poolclass=NullPool, async_creator=lambda: connect(url))
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
            await connection.commit()
    except (asyncpg.InsufficientPrivilegeError, DBAPIError) as error:
        # Our own scripts fail with asyncpg's error, Alembic's statements with it inside SQLAlchemy's.
        cause = error if isinstance(error, asyncpg.PostgresError) else error.orig and error.orig.__cause__
        if not isinstance(cause, asyncpg.InsufficientPrivilegeError):
            raise
        raise SetupError(
            f"the database user may not migrate: {cause.args[0]}; it needs to own the database and to have CREATEROLE "
            "(or an administrator makes the role threadline_reader and grants it)"
        ) from error
    finally:
        await engine.dispose()
