"""A signal that stops a service is heard at whatever moment it comes."""

from __future__ import annotations

import subprocess
import sys

IN_THE_MIDDLE_OF_A_FORK = """
import logging, os, signal, subprocess, sys, threading
from services.cli.stopping import Stop

stop = Stop()
# Hooks run last in, first out before a fork, so this one comes while `logging` takes its lock.
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGTERM))
os.register_at_fork(before=lambda: signal.raise_signal(signal.SIGTERM))
subprocess.run([sys.executable, "-c", ""], preexec_fn=lambda: None)
other = threading.Thread(target=logging.getLogger, args=("other",), daemon=True)
other.start()
other.join(5)
print("free" if not other.is_alive() else "held", stop.is_told, flush=True)
stop.check()
print("not stopped")
"""

IGNORED = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from services.cli.stopping import Stop
stop = Stop()
signal.raise_signal(signal.SIGHUP)
print(stop.is_told, signal.SIGHUP in stop.signals())
"""


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_a_signal_in_the_middle_of_a_fork_is_noted_and_leaves_no_lock() -> None:
    done = _run(IN_THE_MIDDLE_OF_A_FORK)
    assert (done.stdout, done.stderr, done.returncode) == ("free True\n", "", 0)


def test_what_nohup_ignores_stays_ignored() -> None:
    done = _run(IGNORED)
    assert (done.stdout, done.stderr) == ("False False\n", "")
