"""Fixtures of the conversation service's tests on a real database."""

from __future__ import annotations

import pytest

from services.conversation import checkpoints


@pytest.fixture
def many_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let conversations of three entries have checkpoints: what is stored of them is then compared as well (`dump`)."""
    monkeypatch.setattr(checkpoints, "EVERY", 2)
