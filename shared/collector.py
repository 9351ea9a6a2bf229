"""When Python looks for garbage that only refers to itself.

Nearly all that a batch makes is gone with it, without the collector's help, and what metrics remembers between batches
is hundreds of thousands of objects without cycles. At Python's defaults, meant for small programs, the looking took a
quarter of the time of a large batch, and half of it where much is remembered.
"""

from __future__ import annotations

import gc

THRESHOLDS = (400_000, 20, 50)
"""New containers until the young are looked at, and how many such looks until the older ones are.

A batch of 4,000 events holds some 400,000 containers while it is decided, and none of them waits for the collector
(tests/integration/conversation/test_garbage.py)."""


def settle() -> None:
    """Exempt what lives as long as the process, look less often at the rest; to be called when all is imported."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    gc.enable()
