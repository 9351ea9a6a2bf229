"""The `threadline` command as a stranger uses it: starts, keys, kills, and everything that can be wrong around it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from shared import keys
from shared.database import embedded
from shared.database.embedded import leftovers
from tests.conftest import Cluster, needs
from tests.processes import COMMAND, ROOT, Process, System, environment, run, servers_of, up
from tests.waiting import until

SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MTI="


@pytest.fixture
def data(open_folder: Path) -> Path:
    """A data directory that is empty, in a folder with a space in its name."""
    folder = open_folder / "data dir"
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture
async def running(open_folder: Path) -> AsyncIterator[System]:
    async with up(open_folder) as system:
        yield system


def _one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a failed command wrote."""
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("threadline: "), done.stderr
    return lines[0]


def _event(number: int) -> dict[str, object]:
    return {
        "specversion": "1.0",
        "type": "threadline.message.received",
        "source": "/chat/shop",
        "id": str(number),
        "time": "2026-03-02T09:00:00Z",
        "data": {
            "channel": "chat",
            "customer": {"handles": [{"kind": "visitor", "value": f"v-{number}"}]},
            "text": "hi",
        },
    }


async def _status(client: httpx.AsyncClient, number: int) -> str | None:
    answer = await client.get("/v1/events/status", params={"source": "/chat/shop", "id": str(number)})
    return answer.json()["status"] if answer.status_code == 200 else None


# Usage ----------------------------------------------------------------------------------------------------------------


def test_help_is_quick_and_names_every_command() -> None:
    begin = time.monotonic()
    done = run("--help")
    assert time.monotonic() - begin < 3
    assert done.returncode == 0
    for name in ("up", "ingest", "conversation", "metrics", "keys", "migrate", "settings", "doctor"):
        assert f"\n  {name} " in done.stdout
        assert run(name, "--help").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("up", "--port", "a lot"),
        ("up", "--port", "65536"),
        ("up", "--nonsense"),
        ("keys", "create"),
        ("keys", "create", "--tenant", "acme", "--scope", "everything"),
        ("keys", "create", "--tenant", "a b", "--scope", "admin"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Error" in done.stderr and "Traceback" not in done.stderr


def test_wrong_setting_is_one_line_that_names_the_variable() -> None:
    assert "THREADLINE_PORT" in _one_line(run("settings", env={"THREADLINE_PORT": "many"}))


def test_settings_are_listed_without_secrets() -> None:
    done = run(
        "settings", env={"THREADLINE_SECRET_KEY": SECRET, "THREADLINE_DATABASE_URL": "postgresql://u:hunter2@h/d"}
    )
    assert done.returncode == 0
    assert "THREADLINE_KAFKA=" in done.stdout and "default" in done.stdout
    assert SECRET not in done.stdout and "hunter2" not in done.stdout


# Starting and stopping ------------------------------------------------------------------------------------------------


async def test_up_prints_where_it_is_and_where_its_key_is_and_stops_cleanly(data: Path) -> None:
    process = Process(("up", "--data", str(data)), data)
    await process.start()
    try:
        key_file = data / "admin.key"
        assert key_file.stat().st_mode & 0o777 == 0o600
        await until(lambda: process.url in process.tail(), "it says where it is")
        assert "admin.key" in process.tail()
        put = run("channels", "put", "telegram", "bot", "--secret", "s3cret", "--data", str(data))
        assert put.stdout.startswith(f"{process.url}/v1/webhooks/telegram/"), "the port is its own, not the default"
        assert key_file.read_text().strip() not in process.tail()
        headers = {"Authorization": f"Bearer {key_file.read_text().strip()}"}
        async with httpx.AsyncClient(base_url=process.url, headers=headers, trust_env=False) as client:
            assert (await client.post("/v1/events", json=_event(1))).status_code == 202
            await until(lambda: _is_on_timeline(client, 1), "the event is on a timeline")
    finally:
        begin = time.monotonic()
        code = process.stop()
    assert code == 0, process.tail()
    assert time.monotonic() - begin < 8
    assert servers_of(data) == []
    assert "Traceback" not in process.tail()


async def _is_on_timeline(client: httpx.AsyncClient, number: int) -> bool:
    return await _status(client, number) == "on_timeline"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_during_the_first_start_leaves_no_server(data: Path, signum: signal.Signals) -> None:
    process = Process(("up", "--data", str(data)), data)
    process.spawn()
    try:
        await until(lambda: [*data.glob("postgres"), *data.glob(".postgres.partial.*")], "the database is begun")
        process.signal(signum)
        assert process.process is not None
        assert await asyncio.to_thread(process.process.wait, 20) == 0
        await until(lambda: servers_of(data) == [], "no server is left")
        await process.start()
    finally:
        code = process.stop()
    assert code == 0


async def test_a_request_that_never_ends_does_not_hold_up_the_stop(running: System) -> None:
    key = running.key("default")
    reader, writer = await asyncio.open_connection("127.0.0.1", running.ingest.port)
    head = f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 100\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n".encode())
    assert b"100 Continue" in await reader.readline(), "the request is being read"
    begin = time.monotonic()
    assert await asyncio.to_thread(running.ingest.stop) == 0, running.ingest.tail()
    assert time.monotonic() - begin < 8
    writer.close()


async def test_second_up_on_the_same_directory_says_so(running: System, open_folder: Path) -> None:
    assert running.ingest.process is not None
    line = _one_line(run("up", "--data", str(open_folder), "--port", "0"))
    assert f"in use by `threadline up` (pid {running.ingest.process.pid})" in line
    async with running.client("default", running.ingest) as client:
        assert (await client.get("/readyz")).status_code == 200, "the first goes on"


async def test_killed_up_starts_again_with_all_it_had_and_leaves_no_server(open_folder: Path) -> None:
    process = Process(("up", "--data", str(open_folder)), open_folder)
    headers: dict[str, str] = {}
    for number in range(3):
        await process.start()
        headers = headers or {"Authorization": f"Bearer {(open_folder / 'admin.key').read_text().strip()}"}
        async with httpx.AsyncClient(base_url=process.url, headers=headers, trust_env=False) as client:
            assert (await client.post("/v1/events", json=_event(number))).status_code == 202
        process.kill()
    await process.start()
    async with httpx.AsyncClient(base_url=process.url, headers=headers, trust_env=False) as client:
        for number in range(3):
            await until(lambda number=number: _is_on_timeline(client, number), f"event {number} is on its timeline")
    assert process.stop() == 0
    assert servers_of(open_folder) == []


async def test_database_server_that_is_killed_comes_back_and_the_process_goes_on(
    running: System, open_folder: Path
) -> None:
    async with running.client("default", running.ingest) as client:
        (postmaster,) = [pid for pid in leftovers.server_processes(open_folder / "postgres") if _is_postmaster(pid)]
        os.kill(postmaster, signal.SIGKILL)

        async def ready_again() -> bool:
            found = [pid for pid in leftovers.server_processes(open_folder / "postgres") if _is_postmaster(pid)]
            return bool(found) and found != [postmaster] and (await client.get("/readyz")).status_code == 200

        await until(ready_again, "it is ready again", 40)
        assert (await client.post("/v1/events", json=_event(1))).status_code == 202
        await until(lambda: _is_on_timeline(client, 1), "the event is on a timeline")


def _is_postmaster(pid: int) -> bool:
    return b"-D" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


# What can be wrong around it ------------------------------------------------------------------------------------------


def test_port_in_use_is_one_clear_line_and_starts_nothing(data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = _one_line(run("up", "--data", str(data), "--port", str(taken.getsockname()[1])))
    assert "in use by another program" in line and "--port" in line
    assert not (data / "postgres").exists()


def test_unknown_host_is_one_clear_line(data: Path) -> None:
    assert "--host" in _one_line(run("up", "--data", str(data), "--host", "no.such.host.invalid", "--port", "0"))


@needs("root")
def test_folder_that_cannot_be_entered_is_one_clear_line(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert "cannot enter" in _one_line(run("up", "--data", str(closed / "data"), "--port", "0"))


def test_data_that_is_a_file_is_one_clear_line(open_folder: Path) -> None:
    (open_folder / "file").write_text("")
    assert "give another --data" in _one_line(run("up", "--data", str(open_folder / "file"), "--port", "0"))


def test_database_that_is_away_is_one_clear_line(open_folder: Path) -> None:
    env = {"THREADLINE_DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x", "THREADLINE_SECRET_KEY": SECRET}
    for arguments in (("up", "--port", "0"), ("migrate",), ("keys", "list")):
        line = _one_line(run(*arguments, "--data", str(open_folder), env=env))
        assert "nothing listens at the database's address" in line
        assert "hunter2" not in line


def test_given_database_needs_a_given_secret(database: str, open_folder: Path) -> None:
    line = _one_line(
        run("ingest", "--data", str(open_folder), "--port", "0", env={"THREADLINE_DATABASE_URL": database})
    )
    assert "THREADLINE_SECRET_KEY" in line
    assert not (open_folder / "secret.key").exists()


def without_a_broker(database: str) -> dict[str, str]:
    """Return the settings of a process whose broker cannot be reached."""
    return {
        "THREADLINE_DATABASE_URL": database,
        "THREADLINE_SECRET_KEY": SECRET,
        "THREADLINE_KAFKA": "127.0.0.1:1",
        "THREADLINE_LOG_TIMEOUT_S": "2",
    }


async def test_broker_that_is_away_is_a_fault_of_readiness_and_503_for_callers(
    database: str, open_folder: Path
) -> None:
    env = without_a_broker(database) | {"THREADLINE_BOOTSTRAP_KEY": "a-bootstrap-key-for-this-test-alone"}
    process = Process(("ingest", "--data", str(open_folder)), open_folder, env)
    process.spawn()
    try:
        headers = {"Authorization": f"Bearer {env['THREADLINE_BOOTSTRAP_KEY']}"}
        async with httpx.AsyncClient(base_url=process.url, headers=headers, timeout=20, trust_env=False) as client:

            async def alive() -> bool:
                try:
                    return (await client.get("/healthz")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(alive, "it is alive", 30)
            answer = await client.get("/readyz")
            assert answer.status_code == 503
            assert "log" in answer.json()["faults"]
            answer = await client.post("/v1/events", json=_event(1))
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
    finally:
        code = process.stop()
    assert code == 0, process.tail()


@pytest.mark.parametrize("command", [("verify", "--timeout", "3"), ("replay",)])
def test_command_that_cannot_reach_the_broker_says_so_in_one_line(
    database: str, open_folder: Path, command: tuple[str, ...]
) -> None:
    env = without_a_broker(database)
    assert run("migrate", "--data", str(open_folder), env=env).returncode == 0
    assert "Kafka" in _one_line(run(*command, "--data", str(open_folder), env=env))


async def test_database_that_goes_away_is_503_and_a_fault_until_it_is_back(open_folder: Path) -> None:
    """The embedded server of one process stands in for a database of others, and is taken away and given back."""
    server_folder = open_folder / "server"
    server_folder.mkdir(mode=0o755)
    with embedded.running(server_folder) as server:
        env = {"THREADLINE_DATABASE_URL": server.url, "THREADLINE_SECRET_KEY": SECRET}
        async with up(open_folder, env) as system:
            # By the first key, because `keys create` needs the database.
            system.keys["default"] = (open_folder / "admin.key").read_text().strip()
            async with system.client("default", system.ingest) as client:
                assert (await client.post("/v1/events", json=_event(1))).status_code == 202
                server.stop()

                async def faulty() -> bool:
                    answer = await client.get("/readyz")
                    return answer.status_code == 503 and "database" in answer.json()["faults"]

                await until(faulty, "readiness says that the database is away")
                answer = await client.post("/v1/events", json=_event(2))
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) > 0
                assert (await client.get("/healthz")).status_code == 200
                server._process = server._restart()
                await until(lambda: _ready(client), "it is ready again", 40)
                assert (await client.post("/v1/events", json=_event(2))).status_code == 202
                await until(lambda: _is_on_timeline(client, 2), "the event is on a timeline", 40)


async def _ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200


# Keys -----------------------------------------------------------------------------------------------------------------


async def test_keys_are_made_and_revoked_while_up_runs(running: System, open_folder: Path) -> None:
    made = run(
        "keys", "create", "--tenant", "acme", "--scope", "events:write,timeline:read", "--data", str(open_folder)
    )
    key = made.stdout.strip()
    assert made.returncode == 0 and made.stdout == f"{key}\n" and keys.KEY_FORM.fullmatch(key)
    async with httpx.AsyncClient(
        base_url=running.ingest.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False
    ) as client:
        assert (await client.post("/v1/events", json=_event(1))).status_code == 202, "a new key works at once"
        listed = run("keys", "list", "--tenant", "acme", "--data", str(open_folder))
        (line,) = listed.stdout.splitlines()[1:]
        assert "acme" in line and key not in listed.stdout
        assert run("keys", "revoke", line.split()[0], "--data", str(open_folder)).returncode == 0
        begin = time.monotonic()

        async def refused() -> bool:
            return (await client.post("/v1/events", json=_event(1))).status_code == 401

        await until(refused, "the revoked key is refused")
        assert time.monotonic() - begin < 5


async def test_another_tenants_event_is_not_there(running: System) -> None:
    async with running.client("one", running.ingest) as one, running.client("two", running.ingest) as two:
        assert (await one.post("/v1/events", json=_event(1))).status_code == 202
        await until(lambda: _is_on_timeline(one, 1), "the event is on a timeline")
        answer = await two.get("/v1/events/status", params={"source": "/chat/shop", "id": "1"})
        assert answer.status_code == 404


def test_keys_work_without_up_and_side_by_side(data: Path) -> None:
    processes = [
        subprocess.Popen(
            [*COMMAND, "keys", "create", "--tenant", tenant, "--scope", "admin", "--data", str(data)],
            cwd=ROOT,
            env=environment({}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for tenant in ("one", "two", "three")
    ]
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ended
    assert len({out for out, _ in ended}) == 3
    assert servers_of(data) == []
    listed = run("keys", "list", "--data", str(data))
    assert {line.split()[1] for line in listed.stdout.splitlines()[1:]} == {"one", "two", "three"}


def test_unknown_key_cannot_be_revoked(data: Path) -> None:
    assert "no such key" in _one_line(run("keys", "revoke", "tl_nothing", "--data", str(data)))


async def test_bootstrap_key_works_and_a_key_file_is_kept(open_folder: Path, postgres: Cluster) -> None:
    bootstrap = "a-bootstrap-key-for-this-test-alone"
    for _ in range(2):
        async with up(open_folder, {"THREADLINE_BOOTSTRAP_KEY": bootstrap}) as system:
            first = (open_folder / "admin.key").read_text()
            for key in (bootstrap, first.strip()):
                system.keys["default"] = key
                async with system.client("default", system.ingest) as client:
                    assert (await client.post("/v1/events", json=_event(1))).status_code == 202
    assert (open_folder / "admin.key").read_text() == first


# Operations -----------------------------------------------------------------------------------------------------------


def test_migrate_says_what_it_did(empty_database: str) -> None:
    env = {"THREADLINE_DATABASE_URL": empty_database}
    assert "migrated to" in run("migrate", env=env).stdout
    assert "already at" in run("migrate", env=env).stdout


async def test_doctor_finds_nothing_wrong_with_a_running_system(running: System, open_folder: Path) -> None:
    done = run("doctor", "--data", str(open_folder), env={"THREADLINE_PORT": str(running.ingest.port)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAULT" not in done.stdout and f"pid {running.ingest.process.pid}" in done.stdout


def test_doctor_names_what_is_wrong(open_folder: Path) -> None:
    env = {
        "THREADLINE_DATABASE_URL": "postgresql://u:p@127.0.0.1:1/x",
        "THREADLINE_KAFKA": "127.0.0.1:1",
        "THREADLINE_KAFAK": "x",
    }
    done = run("doctor", "--data", str(open_folder), env=env)
    assert done.returncode == 1
    faults = [line for line in done.stdout.splitlines() if line.startswith("FAULT")]
    assert len(faults) == 4, done.stdout
    for name in ("settings: no such setting: THREADLINE_KAFAK", "secret key", "database", "Kafka"):
        assert any(name in fault for fault in faults)


@pytest.mark.parametrize("command", [("verify",), ("quarantine", "list"), ("replay",)])
def test_what_looks_after_data_makes_none_where_a_typing_error_points(
    open_folder: Path, command: tuple[str, ...]
) -> None:
    nowhere = open_folder / "typo"
    assert "there is no database in" in _one_line(run(*command, "--data", str(nowhere)))
    assert not nowhere.exists()


def test_channels_without_a_word_are_listed(open_folder: Path) -> None:
    data = ("--data", str(open_folder))
    assert run("channels", "put", "telegram", "bot", "--secret", "s3cret", *data).returncode == 0
    listed = run("channels", *data)
    assert (listed.returncode, listed.stdout) == (0, run("channels", "list", *data).stdout)
    assert "telegram" in listed.stdout
    refused = run("channels", *data, "list")
    assert refused.returncode == 2 and "threadline channels list" in refused.stderr


async def test_single_services_share_the_embedded_database_of_a_directory(open_folder: Path) -> None:
    one, two = (Process((name, "--data", str(open_folder)), open_folder) for name in ("ingest", "conversation"))
    try:
        await one.start()
        await two.start()
        headers = {"Authorization": f"Bearer {(open_folder / 'admin.key').read_text().strip()}"}
        async with httpx.AsyncClient(base_url=one.url, headers=headers, trust_env=False) as client:
            for process in (one, two):
                scraped = await client.get(f"{process.url}/metrics")
                assert "threadline_http_request_seconds" in scraped.text, scraped.text
            assert (await client.post("/v1/events", json=_event(1))).status_code == 202
            await until(lambda: _is_on_timeline(client, 1), "the event is on a timeline")
    finally:
        two.stop()
        one.stop()
    assert servers_of(open_folder) == []


async def test_migrated_database_is_reached_by_its_roles(database: str) -> None:
    """What `up` stands on: the writer may take on the reader's role."""
    connection = await asyncpg.connect(database)
    try:
        assert await connection.fetchval("SELECT pg_has_role(current_user, 'threadline_reader', 'SET')")
    finally:
        await connection.close()
