"""Who holds a data directory, and the secrets in it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
from pathlib import Path

import pytest

from shared import directory
from shared.errors import SetupError

SPAWN = multiprocessing.get_context("spawn")


def _hold_until_killed(path: Path, held: object, lasting: bool) -> None:
    with directory.hold(path, "up", lasting=lasting):
        directory.offer(path, "postgresql://from-the-holder")
        held.set()  # type: ignore[attr-defined]
        signal.pause()


@pytest.fixture
def holder(tmp_path: Path):
    """Start a process that holds tmp_path, and give it."""
    started = []

    def start(lasting: bool = True):
        held = SPAWN.Event()
        process = SPAWN.Process(target=_hold_until_killed, args=(tmp_path, held, lasting))
        process.start()
        started.append(process)
        assert held.wait(30)
        return process

    yield start
    for process in started:
        process.kill()
        process.join(10)
        process.close()


def test_second_holder_reads_who_holds_the_directory(tmp_path: Path, holder) -> None:
    process = holder()
    with (
        pytest.raises(directory.DirectoryHeld, match=rf"in use by `threadline up` \(pid {process.pid}\)"),
        directory.hold(tmp_path, "up", lasting=True, patience_s=30),
    ):
        pass


def test_what_the_holder_offers_is_found_while_it_lives_and_not_after(tmp_path: Path, holder) -> None:
    process = holder()
    assert directory.offered(tmp_path) == "postgresql://from-the-holder"
    assert directory.await_offer(tmp_path, 1) == "postgresql://from-the-holder"
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    assert (tmp_path / directory.OFFER).exists(), "a killed holder cannot take its offer back"
    assert directory.offered(tmp_path) is None
    assert directory.holder_of(tmp_path) is None


def test_killed_holder_lets_go(tmp_path: Path, holder) -> None:
    process = holder()
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    with directory.hold(tmp_path, "up", lasting=True):
        assert not (tmp_path / directory.OFFER).exists()
        found = directory.holder_of(tmp_path)
        assert found is not None and found.pid == os.getpid()


def test_holder_that_is_soon_done_is_waited_for(tmp_path: Path, holder) -> None:
    process = holder(lasting=False)
    with pytest.raises(directory.DirectoryHeld), directory.hold(tmp_path, "up", lasting=True, patience_s=0.1):
        pass
    os.kill(process.pid, signal.SIGKILL)
    with directory.hold(tmp_path, "up", lasting=True, patience_s=30):
        pass


def test_secrets_are_private_and_stay_the_same(tmp_path: Path) -> None:
    key = directory.secret_key(tmp_path)
    assert len(key) == 32
    assert directory.secret_key(tmp_path) == key
    assert directory.admin_key(tmp_path, lambda: "one") == "one"
    assert directory.admin_key(tmp_path, lambda: "two") == "one"
    for name in (directory.SECRET_KEY_FILE, directory.ADMIN_KEY_FILE):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [directory.ADMIN_KEY_FILE, directory.SECRET_KEY_FILE]


@pytest.mark.parametrize("content", ["not base64!", "AAAA"])
def test_damaged_secret_key_is_one_clear_line(tmp_path: Path, content: str) -> None:
    (tmp_path / directory.SECRET_KEY_FILE).write_text(content)
    with pytest.raises(SetupError, match=r"secret\.key"):
        directory.secret_key(tmp_path)


def test_directory_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SetupError, match="give another --data"):
            directory.prepare(path)


def test_made_directory_can_be_passed_through_but_not_listed_by_others(tmp_path: Path) -> None:
    made = directory.prepare(tmp_path / "a" / "b")
    assert stat.S_IMODE(made.stat().st_mode) == 0o711
    (tmp_path / "own").mkdir(mode=0o700)
    assert stat.S_IMODE(directory.prepare(tmp_path / "own").stat().st_mode) == 0o700
