"""Keys and sessions against a real database, with clocks that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import asyncpg
import httpx
import pytest
from fastapi import Depends, FastAPI, Request

from shared import auth, keys, problems
from shared.auth import Authenticator, Principal, require
from shared.database.engine import open_pool
from shared.errors import DatabaseUnavailable, SetupError
from shared.settings import Settings
from shared.telemetry import HttpMetrics
from shared.web import Guard


class Clocks:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.start = datetime.now(UTC).timestamp()

    def monotonic(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return self.start + self.seconds


class Counting:
    """A pool that counts what is asked of the real one, and can be cut off."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool
        self.asked = 0
        self.away = False

    async def fetchrow(self, *arguments: object) -> object:
        self.asked += 1
        if self.away:
            raise ConnectionRefusedError
        return await self.pool.fetchrow(*arguments)

    async def execute(self, *arguments: object) -> object:
        if self.away:
            raise ConnectionRefusedError
        return await self.pool.execute(*arguments)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def counting(pool: asyncpg.Pool) -> Counting:
    return Counting(pool)


@pytest.fixture
def authenticator(counting: Counting, clocks: Clocks) -> Authenticator:
    return Authenticator(counting, grace_s=60, monotonic=clocks.monotonic, wall=clocks.wall)


async def _create(pool: asyncpg.Pool, tenant: str = "acme", *scopes: str, **more: object) -> str:
    async with pool.acquire() as connection:
        return await keys.create_key(connection, tenant, scopes or ("events:write",), **more)


async def _revoke(pool: asyncpg.Pool, key: str) -> None:
    async with pool.acquire() as connection:
        await keys.revoke_key(connection, key)


async def _settled(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 background refreshes give no sign of their end
            await asyncio.sleep(0.001)


# Keys -----------------------------------------------------------------------------------------------------------------


async def test_key_is_stored_only_as_a_hash(pool: asyncpg.Pool) -> None:
    key = await _create(pool)
    assert key.startswith("tl_") and len(key) >= 3 + 43
    row = str(tuple(await pool.fetchrow("SELECT * FROM auth.api_key")))
    assert key not in row and key[3:] not in row


async def test_new_key_works_at_once_also_if_it_was_tried_a_moment_before_another(
    pool: asyncpg.Pool, authenticator: Authenticator
) -> None:
    assert await authenticator.principal_of(keys.new_key()) is None
    found = await authenticator.principal_of(await _create(pool, "acme", "kpis:read", "privacy"))
    assert found is not None
    assert (found.tenant, found.scopes) == ("acme", {"kpis:read", "privacy"})


async def test_known_key_needs_no_database(
    pool: asyncpg.Pool, authenticator: Authenticator, counting: Counting, clocks: Clocks
) -> None:
    key = await _create(pool)
    await authenticator.principal_of(key)
    counting.asked = 0
    clocks.seconds += auth.SOFT_S - 0.1
    for _ in range(1000):
        assert await authenticator.principal_of(key) is not None
    assert counting.asked == 0


async def test_key_in_use_is_asked_again_in_the_background_once(
    pool: asyncpg.Pool, authenticator: Authenticator, counting: Counting, clocks: Clocks
) -> None:
    key = await _create(pool)
    await authenticator.principal_of(key)
    counting.asked = 0
    clocks.seconds += auth.SOFT_S + 0.1
    assert all(await asyncio.gather(*(authenticator.principal_of(key) for _ in range(100))))
    await _settled(lambda: counting.asked == 1)


@pytest.mark.parametrize("used_every_s", [0.5, 1.9, 2.5, 4.5])
async def test_revoked_key_stops_within_five_seconds_however_often_it_is_used(
    pool: asyncpg.Pool, authenticator: Authenticator, clocks: Clocks, used_every_s: float
) -> None:
    key = await _create(pool)
    await authenticator.principal_of(key)
    await _revoke(pool, key)
    revoked_at = clocks.seconds
    while await authenticator.principal_of(key) is not None:
        assert clocks.seconds - revoked_at <= 5.0, "it was still taken"
        await asyncio.gather(*(task for task in asyncio.all_tasks() if "_refresh" in repr(task)))
        clocks.seconds += used_every_s


async def test_expired_key_stops_on_the_second(
    pool: asyncpg.Pool, authenticator: Authenticator, clocks: Clocks
) -> None:
    key = await _create(pool, expires_at=datetime.fromtimestamp(clocks.wall() + 1.5, UTC))
    assert await authenticator.principal_of(key) is not None
    clocks.seconds += 1.4
    assert await authenticator.principal_of(key) is not None
    clocks.seconds += 0.2
    assert await authenticator.principal_of(key) is None


async def test_good_key_outlives_a_database_that_is_away_for_the_grace_and_no_longer(
    pool: asyncpg.Pool, authenticator: Authenticator, counting: Counting, clocks: Clocks
) -> None:
    key = await _create(pool)
    await authenticator.principal_of(key)
    counting.away = True
    for clocks.seconds in (3.0, 10.0, 59.0):
        assert await authenticator.principal_of(key) is not None
    clocks.seconds = 61.0
    with pytest.raises(DatabaseUnavailable):
        await authenticator.principal_of(key)
    with pytest.raises(DatabaseUnavailable):
        await authenticator.principal_of(keys.new_key())
    counting.away = False
    clocks.seconds += 10
    assert await authenticator.principal_of(key) is not None


async def test_nonsense_is_refused_without_asking(authenticator: Authenticator, counting: Counting) -> None:
    for nonsense in ("", "x", "tl_short", "a b" * 20, "é" * 40, "x" * 513, "\x00" * 40, "\ud800" * 40):
        assert await authenticator.principal_of(nonsense) is None
    assert counting.asked == 0


async def test_unknown_keys_cannot_flood_the_database_nor_push_out_good_ones(
    pool: asyncpg.Pool, authenticator: Authenticator, counting: Counting
) -> None:
    good = await _create(pool)
    assert await authenticator.principal_of(good) is not None
    refused = 0
    for _ in range(auth.LOOKUPS_PER_S + 50):
        try:
            await authenticator.principal_of(keys.new_key())
        except problems.Problem as problem:
            assert problem.status == 429
            refused += 1
    assert refused >= 50
    assert counting.asked <= auth.LOOKUPS_PER_S + 1
    assert await authenticator.principal_of(good) is not None


async def test_memory_is_bounded(pool: asyncpg.Pool, authenticator: Authenticator, clocks: Clocks, monkeypatch) -> None:
    monkeypatch.setattr(auth, "REMEMBERED", 10)
    for _ in range(50):
        clocks.seconds += 1
        await authenticator.principal_of(keys.new_key())
    assert len(authenticator._memory) == 10


async def test_bootstrap_key_is_admin_and_the_one_before_ends(pool: asyncpg.Pool, authenticator: Authenticator) -> None:
    first, second = "a-first-key-of-at-least-32-characters", "a-second-key-of-at-least-32-characters"
    async with pool.acquire() as connection:
        for key in (first, first, second):
            await keys.ensure_bootstrap_key(connection, key)
    assert await authenticator.principal_of(first) is None
    found = await authenticator.principal_of(second)
    assert found is not None and found.tenant == "default"
    assert all(found.may(scope) for scope in keys.SCOPES)


async def test_wrong_scopes_and_tenants_are_refused(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        for tenant, scopes in (
            ("acme", ["everything"]),
            ("acme", []),
            ("", ["admin"]),
            ("a b", ["admin"]),
            ("a" * 101, ["admin"]),
        ):
            with pytest.raises(SetupError):
                await keys.create_key(connection, tenant, scopes)
        with pytest.raises(SetupError, match="no such key"):
            await keys.revoke_key(connection, "tl_nothing")
    assert await pool.fetchval("SELECT count(*) FROM auth.tenant") == 0


async def test_keys_are_listed_without_themselves_and_revoked_by_id(pool: asyncpg.Pool) -> None:
    key = await _create(pool, "acme", "admin", label="for the shop")
    await _create(pool, "other")
    async with pool.acquire() as connection:
        (row,) = await keys.list_keys(connection, "acme")
        assert (row.tenant, row.scopes, row.label, row.revoked_at) == ("acme", ("admin",), "for the shop", None)
        assert len(await keys.list_keys(connection)) == 2
        assert await keys.revoke_key(connection, str(row.key_id)) == row.key_id
        (row,) = await keys.list_keys(connection, "acme")
        assert row.revoked_at is not None
        assert key not in repr(row)


# Over HTTP ------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def client(authenticator: Authenticator) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.state.auth = authenticator
    problems.install(app)
    app.include_router(auth.router)

    @app.api_route("/read", methods=["GET", "POST"])
    async def read(principal: Annotated[Principal, Depends(require("timeline:read"))]) -> dict[str, str]:
        return {"tenant": principal.tenant}

    from prometheus_client import CollectorRegistry

    guarded = Guard(app, limits={}, metrics=HttpMetrics(CollectorRegistry()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="https://shop.example") as opened:
        yield opened


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_without_a_key_it_is_401_with_a_challenge(client: httpx.AsyncClient) -> None:
    for headers in ({}, _bearer("tl_wrong"), _bearer(keys.new_key()), {"Authorization": "Basic YTpi"}, _bearer("")):
        answer = await client.get("/read", headers=headers)
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"].startswith('Bearer realm="threadline"')
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == 401


async def test_wrong_scope_is_403_and_admin_may_all(client: httpx.AsyncClient, pool: asyncpg.Pool) -> None:
    answer = await client.get("/read", headers=_bearer(await _create(pool, "acme", "events:write")))
    assert answer.status_code == 403
    assert "timeline:read" in answer.json()["detail"]
    for scope in ("timeline:read", "admin"):
        answer = await client.get("/read", headers=_bearer(await _create(pool, "acme", scope)))
        assert (answer.status_code, answer.json()) == (200, {"tenant": "acme"})


async def test_key_that_cannot_be_checked_is_503_not_401(client: httpx.AsyncClient, counting: Counting) -> None:
    counting.away = True
    answer = await client.get("/read", headers=_bearer(keys.new_key()))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0


async def test_session_cookie_reads_and_writes_only_from_its_own_origin(
    client: httpx.AsyncClient, pool: asyncpg.Pool
) -> None:
    key = await _create(pool, "acme", "timeline:read")
    answer = await client.post("/v1/session", json={"key": key})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"].lower()
    for part in ("httponly", "samesite=strict", "secure", "path=/", "max-age="):
        assert part in cookie
    assert key not in cookie
    assert (await client.get("/read")).json() == {"tenant": "acme"}
    assert (await client.post("/read")).status_code == 403
    assert (await client.post("/read", headers={"Origin": "https://evil.example"})).status_code == 403
    assert (await client.post("/read", headers={"Origin": "null"})).status_code == 403
    assert (await client.post("/read", headers={"Origin": "https://shop.example"})).status_code == 200
    # A key in the header needs no origin: no browser sends it by itself.
    assert (await client.post("/read", headers=_bearer(key))).status_code == 200


async def test_cookie_is_not_secure_over_plain_http(client: httpx.AsyncClient, pool: asyncpg.Pool) -> None:
    answer = await client.post("http://shop.example/v1/session", json={"key": await _create(pool)})
    assert "secure" not in answer.headers["set-cookie"].lower()


async def test_cookie_is_secure_behind_a_proxy_that_ends_tls(counting: Counting) -> None:
    behind = Authenticator(counting, public_origin="https://threadline.example")
    request = Request(
        {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"inside")], "scheme": "http"}
    )
    assert behind.is_https(request)
    assert not Authenticator(counting).is_https(request)


async def test_session_needs_a_good_key(client: httpx.AsyncClient, pool: asyncpg.Pool) -> None:
    key = await _create(pool, "acme", "timeline:read")
    assert (await client.post("/v1/session", json={"key": keys.new_key()})).status_code == 401
    assert (await client.post("/v1/session", json={"key": 5})).status_code == 422
    assert (await client.post("/v1/session", content=b"{")).status_code in (400, 422)
    foreign = {"Origin": "https://evil.example"}
    assert (await client.post("/v1/session", json={"key": key}, headers=foreign)).status_code == 403


async def test_session_ends_with_its_key_and_at_log_out(
    client: httpx.AsyncClient, pool: asyncpg.Pool, clocks: Clocks
) -> None:
    key = await _create(pool, "acme", "timeline:read")
    for end in ("log out", "revoke"):
        await client.post("/v1/session", json={"key": key})
        assert (await client.get("/read")).status_code == 200
        if end == "log out":
            kept = client.cookies[auth.COOKIE]
            answer = await client.delete("/v1/session", headers={"Origin": "https://shop.example"})
            assert answer.status_code == 204
            assert auth.COOKIE not in client.cookies
            client.cookies.set(auth.COOKIE, kept, domain="shop.example")
        else:
            await _revoke(pool, key)
            clocks.seconds += 5
        assert (await client.get("/read")).status_code == 401
        client.cookies.clear()


async def test_session_lasts_no_longer_than_its_key(
    authenticator: Authenticator, pool: asyncpg.Pool, clocks: Clocks
) -> None:
    key = await _create(pool, expires_at=datetime.fromtimestamp(clocks.wall(), UTC) + timedelta(minutes=5))
    started = await authenticator.start_session(key)
    assert started is not None
    assert 290 < started[1] <= 300
    assert await authenticator.principal_of(started[0], session=True) is not None
    assert await authenticator.principal_of(started[0]) is None, "a session is not a key"


async def test_two_pools_agree(database: str, settings: Settings, pool: asyncpg.Pool) -> None:
    """A key made through one process works in another."""
    async with open_pool(settings, database) as other:
        key = await _create(pool)
        assert await Authenticator(other).principal_of(key) is not None
