"""Where the browser of page tests is."""

from __future__ import annotations

import shutil


def chromium() -> str:
    """Return the path of Chromium; `needs("chromium")` has seen that there is one."""
    return next(found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name)))
