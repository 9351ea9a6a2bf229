"""What a command works on: the data directory, a database that answers, and the platform that services share."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import SecretStr

from shared import directory
from shared.database import embedded
from shared.errors import SetupError
from shared.settings import NO_SEALING_KEY, Settings, load
from shared.telemetry import configure_logging

if TYPE_CHECKING:
    from shared.service import Platform

T = TypeVar("T")

PATIENCE_S = 30.0
"""How long a command waits for another that is soon done with the same directory."""

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Data directory (THREADLINE_DATA, else ./.threadline).", show_default=False),
]


@dataclass(frozen=True, slots=True)
class Reached:
    """A database that a command can use: settings with its URL, and the embedded server where this process runs it."""

    settings: Settings
    server: embedded.Server | None = None


def quiet_settings(data: Path | None) -> Settings:
    """Return the settings for a command that only prints its result, or one line that says why there is none."""
    configure_logging("error", json_lines=False)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it cannot do is raised, too
    return load(data=data)


def on_database(
    settings: Settings, command: str, work: Callable[[Settings], Coroutine[Any, Any, T]], *, begun: bool = False
) -> T:
    """Do `work` with settings whose database answers, and which have their secret key. Raises SetupError.

    `begun` is that of `reach_database`.
    """
    with reach_database(settings, command, begun=begun) as reached:
        return asyncio.run(work(with_secret(reached.settings, database_is_ours=settings.database_url is None)))


@contextmanager
def reach_database(
    settings: Settings,
    command: str,
    *,
    lasting: bool = False,
    alone: bool = False,
    begun: bool = False,
    checkpoint: Callable[[], None] = lambda: None,
) -> Iterator[Reached]:
    """Make the database answer inside the context: the configured one, the running embedded one, or one started here.

    With `alone`, the data directory must be held by nobody else, whatever the database; with `begun`, it is not made:
    what looks after data would find all well in a folder that a typing error named. Raises SetupError, and what
    `checkpoint` raises, which is called between the slow steps of starting one.
    """
    if begun and settings.database_url is None and not embedded.is_begun(settings.data):
        raise SetupError(
            f"there is no database in {settings.data}; give the --data of the `threadline up` that is meant"
        )
    if settings.database_url is not None and not alone:
        yield Reached(settings)
        return
    folder = directory.prepare(settings.data)
    with ExitStack() as stack:
        url = _offered_by_holder(folder, command, lasting, alone, stack)
        if url is not None:
            yield Reached(_at(settings, url))
        elif settings.database_url is not None:
            yield Reached(settings)
        else:
            running = embedded.running(folder, binaries=settings.postgres_bin, checkpoint=checkpoint)
            server = stack.enter_context(running)
            yield Reached(_at(settings, server.url), server)


def _offered_by_holder(folder: Path, command: str, lasting: bool, alone: bool, stack: ExitStack) -> str | None:
    """Return the database that the holder of `folder` offers; None where `folder` is now held by us, with `stack`."""
    if not alone and (url := directory.offered(folder)) is not None:
        return url
    try:
        stack.enter_context(directory.hold(folder, command, lasting=lasting, patience_s=PATIENCE_S))
    except directory.DirectoryHeld:
        url = None if alone else directory.await_offer(folder, PATIENCE_S)
        if url is None:
            raise
        return url
    return None


def _at(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={"database_url": SecretStr(url)})


def with_secret(settings: Settings, *, database_is_ours: bool) -> Settings:
    """Return `settings` with a secret key: the given one, or DIR/secret.key beside an embedded database.

    Raises SetupError where the database was given without it: another process would seal with another key.
    """
    if settings.secret_key is not None:
        return settings
    if not database_is_ours:
        raise SetupError(NO_SEALING_KEY)
    key = directory.secret_key(directory.prepare(settings.data))
    return settings.model_copy(update={"secret_key": SecretStr(base64.b64encode(key).decode())})


async def open_platform(settings: Settings, stack: AsyncExitStack, *, name: str) -> Platform:
    """Open what services share, closed with `stack`, on a database that is migrated.

    `settings` has the database's URL and the secret key. Raises SetupError, Retryable.
    """
    # Here, because a command that only reaches the database starts in half the time without them.
    from prometheus_client import CollectorRegistry

    from shared.auth import Authenticator
    from shared.clock import SystemClock
    from shared.database.engine import open_pool
    from shared.log.metrics import LogMetrics
    from shared.log.open import open_log
    from shared.service import Platform

    pool = await stack.enter_async_context(open_pool(settings, settings.dsn(), name=name))
    registry = CollectorRegistry()
    metrics = LogMetrics(registry)
    log = await open_log(settings, pool, stack, metrics)
    authenticator = Authenticator(
        pool, grace_s=settings.auth_grace_s, session_s=settings.session_s, public_origin=_origin(settings.public_url)
    )
    return Platform(settings, SystemClock(), pool, log, authenticator, registry, settings.secret(), metrics)


def _origin(url: str | None) -> str | None:
    return "/".join(url.split("/")[:3]) if url else None
