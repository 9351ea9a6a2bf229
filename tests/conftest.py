"""Fixtures that every test may use: a real PostgreSQL, and prerequisites that skip with a reason or fail.

One server runs for the whole session; each test that asks for `database` gets a fresh, migrated database of its own.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from shared import directory
from shared.database import embedded
from shared.database.engine import open_pool
from shared.database.migrate import migrate
from shared.settings import Settings
from tests.kafka_broker import Broker, broker

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"

TEMPLATE = "threadline_template"


def _runs(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def _toxiproxy() -> bool:
    found = shutil.which("toxiproxy-server") is not None
    return found or Path(os.environ.get("GOBIN", Path.home() / "go" / "bin"), "toxiproxy-server").exists()


PREREQUISITES: dict[str, tuple[Callable[[], bool], str]] = {
    "kafka": (
        lambda: _runs("java", "-version") and _runs("mvn", "-version"),
        "a real Kafka broker needs Java and Maven",
    ),
    "chromium": (
        lambda: any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")),
        "pages are tested in Chromium",
    ),
    "prometheus": (lambda: shutil.which("promtool") is not None, "needs Prometheus and promtool"),
    "toxiproxy": (_toxiproxy, "cutting connections needs toxiproxy-server"),
    "atheris": (
        lambda: find_spec("atheris") is not None,
        "fuzzing needs atheris, which is for Linux on x86-64 with Python up to 3.13",
    ),
    "node": (
        lambda: _runs("node", "--version") and _runs("npm", "--version"),
        "the JavaScript SDK of CloudEvents runs in Node",
    ),
    "curl": (lambda: shutil.which("curl") is not None, "the README's first steps are typed with curl"),
    "root": (lambda: os.geteuid() == 0, "what a start by root does can only be seen by root"),
    "shared_data": (SHARED_DATA.is_dir, "the shared test data is not beside this checkout"),
}


@functools.cache
def _present(name: str) -> bool:
    return PREREQUISITES[name][0]()


def needs(*names: str) -> pytest.MarkDecorator:
    """Mark a test (or a module, as `pytestmark`) that needs `names` of PREREQUISITES.

    Where one is missing the test is skipped with the reason; with THREADLINE_TEST_ALL=1 it fails instead.
    """
    for name in names:
        assert name in PREREQUISITES, f"unknown prerequisite {name}"
    return pytest.mark.needs(*names)


def require(*names: str) -> None:
    """Skip or fail the running test (or fixture) as `needs` does."""
    for name in names:
        if not _present(name):
            reason = f"{PREREQUISITES[name][1]} ({name} is missing)"
            if os.environ.get("THREADLINE_TEST_ALL") == "1":
                pytest.fail(f"THREADLINE_TEST_ALL=1, but {reason}", pytrace=False)
            pytest.skip(reason)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*names): prerequisites; see tests/conftest.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        require(*marker.args)


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_outside() -> Iterator[None]:
    """Tests see no THREADLINE_ setting of the person who runs them (beyond what steers the tests)."""
    kept = {"THREADLINE_TEST_ALL", "THREADLINE_POSTGRES_BIN"}
    saved = {name: value for name, value in os.environ.items() if name.startswith("THREADLINE_") and name not in kept}
    for name in saved:
        del os.environ[name]
    yield
    os.environ.update(saved)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the shared test data."""
    require("shared_data")
    return SHARED_DATA


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A new folder that the database server's user can enter, which pytest's own tmp_path is not when run by root."""
    folder = directory.temporary("threadline test ")  # a space: every path here has one
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Cluster:
    """The session's PostgreSQL server."""

    url: str

    def url_of(self, database: str) -> str:
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{database}"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """One server for the whole run. Its commits are not synced: a test that needs durability starts its own."""
    folder = directory.temporary("threadline-tests-")
    try:
        fast = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "300"}
        with directory.hold(folder, "tests", lasting=True), embedded.running(folder, overrides=fast) as server:
            yield Cluster(server.url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def migrated_template(postgres: Cluster) -> str:
    """A migrated database that others are copied from."""
    connection = await asyncpg.connect(postgres.url)
    await connection.execute(f"CREATE DATABASE {TEMPLATE}")
    await connection.close()
    await migrate(postgres.url_of(TEMPLATE))
    return TEMPLATE


_numbers = itertools.count(1)


@pytest.fixture
async def database(postgres: Cluster, migrated_template: str) -> AsyncIterator[str]:
    """The URL of a fresh, migrated database for this test alone."""
    name = f"test_{next(_numbers)}"
    connection = await asyncpg.connect(postgres.url)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
        yield postgres.url_of(name)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture
async def empty_database(postgres: Cluster) -> AsyncIterator[str]:
    """The URL of a fresh database without any schema."""
    name = f"empty_{next(_numbers)}"
    connection = await asyncpg.connect(postgres.url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        yield postgres.url_of(name)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture
def settings(open_folder: Path) -> Settings:
    """Default settings with a data folder of this test, reading no .env."""
    return Settings(_env_file=None, data=open_folder)


@pytest.fixture
async def pool(database: str, settings: Settings) -> AsyncIterator[asyncpg.Pool]:
    """The pool that services get, on `database`."""
    async with open_pool(settings, database) as opened:
        yield opened


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[Broker]:
    """One real broker for the whole run; a test that kills it starts it again. Take a topic prefix of your own."""
    require("kafka")
    with broker() as running:
        yield running
