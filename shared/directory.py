"""The data directory: who holds it, and the secrets that live in it.

One process at a time holds a directory, by flock on `DIR/lock`: the kernel lets go when that process dies, however it
dies. What the holder offers to others (its embedded database) stands in `DIR/database.json`, which counts only while
the directory is held.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from shared.errors import SetupError

LOCK = "lock"
OFFER = "database.json"
ADDRESS = "address.json"
SECRET_KEY_FILE = "secret.key"  # noqa: S105 a file name
ADMIN_KEY_FILE = "admin.key"


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a directory. `lasting` ones run until they are stopped; the others are soon done."""

    pid: int
    command: str
    lasting: bool


class DirectoryHeld(SetupError):
    """Another process holds the directory."""

    def __init__(self, directory: Path, holder: Holder | None) -> None:
        who = f"`threadline {holder.command}` (pid {holder.pid})" if holder else "another process"
        super().__init__(f"{directory} is in use by {who}; stop that one first, or give another --data")
        self.holder = holder


def prepare(directory: Path) -> Path:
    """Make `directory` (and its parents) where it is missing and return it resolved. Raises SetupError.

    One that is made here can be entered by others but not listed, because the database server may run as another user;
    every secret in it is a file of mode 0600. One that exists is left as it is.
    """
    try:
        directory = directory.expanduser().absolute()
        directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            directory.mkdir(mode=0o711)
        except FileExistsError:
            pass
        else:
            directory.chmod(0o711)  # whatever the umask
        directory = directory.resolve(strict=True)
        if not directory.is_dir():
            raise SetupError(f"{directory} is not a folder; give another --data")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise SetupError(f"{directory} cannot be entered and written by this user; give another --data")
    except (OSError, RuntimeError) as error:
        raise SetupError(f"{directory} cannot be used as data folder: {_reason(error)}; give another --data") from error
    return directory


def temporary(prefix: str = "threadline-") -> Path:
    """Make a new folder under the system's temporary one and return it; the caller removes it."""
    directory = Path(tempfile.mkdtemp(prefix=prefix)).resolve()
    directory.chmod(0o711)
    return directory


@contextmanager
def hold(directory: Path, command: str, *, lasting: bool, patience_s: float = 0.0) -> Iterator[None]:
    """Hold `directory` inside the context. Raises DirectoryHeld.

    A holder that is soon done is waited for `patience_s` seconds, a lasting one not at all.
    """
    descriptor = _acquire(directory, patience_s)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(Holder(os.getpid(), command, lasting))).encode(), 0)
        for told in (OFFER, ADDRESS):
            (directory / told).unlink(missing_ok=True)  # what a killed holder left
        yield
    finally:
        for told in (OFFER, ADDRESS):
            (directory / told).unlink(missing_ok=True)
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _acquire(directory: Path, patience_s: float) -> int:
    try:
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SetupError(f"{directory / LOCK} cannot be opened: {_reason(error)}; give another --data") from error
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            holder = _read_holder(descriptor)
            # A holder that has not written its name yet (None) is given the time to do so.
            if time.monotonic() >= deadline or (holder is not None and holder.lasting):
                os.close(descriptor)
                raise DirectoryHeld(directory, holder) from None
            time.sleep(0.02)
        except OSError as error:
            os.close(descriptor)
            raise SetupError(f"{directory / LOCK} cannot be locked: {_reason(error)}; give another --data") from error


def holder_of(directory: Path) -> Holder | None:
    """Return who holds `directory` now, or None where nobody does (or who does has not written its name yet)."""
    try:
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # A shared lock: two that ask at once do not see each other.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _read_holder(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def _read_holder(descriptor: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return None


def offer(directory: Path, url: str) -> None:
    """Let other processes find the database of the holder, this process."""
    write_private(directory / OFFER, json.dumps({"pid": os.getpid(), "url": url}) + "\n")


def offered(directory: Path) -> str | None:
    """Return the URL of the database that the holder of `directory` offers, None where there is none."""
    return _told(directory, OFFER)


def serve_at(directory: Path, url: str) -> None:
    """Let other processes find where this one, the holder of `directory`, takes requests."""
    write_private(directory / ADDRESS, json.dumps({"pid": os.getpid(), "url": url}) + "\n")


def served_at(directory: Path) -> str | None:
    """Return the URL at which the holder of `directory` takes requests, None where none said one."""
    return _told(directory, ADDRESS)


def _told(directory: Path, name: str) -> str | None:
    holder = holder_of(directory)
    if holder is None:
        return None
    try:
        found = json.loads((directory / name).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SetupError(f"{directory / name} cannot be read: {_reason(error)}") from error
    return str(found["url"]) if found.get("pid") == holder.pid else None


def await_offer(directory: Path, limit_s: float) -> str | None:
    """Return what `offered` does, waiting for a holder that is still starting its database; None where none comes."""
    deadline = time.monotonic() + limit_s
    while (url := offered(directory)) is None:
        if time.monotonic() > deadline or holder_of(directory) is None:
            return None
        time.sleep(0.05)
    return url


def admin_key(directory: Path, make: Callable[[], str]) -> str:
    """Return the key in `DIR/admin.key`, written with a new one from `make` on first use. Raises SetupError."""
    path = directory / ADMIN_KEY_FILE
    if not path.exists():
        write_private(path, make() + "\n", replace=False)
    try:
        return path.read_text().strip()
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} cannot be read: {_reason(error)}") from error


def secret_key(directory: Path) -> bytes:
    """Return the 32 bytes of `DIR/secret.key`, made on first use. Raises SetupError."""
    path = directory / SECRET_KEY_FILE
    if not path.exists():
        write_private(path, base64.b64encode(secrets.token_bytes(32)).decode() + "\n", replace=False)
    try:
        key = base64.b64decode(path.read_text().strip(), validate=True)
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} cannot be read: {_reason(error)}") from error
    if len(key) != 32:
        raise SetupError(f"{path} must hold 32 bytes in base64, but holds {len(key)}")
    return key


def write_private(path: Path, text: str, *, replace: bool = True) -> None:
    """Write `text` to `path` with mode 0600, whole or not at all. With `replace` false an existing file stays."""
    temporary_path = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary_path.unlink(missing_ok=True)
        descriptor = os.open(
            temporary_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR
        )
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary_path.replace(path)
        else:
            try:
                path.hardlink_to(temporary_path)
            except FileExistsError:
                pass
            temporary_path.unlink()
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
