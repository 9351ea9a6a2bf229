"""`threadline migrate`, `settings` and `doctor`."""

from __future__ import annotations

import asyncio
import platform as machine
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from services.cli.platform import DataOption, reach_database
from shared import directory
from shared.database import embedded
from shared.database import migrate as migrations
from shared.database.engine import connect
from shared.errors import SetupError, ThreadlineError
from shared.settings import Settings, describe, load, unknown_variables


def migrate(data: DataOption = None) -> None:
    """Bring the database to the newest schema. Safe to repeat, and while others do the same."""
    with reach_database(load(data=data), "migrate") as reached:
        did = asyncio.run(migrations.migrate(reached.settings.dsn()))
    print(f"{'migrated to' if did else 'already at'} revision {migrations.head()}")


def settings(
    data: DataOption = None,
    only_set: Annotated[bool, typer.Option("--set", help="Only what is set.")] = False,
) -> None:
    """Print every setting: variable, what is in force, default, unit and meaning. Secrets are starred out."""
    for setting in describe(load(data=data)):
        if only_set and not setting.is_set:
            continue
        print(f"{setting.variable}={setting.value if setting.value != 'unset' else ''}")
        print(f"    {setting.meaning} [{setting.unit}; default: {setting.default}]")


def doctor(data: DataOption = None) -> None:
    """Look at everything Threadline needs here, say what is wrong with it, and exit 1 if anything is."""
    found = load(data=data)
    faults = 0
    for name, check in _checks(found):
        try:
            print(f"ok     {name}: {check()}")
        except ThreadlineError as error:
            faults += 1
            print(f"FAULT  {name}: {' '.join(str(error).split())}")
    if faults:
        raise SetupError(f"{faults} of the checks above failed")


def _checks(found: Settings) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "Python", lambda: f"{machine.python_version()} on {sys.platform}"
    yield "settings", _check_variables
    yield "data directory", lambda: str(directory.prepare(found.data))
    if found.database_url is None:
        yield "PostgreSQL programs", lambda: f"version {embedded.find_binaries(found.postgres_bin).major}"
    elif found.secret_key is None:
        yield "secret key", _no_secret
    yield "database", lambda: _check_database(found)
    if found.kafka is not None:
        yield "Kafka", lambda: _check_kafka(found)
    yield "address to listen on", lambda: _check_port(found)


def _check_variables() -> str:
    unknown = unknown_variables()
    if unknown:
        raise SetupError(f"no such setting: {', '.join(unknown)} (`threadline settings` lists them all)")
    return "every THREADLINE_ variable is known"


def _no_secret() -> str:
    raise SetupError("THREADLINE_SECRET_KEY is needed with THREADLINE_DATABASE_URL")


def _check_database(found: Settings) -> str:
    async def ask(url: str) -> str:
        connection = await connect(url)
        try:
            version = connection.get_server_version()
            at = await migrations.current(connection)
        finally:
            await connection.close(timeout=5)
        if at is None:
            return f"PostgreSQL {version.major}, empty: `up` or `threadline migrate` makes the schema"
        if at != migrations.head():
            raise SetupError(f"it is at revision {at}, this Threadline needs {migrations.head()}: `threadline migrate`")
        return f"PostgreSQL {version.major} at revision {at}"

    with reach_database(found, "doctor") as reached:
        return asyncio.run(ask(reached.settings.dsn()))


def _check_kafka(found: Settings) -> str:
    assert found.kafka is not None
    for address in found.kafka.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=3).close()
        except (OSError, ValueError) as error:
            raise SetupError(f"the broker {address.strip()} of THREADLINE_KAFKA cannot be reached: {error}") from error
    return f"reached {found.kafka}"


def _check_port(found: Settings) -> str:
    from services.cli.serve import listening

    held = directory.holder_of(directory.prepare(found.data))
    try:
        with listening(found.host, found.port):
            return f"{found.host} port {found.port} is free"
    except SetupError:
        if held is not None and held.command == "up":
            return f"{found.host} port {found.port} is taken, and Threadline runs here (pid {held.pid})"
        raise
