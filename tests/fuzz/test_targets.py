"""Whatever strangers send, nothing breaks and nothing takes long: by hypothesis, by repetition, and by atheris."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT, needs
from tests.fuzz.damage import damaged
from tests.fuzz.targets import LARGEST, PROVIDERS, TARGETS, blown_up, events, run
from tests.fuzz.words import WORDS, seeds

pieces = st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=6)), min_size=1, max_size=40).map(b"".join)


@pytest.mark.parametrize("name", TARGETS)
@given(how=st.binary(min_size=3, max_size=3), content=pieces)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_bytes_break_anything_or_take_long(name: str, how: bytes, content: bytes) -> None:
    run(name, how + content)


@pytest.mark.parametrize("name", TARGETS)
def test_what_the_fuzzer_starts_from_is_in_order(name: str) -> None:
    given = list(seeds(name))
    assert given
    for seed in given:
        run(name, seed)


FOUND = {
    "a line of an asterisk behind a quote": ("reply", b"Ann\n\nOn Tue, 4 rote:\n> Wl?\n*"),
    "a NUL in the type of a form's file": (
        "delivery",
        bytes([PROVIDERS.index("sendgrid_inbound"), 1])
        + b'--x\r\nContent-Disposition: form-data; name="headers"\r\n\r\nFrom: a@b.example\r\n--x\r\n'
        b'Content-Disposition: form-data; name="attachment1"; filename="a"\r\nContent-Type: a/b\0c\r\n\r\nx'
        b"\r\n--x--\r\n",
    ),
}


for _handle in (b'{"kind": "email"}', b"null", b'"x"'):
    FOUND[f"an unknown type with the handle {_handle!r}"] = (
        "events",
        b'\x02{"specversion": "1.0", "id": "1", "source": "/a", "type": "x", "time": "2026-03-03T09:00:00Z", "data": '
        b'{"customer": {"handles": [' + _handle + b"]}}}",
    )


@pytest.mark.parametrize("what", FOUND)
def test_what_a_fuzzer_once_found_is_mended(what: str) -> None:
    name, data = FOUND[what]
    TARGETS[name](data)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "delivery"])
def test_sixty_kilobytes_of_any_one_word_take_under_a_tenth_of_a_second(name: str) -> None:
    for word in WORDS:
        assert _is_quick(name, b"\0" + word * (LARGEST // len(word)), 0.1), (name, word)


@pytest.mark.parametrize("number", range(len(PROVIDERS)), ids=PROVIDERS)
def test_sixty_kilobytes_of_any_one_word_are_a_quick_delivery(number: int) -> None:
    for media in range(3):
        for word in WORDS:
            assert _is_quick("delivery", bytes([number, media]) + word * (LARGEST // len(word)), 0.1), (media, word)


def _is_quick(name: str, data: bytes, limit_s: float) -> bool:
    for _ in range(3):
        began = time.thread_time()
        TARGETS[name](data)
        if time.thread_time() - began < limit_s:
            return True
    return False


EVENTS = [json.loads(seed[4:]) for seed in seeds("events")]


@given(st.sampled_from(EVENTS).flatmap(damaged))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_events_that_are_nearly_right_are_taken_or_refused(event: Any) -> None:
    events(b"\2" + json.dumps(event).encode())


@given(st.binary(min_size=4, max_size=300))
@example(b"\x01\x00\x17" + bytes(60))
def test_repetition_goes_up_to_the_largest_size(data: bytes) -> None:
    blown = blown_up(data)
    assert blown == data[3:] if data[0] % 8 != 1 else LARGEST - 24 <= len(blown) <= LARGEST


@needs("atheris")
def test_atheris_finds_nothing_in_a_short_while() -> None:
    """A long while, by hand: `python -m tests.fuzz mail -max_total_time=3600`."""
    options = ["-runs=4000", "-max_total_time=6", "-artifact_prefix=/dev/null"]
    command = [sys.executable, "-m", "tests.fuzz", "any", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3_000:]
    ran = re.search(r"Done (\d+) runs", done.stderr)
    assert ran is not None and int(ran[1]) > 500, done.stderr[-1_000:]
