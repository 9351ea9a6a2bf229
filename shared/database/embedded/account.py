"""The user that the server and its tools run as, and what they are started with."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import SetupError


@dataclass(frozen=True, slots=True)
class Account:
    """A user that is not root. Where one is asked for, None stands for ourselves."""

    name: str
    uid: int
    gid: int


def choose_account(directory: Path, cluster: Path) -> Account:
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
    return run_as(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)], account).returncode == 0


def run_as(command: list[str], account: Account | None) -> subprocess.CompletedProcess[str]:
    """Run `command` as `account` to its end, which comes at the latest with ours."""
    return subprocess.run(  # noqa: S603 our own commands
        command,
        cwd="/",
        env=environment(),
        capture_output=True,
        text=True,
        errors="replace",
        umask=0o077,
        preexec_fn=die_with_parent(signal.SIGTERM),
        **identity(account),
    )


def identity(account: Account | None) -> dict[str, Any]:
    """Return the arguments of `subprocess` that make `account` the user of a child."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def environment() -> dict[str, str]:
    """Return a child's environment: nothing of PG* or LD_* that the caller has set for another server."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def die_with_parent(signum: signal.Signals) -> Callable[[], None] | None:
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
