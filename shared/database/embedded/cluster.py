"""The cluster: made once, beside its place, with a password, by the major version that opens it."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from shared import directory as directories
from shared.database.embedded.account import Account, run_as
from shared.database.embedded.binaries import Binaries
from shared.errors import SetupError

CLUSTER = "postgres"
"""DIR/postgres is the cluster (PGDATA), the only thing that the server's user owns."""
PARTIAL = ".postgres.partial."
"""A cluster in the making: DIR/.postgres.partial.…"""
PASSWORD_FILE = "postgres.password"  # noqa: S105 a file name
USER = "threadline"


def is_begun(directory: Path) -> bool:
    """Tell whether the folder has a database, or somebody who holds it and may be making one."""
    directory = directory.expanduser()
    try:
        return (directory / CLUSTER).exists() or directories.holder_of(directory) is not None
    except OSError:
        return True  # whoever opens it will say what is wrong with it


def password_of(directory: Path, cluster: Path) -> str:
    """Return the password beside `cluster`, a new one before the cluster is made. Raises SetupError."""
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


def create_cluster(
    directory: Path,
    cluster: Path,
    programs: Binaries,
    account: Account | None,
    password: str,
    checkpoint: Callable[[], None],
) -> None:
    """Make the cluster beside its place and rename it, so that one that was interrupted is never taken for whole.

    Raises SetupError.
    """
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
        done = run_as(command, account)
        checkpoint()  # before its exit code: a Ctrl-C at the terminal ends initdb as well
        if done.returncode != 0:
            raise SetupError(f"the database could not be made in {directory}: {last_line(done.stderr or done.stdout)}")
        partial.rename(cluster)
    except OSError as error:
        raise SetupError(f"the database could not be made in {directory}: {error}") from error
    finally:
        password_file.unlink(missing_ok=True)


def check_version(cluster: Path, programs: Binaries) -> None:
    """Raise SetupError where `programs` are of another major version than the cluster."""
    made_by = (cluster / "PG_VERSION").read_text().strip()
    if made_by != str(programs.major):
        raise SetupError(
            f"the database in {cluster} was made by PostgreSQL {made_by} and cannot be opened by {programs.major}; set "
            f"THREADLINE_POSTGRES_BIN to a folder with PostgreSQL {made_by}"
        )


def pid_file_lines(cluster: Path) -> list[str]:
    """Return what the postmaster has written of itself, nothing where there is none."""
    try:
        return (cluster / "postmaster.pid").read_text().splitlines()
    except OSError:
        return []


def last_line(text: str) -> str:
    """Return the line of a program's output that says best why it failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "error:" in line]
    return (telling or lines or ["it said nothing"])[-1][:300]
