"""What holds for every request: limits, problems without secrets, security headers, health."""

from __future__ import annotations

import io
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import asyncpg
import httpx
import orjson
import pytest
from fastapi import APIRouter, Query, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel

from shared.auth import Authenticator
from shared.clock import SystemClock
from shared.errors import LogUnavailable
from shared.keys import create_key
from shared.log.metrics import LogMetrics
from shared.problems import Fault, Problem, from_validation, not_found, pointer
from shared.service import Door, Platform, Service
from shared.settings import Settings
from shared.telemetry import catalogue, configure_logging, logger, without_secrets
from shared.web import BODY_LIMIT_BYTES, create_app

SECRET = "tl_" + "s3cr3t" * 8


class Body(BaseModel):
    name: str
    count: int


class FakeLog:
    """A log that is there or not: only `check` matters here."""

    away = False

    async def check(self) -> None:
        if self.away:
            raise LogUnavailable("no broker was reached")


router = APIRouter()


@router.post("/body")
async def take_body(body: Body, limit: Annotated[int, Query(ge=1)] = 1) -> Body:
    return body


@router.post("/raw")
@router.post("/large/raw")
async def take_raw(request: Request) -> dict[str, int]:
    return {"length": len(await request.body())}


@router.get("/fails/{how}")
async def fail(how: str) -> Response:
    errors: dict[str, Exception] = {
        "bug": ValueError(f"the key {SECRET} is wrong"),
        "sql": asyncpg.UniqueViolationError("duplicate key value violates unique constraint on ann@example.com"),
        "log": LogUnavailable("broker 10.0.0.1 away"),
        "database": asyncpg.CannotConnectNowError("the database system is shutting down"),
        "connection": ConnectionRefusedError(111, "10.0.0.1"),
        "problem": Problem(
            422,
            "Not valid",
            "some of it is wrong",
            errors=[Fault("#/17/data/channel", "is missing")],
            headers={"X": "y"},
        ),
        "missing": not_found("customer"),
    }
    raise errors[how]


async def fail_behind_the_door(request: Request) -> Response:
    return await fail(request.path_params["how"])


async def take_behind_the_door(request: Request) -> Response:
    return Response(f"{request.path_params['who']} {len(await request.body())}")


DOORS = [Door("GET", "/door/{how}", fail_behind_the_door), Door("POST", "/door/for/{who}", take_behind_the_door)]


@router.get("/page")
async def page() -> Response:
    return Response("<p>", media_type="text/html", headers={"Content-Security-Policy": "default-src 'self'"})


@pytest.fixture
def log() -> FakeLog:
    return FakeLog()


@pytest.fixture
def platform(pool: asyncpg.Pool, settings: Settings, log: FakeLog) -> Platform:
    registry = CollectorRegistry()
    return Platform(
        settings,
        SystemClock(),
        pool,
        log,  # type: ignore[arg-type]
        Authenticator(pool),
        registry,
        b"k" * 32,
        LogMetrics(registry),
    )


@pytest.fixture
async def client(platform: Platform) -> AsyncIterator[httpx.AsyncClient]:
    service = Service("one", router, body_limits={"/large/": 2 * BODY_LIMIT_BYTES}, doors=DOORS)
    app = create_app(platform, [service])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://threadline") as opened:
        yield opened


@pytest.fixture
def log_lines() -> Iterator[io.StringIO]:
    """What the process writes to its log."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    configure_logging("info")
    written = io.StringIO()
    root.handlers[0].setStream(written)  # type: ignore[attr-defined]
    yield written
    root.handlers[:], root.level = before, level


async def _chunks(total_bytes: int) -> AsyncIterator[bytes]:
    for _ in range(total_bytes // 65536):
        yield b"x" * 65536


async def test_body_above_the_limit_is_413_whether_announced_or_not(client: httpx.AsyncClient) -> None:
    for content in (b"x" * (BODY_LIMIT_BYTES + 1), _chunks(BODY_LIMIT_BYTES + 65536)):
        answer = await client.post("/raw", content=content)
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
        assert str(BODY_LIMIT_BYTES) in answer.json()["detail"]
    answer = await client.post("/body", content=_chunks(BODY_LIMIT_BYTES + 65536))
    assert answer.status_code == 413, "also where FastAPI reads the body"


async def test_body_at_the_limit_is_taken_and_a_path_may_have_its_own(client: httpx.AsyncClient) -> None:
    answer = await client.post("/raw", content=b"x" * BODY_LIMIT_BYTES)
    assert answer.json() == {"length": BODY_LIMIT_BYTES}
    answer = await client.post("/large/raw", content=b"x" * 2 * BODY_LIMIT_BYTES)
    assert answer.json() == {"length": 2 * BODY_LIMIT_BYTES}
    assert (await client.post("/large/raw", content=b"x" * (2 * BODY_LIMIT_BYTES + 1))).status_code == 413


async def test_invalid_fields_are_pointed_at(client: httpx.AsyncClient) -> None:
    answer = await client.post("/body?limit=0", json={"count": "many"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert {fault["pointer"] for fault in answer.json()["errors"]} == {"#/name", "#/count", "#/query/limit"}
    assert all(fault["detail"] for fault in answer.json()["errors"])


async def test_body_that_is_not_json_is_400(client: httpx.AsyncClient) -> None:
    answer = await client.post("/body", content=b"{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["title"]) == (400, "Not JSON")


def test_pointers_are_escaped() -> None:
    assert pointer(("body", 17, "a/b", "c~d")) == "#/17/a~1b/c~0d"
    assert pointer(("body",)) == "#"
    assert pointer(("body", "rules", "monday", "[key]")) == "#/rules/monday"
    assert from_validation([{"type": "missing", "loc": ("body", "a"), "msg": "needed"}]).status == 422


async def test_what_fits_a_door_goes_there_and_everything_else_its_usual_way(
    client: httpx.AsyncClient, platform: Platform
) -> None:
    answer = await client.post("/door/for/ann%20b", content=b"123")
    assert (answer.status_code, answer.text) == (200, "ann b 3")
    assert answer.headers["x-content-type-options"] == "nosniff"
    for content in (b"x" * (BODY_LIMIT_BYTES + 1), _chunks(BODY_LIMIT_BYTES + 65536)):
        assert (await client.post("/door/for/ann", content=content)).status_code == 413
    assert (await client.put("/door/for/ann")).status_code == 404
    for path in ("/door/for/", "/door/for/ann/", "/door/for/ann/b"):
        assert (await client.post(path)).status_code == 404
    text = generate_latest(platform.registry).decode()
    assert 'threadline_http_request_seconds_count{method="POST",route="/door/for/{who}",status="2xx"} 1.0' in text


@pytest.mark.parametrize("way", ["/fails", "/door"])
@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("bug", 500),
        ("sql", 500),
        ("log", 503),
        ("database", 503),
        ("connection", 503),
        ("problem", 422),
        ("missing", 404),
    ],
)
async def test_every_failure_is_a_problem_that_tells_nothing_inside(
    client: httpx.AsyncClient, log_lines: io.StringIO, way: str, how: str, status: int
) -> None:
    answer = await client.get(f"{way}/{how}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status and body["title"] and body["type"]
    for inside in (SECRET, "ann@example.com", "10.0.0.1", "Traceback", "constraint", ".py", "Error"):
        assert inside not in answer.text
    for secret in (SECRET, "ann@example.com"):
        assert secret not in log_lines.getvalue()
    if status == 503:
        assert int(answer.headers["retry-after"]) > 0
    if status == 500:
        line = orjson.loads(log_lines.getvalue().splitlines()[-1])
        assert line["kind"] in ("ValueError", "UniqueViolationError")
        assert any("fail" in frame for frame in line["frames"]), "the log says where"


async def test_problem_says_what_where_and_more(client: httpx.AsyncClient) -> None:
    answer = await client.get("/fails/problem")
    assert answer.json() == {
        "type": "about:blank",
        "title": "Not valid",
        "status": 422,
        "detail": "some of it is wrong",
        "errors": [{"pointer": "#/17/data/channel", "detail": "is missing"}],
    }
    assert answer.headers["x"] == "y"


async def test_unknown_paths_and_methods_are_problems_too(client: httpx.AsyncClient) -> None:
    for answer, status in ((await client.get("/nowhere"), 404), (await client.put("/body"), 405)):
        assert (answer.status_code, answer.json()["status"]) == (status, status)
        assert answer.headers["content-type"] == "application/problem+json"


async def test_answers_carry_security_headers_and_pages_their_own_policy(client: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/fails/bug", "/nowhere"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["cache-control"] == "no-store"
    assert (await client.get("/page")).headers.get_list("content-security-policy") == ["default-src 'self'"]


async def test_ready_only_while_log_and_database_answer_and_migrations_are_current(
    client: httpx.AsyncClient, platform: Platform, log: FakeLog
) -> None:
    assert (await client.get("/readyz")).status_code == 200
    assert [(await client.head(path)).status_code for path in ("/healthz", "/readyz")] == [200, 200]
    log.away = True
    assert (await client.head("/readyz")).status_code == 503
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["faults"] == {"log": "no broker was reached"}
    assert "retry-after" in answer.headers
    log.away = False
    await platform.pool.execute("UPDATE alembic_version SET version_num = '0001'")
    assert set((await client.get("/readyz")).json()["faults"]) == {"migrations"}
    assert (await client.get("/healthz")).status_code == 200


async def test_database_that_is_away_is_a_fault_and_the_process_stays_alive(
    client: httpx.AsyncClient, platform: Platform
) -> None:
    platform.pool.terminate()
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert set(answer.json()["faults"]) == {"database", "migrations"}
    assert (await client.get("/healthz")).status_code == 200


async def test_process_without_the_metrics_service_shows_what_it_counts_to_who_may_scrape(
    client: httpx.AsyncClient, platform: Platform
) -> None:
    async with platform.pool.acquire() as connection:
        may = await create_key(connection, "acme", ["metrics:read"])
        may_not = await create_key(connection, "acme", ["kpis:read"])

    async def scrape(key: str | None, accept: str = "") -> httpx.Response:
        bearer = {} if key is None else {"authorization": f"Bearer {key}"}
        return await client.get("/metrics", headers={"accept": accept, **bearer})

    await client.get("/fails/missing")
    answer = await scrape(may)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'threadline_http_request_seconds_count{method="GET",route="/fails/{how}",status="4xx"} 1.0' in answer.text
    open_metrics = await scrape(may, "application/openmetrics-text")
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")
    assert ((await scrape(may_not)).status_code, (await scrape(None)).status_code) == (403, 401)


async def test_requests_are_measured_by_route_not_by_path(client: httpx.AsyncClient, platform: Platform) -> None:
    for how in ("missing", "problem"):
        await client.get(f"/fails/{how}")
    await client.get("/nowhere/ann@example.com")
    text = generate_latest(platform.registry).decode()
    assert 'threadline_http_request_seconds_count{method="GET",route="/fails/{how}",status="4xx"} 2.0' in text
    assert "ann@example.com" not in text


async def test_refused_keys_are_counted(client: httpx.AsyncClient, platform: Platform) -> None:
    await client.post("/v1/session", json={"key": SECRET})
    assert 'threadline_http_refused_total{status="401"} 1.0' in generate_latest(platform.registry).decode()


async def test_every_metric_has_a_meaning(platform: Platform) -> None:
    create_app(platform, [])
    found = catalogue(platform.registry)
    assert found
    for metric in found:
        assert metric["name"].startswith("threadline_")
        assert metric["meaning"].endswith(".")


async def test_api_description_names_the_key(client: httpx.AsyncClient) -> None:
    description = (await client.get("/openapi.json")).json()
    assert description["info"]["title"] == "Threadline"
    assert "/v1/session" in description["paths"]


def test_an_error_that_a_library_logs_is_told_by_kind_and_place_without_its_text(log_lines: io.StringIO) -> None:
    try:
        raise LookupError("what a customer wrote")
    except LookupError:
        logging.getLogger("some.library").warning("tried in vain; retrying", exc_info=True)
    line = orjson.loads(log_lines.getvalue())
    assert (line["event"], line["kind"]) == ("tried in vain; retrying", "LookupError")
    assert line["frames"][-1].endswith("test_an_error_that_a_library_logs_is_told_by_kind_and_place_without_its_text")
    assert "wrote" not in log_lines.getvalue() and "Traceback" not in log_lines.getvalue()


def test_log_lines_are_json_without_secrets(log_lines: io.StringIO) -> None:
    logger().info("hello", key=SECRET, note=f"Bearer {SECRET}", url="postgresql://me:hunter2@db/x", password="hunter2")
    logging.getLogger("other").warning("connect to %s", "postgresql://me:hunter2@db/x")
    for line in log_lines.getvalue().splitlines():
        assert orjson.loads(line)["at"].endswith("Z")
    assert SECRET not in log_lines.getvalue()
    assert "hunter2" not in log_lines.getvalue()
    assert without_secrets("Authorization: Basic dXNlcjpwYXNz") == "Authorization: Basic ***"
