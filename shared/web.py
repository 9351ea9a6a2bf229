"""The HTTP application of a process: the services' routes, health, and what holds for every request.

What holds for every request stands in one ASGI middleware, `Guard`: the body is no larger than its route takes, no
exception gets out as anything but a problem, security headers are on the answer, its time is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI, Request, Response
from prometheus_client import Histogram
from starlette.exceptions import HTTPException
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import auth, pages, problems
from shared.database import engine
from shared.database.migrate import current, head
from shared.errors import Retryable, ThreadlineError
from shared.scrape import of_the_process, scrape_router
from shared.service import Door, Platform, Service
from shared.telemetry import HttpMetrics, logger

BODY_LIMIT_BYTES = 5 * 1024 * 1024
READY_LIMIT_S = 3.0
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    # For answers that are no pages; a page sets its own.
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    # Answers are about persons.
    "cache-control": "no-store",
}


def create_app(platform: Platform, services: Sequence[Service], title: str = "Threadline") -> FastAPI:
    """Return the application of `services`: their routes, `/v1/session`, `/metrics`, `/healthz`, `/readyz` and
    `/openapi.json`."""
    app = FastAPI(
        title=title,
        version=_version(),
        description="One customer on one timeline, over every channel, with KPIs that are exact while they stream.",
        docs_url=None,  # the interactive page would load scripts from elsewhere, which the pages' policy forbids
        redoc_url=None,
        responses={
            "4XX": {"description": "What was wrong, where, and what to do", "content": {problems.MEDIA_TYPE: {}}},
            "503": {"description": "Not available now; see Retry-After", "content": {problems.MEDIA_TYPE: {}}},
        },
    )
    app.state.platform = platform
    app.state.auth = platform.auth
    problems.install(app)
    # Routes are tried in this order for every request: those of the services first.
    for service in services:
        app.include_router(service.router)
    if not any(service.scraped for service in services):
        app.include_router(scrape_router(platform, "Metrics of this process for Prometheus", of_the_process(platform)))
    app.include_router(auth.router)
    if any(service.pages for service in services):
        app.include_router(pages.pages_router())
    _add_health(app, platform, services)
    limits = {prefix: limit for service in services for prefix, limit in service.body_limits.items()}
    doors = [door for service in services for door in service.doors]
    app.add_middleware(Guard, limits=limits, metrics=HttpMetrics(platform.registry), doors=doors)
    return app


def _version() -> str:
    try:
        return version("threadline")
    except PackageNotFoundError:
        return "0"


# Health --------------------------------------------------------------------------------------------------------------


def _add_health(app: FastAPI, platform: Platform, services: Sequence[Service]) -> None:
    # Load balancers ask with HEAD, too.
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["health"], summary="The process is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", tags=["health"], summary="The process can do its work")
    async def readyz() -> Response:
        found = await faults(platform, services)
        if not found:
            return Response(b'{"status":"ready"}', media_type="application/json")
        said = "; ".join(f"{name}: {fault}" for name, fault in sorted(found.items()))
        retry = {"Retry-After": str(problems.RETRY_AFTER_S)}
        return problems.Problem(503, "Not ready", said, headers=retry, faults=found).response()


async def faults(platform: Platform, services: Sequence[Service]) -> dict[str, str]:
    """Return what keeps the process from its work, by name: empty when it is ready."""

    async def database() -> Mapping[str, str]:
        await engine.check(platform.pool, READY_LIMIT_S)
        return {}

    async def migrations() -> Mapping[str, str]:
        with engine.translated():
            async with platform.pool.acquire(timeout=READY_LIMIT_S) as connection:
                found = await current(connection)
        return {} if found == head() else {"migrations": f"the database is at {found}, this Threadline needs {head()}"}

    async def log() -> Mapping[str, str]:
        await platform.log.check()
        return {}

    checks: list[tuple[str, Callable[[], Awaitable[Mapping[str, str]]]]] = [
        ("database", database),
        ("migrations", migrations),
        ("log", log),
        *((service.name, ready) for service in services for ready in service.ready),
    ]
    merged: dict[str, str] = {}
    for found in await asyncio.gather(*(_fault(name, check) for name, check in checks)):
        merged.update(found)
    return merged


async def _fault(name: str, check: Callable[[], Awaitable[Mapping[str, str]]]) -> Mapping[str, str]:
    try:
        async with asyncio.timeout(READY_LIMIT_S):
            return await check()
    except TimeoutError:
        return {name: f"did not answer within {READY_LIMIT_S:.0f} s"}
    except ThreadlineError as error:
        return {name: str(error)}
    except Exception as error:
        _log_bug(error, f"readiness of {name}")
        return {name: "the check failed; see the log"}


# Every request -------------------------------------------------------------------------------------------------------


# As ASGI has them: names in lower case.
_RAW_SECURITY_HEADERS = tuple((name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items())
_SECURITY_NAMES = frozenset(name for name, _ in _RAW_SECURITY_HEADERS)


class TooLarge(HTTPException):
    """The body grew above its limit while it was read.

    An HTTPException, because FastAPI takes any other error while it reads a body for a malformed one.
    """

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(413, f"the request body is larger than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class Guard:
    """ASGI middleware with what holds for every request. `limits`: path prefix → most bytes of a body.

    Requests for one of `doors` go there straight from here.
    """

    def __init__(
        self, app: ASGIApp, *, limits: Mapping[str, int], metrics: HttpMetrics, doors: Sequence[Door] = ()
    ) -> None:
        self._app = app
        self._doors = [(door.path.partition("{")[0], compile_path(door.path)[0], door) for door in doors]
        self._limits = sorted(limits.items(), key=lambda item: -len(item[0]))
        self._metrics = metrics
        self._observers: dict[tuple[str, str, int], Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        status = 500
        started = False

        async def secured(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                headers = message.get("headers", ())
                own = _SECURITY_NAMES.intersection([name for name, _ in headers])
                ours = [pair for pair in _RAW_SECURITY_HEADERS if pair[0] not in own] if own else _RAW_SECURITY_HEADERS
                message["headers"] = [*headers, *ours]
            await send(message)

        try:
            limit = self._limit_of(scope["path"])
            if _declared_length(scope) > limit:
                await problems.too_large(limit).response()(scope, receive, secured)
            elif (door := self._door(scope)) is not None:
                limited = _limited(receive, limit)
                answer = await door.handle(Request(scope, limited))
                await answer(scope, limited, secured)
            else:
                await self._app(scope, _limited(receive, limit), secured)
        except asyncio.CancelledError:
            if started:
                raise
            # The server is being stopped and has no more patience (a caller who goes away cancels nothing).
            await problems.unavailable("the server is being stopped; send it again").response()(scope, receive, secured)
        except Exception as error:
            problem = _answer_to(error, scope)
            if started:
                raise  # half an answer is out: only breaking the connection tells the caller
            await problem.response()(scope, receive, secured)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self._observe(scope["method"], route, status // 100, time.perf_counter() - begin)
            if status in (401, 403):
                self._metrics.refused.labels(str(status)).inc()

    def _door(self, scope: Scope) -> Door | None:
        """Return the door that a request is for, its parameters told in the scope as the router tells them."""
        path = scope["path"]
        for prefix, whole, door in self._doors:
            if path.startswith(prefix) and scope["method"] == door.method and (found := whole.match(path)):
                scope["path_params"] = found.groupdict()
                scope["route"] = door
                return door
        return None

    def _observe(self, method: str, route: str, status_class: int, seconds: float) -> None:
        # Looking up a labelled metric costs as much as all the rest here.
        key = (method, route, status_class)
        metric = self._observers.get(key)
        if metric is None:
            if method not in METHODS:
                method = "other"  # whatever a caller invents: the number of series stays bounded
            metric = self._metrics.seconds.labels(method, route, f"{status_class}xx")
            if method in METHODS:
                self._observers[key] = metric
        metric.observe(seconds)

    def _limit_of(self, path: str) -> int:
        for prefix, limit in self._limits:
            if path.startswith(prefix):
                return limit
        return BODY_LIMIT_BYTES


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _limited(receive: Receive, limit_bytes: int) -> Receive:
    read_bytes = 0

    async def counted() -> Message:
        nonlocal read_bytes
        message = await receive()
        if message["type"] == "http.request":
            read_bytes += len(message.get("body", b""))
            if read_bytes > limit_bytes:
                raise TooLarge(limit_bytes)
        return message

    return counted


def _answer_to(error: Exception, scope: Scope) -> problems.Problem:
    if isinstance(error, problems.Problem):
        return error
    if isinstance(error, TooLarge):
        return problems.too_large(error.limit_bytes)
    meant = error if isinstance(error, Retryable) else engine.as_unavailable(error)
    if meant is not None:
        logger().warning("not available", path=scope["path"], error=str(meant))
        return problems.unavailable()
    _log_bug(error, f"{scope['method']} {scope['path']}")
    return problems.Problem(500, "Internal error", "something is wrong here; the log of the server says what")


def _log_bug(error: Exception, where: str) -> None:
    logger().error("a bug", where=where, exc_info=error)
