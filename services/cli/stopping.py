"""How a service is told to stop, at any moment of its life."""

from __future__ import annotations

import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stop:
    """Notes the signals that stop a service while it starts.

    Noted, not raised: an exception that a signal handler raises in the middle of a fork is swallowed by Python, which
    then keeps the lock of `logging` for ever. So the start asks at its slow steps.
    """

    def __init__(self) -> None:
        self.is_told = False
        for signum in self.signals():
            signal.signal(signum, lambda *_: self.tell())

    @staticmethod
    def signals() -> list[signal.Signals]:
        """Return the signals that stop a service; what `nohup` ignores is none of them."""
        return [signum for signum in STOP_SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]

    def tell(self) -> None:
        """Let the next `check` end the process."""
        self.is_told = True

    def check(self) -> None:
        """Raise SystemExit with code 0, through every context, where a signal has come."""
        if self.is_told:
            raise SystemExit(0)
