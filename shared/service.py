"""What a service is made of, and what all services are given.

Each service has one composition root, `services/<name>/app.py`, with `async def build(platform, stack) -> Service`.
`threadline up` builds all three into one process; `threadline ingest` and its siblings build one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shared.accepted import Accepted
from shared.log.precedence import Precedence

if TYPE_CHECKING:
    import asyncpg
    from fastapi import APIRouter, Request, Response
    from prometheus_client import CollectorRegistry

    from shared.auth import Authenticator
    from shared.clock import Clock
    from shared.log.metrics import LogMetrics
    from shared.log.protocol import Log
    from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Platform:
    """Everything that services share, opened once per process by the command and passed by argument."""

    settings: Settings
    clock: Clock
    pool: asyncpg.Pool
    log: Log
    auth: Authenticator
    registry: CollectorRegistry
    secret_key: bytes = field(repr=False)
    """The installation's 32 bytes: entry ids are keyed with it, channel secrets sealed."""
    log_metrics: LogMetrics
    """What all consumers of this process count."""
    accepted: Accepted = field(default_factory=Accepted)
    """What this process accepted and the consumer has not taken yet."""
    precedence: Precedence = field(default_factory=Precedence)
    """Who of this process goes first."""


Ready = Callable[[], Awaitable[Mapping[str, str]]]
"""Returns the faults found by name, empty when able to work (e.g. {"log": "broker not reached"})."""


@dataclass(frozen=True, slots=True)
class Door:
    """A way in beside the framework's routing, for requests that come by the thousand.

    `path` is a route's, with its parameters in braces; what does not fit it takes the usual way. The route stays in the
    router: it describes the door, and answers other methods.
    """

    method: str
    path: str
    handle: Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Service:
    """One service, built and not yet running."""

    name: str
    router: APIRouter
    background: Sequence[Callable[[], Awaitable[Any]]] = ()
    """Loops that run for the life of the process; one that raises stops the process."""
    ready: Sequence[Ready] = field(default_factory=tuple)
    body_limits: Mapping[str, int] = field(default_factory=dict)
    """Path prefix → most bytes of a request's body below it; the longest prefix wins, without one it is 5 MiB."""
    doors: Sequence[Door] = ()
    pages: Mapping[str, str] = field(default_factory=dict)
    """Pages for people: title → path, printed by `threadline up`."""
    scraped: bool = False
    """Whether its router has `GET /metrics`, with what the process counts in it. Else the process adds it."""
