"""What a killed parent leaves: a server, or its children, at work on the cluster."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.database.embedded.cluster import pid_file_lines
from shared.errors import SetupError

STOP_LIMIT_S = 30.0
ORPHAN_LIMIT_S = 10.0


def stop_left_server(cluster: Path, checkpoint: Callable[[], None] = lambda: None) -> None:
    """Stop every server process that still works on `cluster`, then remove its stale pid file.

    A process counts as one only if its program is called postgres and `cluster` is its working directory: PostgreSQL
    changes there, and no other program does. The number in the pid file alone proves nothing: it may have been given
    to another process since.
    """
    if not cluster.exists():
        return
    begin = time.monotonic()
    told: dict[int, signal.Signals] = {}
    while left := server_processes(cluster):
        checkpoint()
        passed_s = time.monotonic() - begin
        if passed_s > STOP_LIMIT_S:
            raise SetupError(f"a database server of before still works in {cluster} (pid {left[0]}) and does not stop")
        for pid in left:
            # A fast shutdown is asked of the postmaster alone. Without one its children end by themselves; who is
            # still there much later is told to stop at once, which is what a crash is to the next start.
            wanted = signal.SIGQUIT if passed_s > ORPHAN_LIMIT_S else signal.SIGINT
            if told.get(pid) != wanted and (wanted == signal.SIGQUIT or [str(pid)] == pid_file_lines(cluster)[:1]):
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


def server_processes(cluster: Path) -> list[int]:
    """Return the ids of the server processes, postmaster or children, that work on `cluster`."""
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
