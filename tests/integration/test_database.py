"""Migrations, the pool and reading as one tenant, on a real server."""

from __future__ import annotations

import asyncio
import re

import asyncpg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from shared.database import engine
from shared.database.migrate import MIGRATIONS, current, head, migrate
from shared.database.statistics import analyse_grown
from shared.errors import DatabaseUnavailable, SetupError
from shared.settings import Settings
from tests.conftest import Cluster
from tests.waiting import until


def test_head_is_the_end_of_the_one_chain_that_alembic_sees() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [head()]


async def test_concurrent_starters_migrate_once(empty_database: str) -> None:
    did = await asyncio.gather(*(migrate(empty_database) for _ in range(4)))
    assert sorted(did) == [False, False, False, True]
    connection = await engine.connect(empty_database)
    assert await current(connection) == head()
    await connection.close()


async def test_database_of_a_newer_threadline_is_refused(database: str) -> None:
    connection = await engine.connect(database)
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    await connection.close()
    with pytest.raises(SetupError, match="newer than this Threadline"):
        await migrate(database)


async def test_a_migration_that_fails_leaves_nothing(empty_database: str) -> None:
    connection = await engine.connect(empty_database)
    await connection.execute("CREATE SCHEMA metrics; CREATE SCHEMA log; CREATE TABLE log.record (id int)")
    with pytest.raises(Exception, match="already exists"):
        await migrate(empty_database)
    assert await current(connection) is None
    assert await connection.fetchval("SELECT to_regclass('auth.api_key')") is None
    await connection.close()


async def test_a_user_without_rights_reads_what_to_do(postgres: Cluster, empty_database: str) -> None:
    admin = await engine.connect(empty_database)
    await admin.execute("CREATE ROLE weak LOGIN PASSWORD 'weak'")
    try:
        weak_url = re.sub(r"//[^@]*@", "//weak:weak@", empty_database)
        with pytest.raises(SetupError, match="needs to own the database"):
            await migrate(weak_url)
    finally:
        await admin.execute("DROP ROLE weak")
        await admin.close()


async def test_every_tenant_table_is_under_row_level_security(pool: asyncpg.Pool) -> None:
    open_tables = await pool.fetch(
        """
        SELECT c.oid::regclass::text AS name FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
        WHERE n.nspname IN ('auth', 'log', 'ingest', 'conversation', 'metrics')
        AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND NOT c.relrowsecurity
        """
    )
    assert [row["name"] for row in open_tables] == []


async def test_reader_sees_its_tenant_and_nothing_else(pool: asyncpg.Pool) -> None:
    await pool.execute("INSERT INTO auth.tenant (tenant_id) VALUES ('one'), ('two')")
    async with engine.tenant_reader(pool, "one") as connection:
        rows = await connection.fetch("SELECT tenant_id FROM auth.tenant")
        assert [row["tenant_id"] for row in rows] == ["one"]
    async with engine.tenant_reader(pool, "") as connection:
        assert await connection.fetch("SELECT tenant_id FROM auth.tenant") == []


async def test_reader_can_neither_write_nor_see_key_hashes(pool: asyncpg.Pool) -> None:
    for statement in ("INSERT INTO auth.tenant (tenant_id) VALUES ('x')", "SELECT key_hash FROM auth.api_key"):
        with pytest.raises(asyncpg.PostgresError):
            async with engine.tenant_reader(pool, "one") as connection:
                await connection.execute(statement)


async def test_connection_is_the_writers_again_after_reading(pool: asyncpg.Pool) -> None:
    async with engine.tenant_reader(pool, "one"):
        pass
    async with pool.acquire() as connection:
        assert await connection.fetchval("SELECT current_user") != "threadline_reader"
        assert await connection.fetchval("SELECT current_setting('threadline.tenant', true)") in (None, "")


async def test_json_goes_in_and_comes_out_as_python_objects(pool: asyncpg.Pool) -> None:
    value = {"a": [1, None, "é", {"b": 1.5}]}
    assert await pool.fetchval("SELECT $1::jsonb", value) == value
    assert await pool.fetchval("SELECT $1::json", value) == value
    assert await pool.fetchval("SELECT ARRAY[$1::jsonb, '2'::jsonb]", value) == [value, 2]


async def test_frozen_transaction_is_ended_by_the_server(database: str, settings: Settings) -> None:
    short = settings.model_copy(update={"database_idle_transaction_s": 0.2})
    async with engine.open_pool(short, database) as pool:
        with pytest.raises(DatabaseUnavailable):
            async with engine.transaction(pool) as connection:
                terminated = asyncio.Event()
                connection.add_termination_listener(lambda _: terminated.set())
                async with asyncio.timeout(10):
                    await terminated.wait()
                await connection.execute("SELECT 1")


async def test_address_where_nothing_listens_is_unavailable(settings: Settings) -> None:
    with pytest.raises(DatabaseUnavailable, match="nothing listens"):
        async with engine.open_pool(settings, "postgresql://u:p@127.0.0.1:1/x"):
            pass


async def test_wrong_password_missing_database_and_nonsense_are_one_clear_line(
    postgres: Cluster, settings: Settings
) -> None:
    wrong_password = re.sub(r"//([^:]*):[^@]*@", r"//\1:wrong@", postgres.url)
    for url, says in (
        (wrong_password, "refuses the user or password"),
        (postgres.url_of("nowhere"), "does not exist"),
        ("mysql://a/b", "not a PostgreSQL address"),
    ):
        with pytest.raises(SetupError, match=says) as caught:
            async with engine.open_pool(settings, url):
                pass
        assert "\n" not in str(caught.value)
        assert "wrong@" not in str(caught.value)


async def test_a_table_that_outgrew_its_statistics_is_analysed_and_no_other(pool: asyncpg.Pool) -> None:
    await pool.execute("CREATE SCHEMA young; CREATE TABLE young.few (n int); CREATE TABLE young.many (n int)")
    analysed: list[str] = []

    async def grow(few: int, many: int) -> None:
        async with pool.acquire() as connection:
            await connection.execute(f"INSERT INTO young.few SELECT generate_series(1, {few})")
            await connection.execute(f"INSERT INTO young.many SELECT generate_series(1, {many})")
            await connection.execute("SELECT pg_stat_force_next_flush()")

    async def look() -> bool:
        analysed.extend(await analyse_grown(pool, ["young"]))
        return "young.many" in analysed

    await grow(10, 200)
    await until(look, "the table with 200 rows is analysed")
    assert analysed == ["young.many"]
    assert await pool.fetchval("SELECT reltuples FROM pg_class WHERE oid = 'young.many'::regclass") == 200
    assert await analyse_grown(pool, ["young"]) == []
    await grow(10, 1_000)
    analysed.clear()
    await until(look, "the table that grew is analysed again")
    assert analysed == ["young.many"]
