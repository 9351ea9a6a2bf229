"""A limit holds when somebody set one, and says how long to wait."""

from __future__ import annotations

import pytest

from services.ingest.limits import Pressure, RateLimit, SenderRates, TooMuch


def test_without_a_rate_everything_passes() -> None:
    limit = RateLimit(None)
    assert all(limit.wait_s("acme", 1_000, 0.0) == 0 for _ in range(100))


def test_a_tenant_above_its_rate_waits_until_the_bucket_holds_enough() -> None:
    limit = RateLimit(10, burst=20)
    assert limit.wait_s("acme", 20, 0.0) == 0
    assert limit.wait_s("acme", 15, 0.0) == 2
    assert limit.wait_s("globex", 20, 0.0) == 0
    assert limit.wait_s("acme", 15, 1.4) == 1
    assert limit.wait_s("acme", 15, 1.5) == 0


def test_a_limit_holds_from_its_first_second_on() -> None:
    limit = RateLimit(5)
    assert [limit.wait_s("acme", 1, 0.0) for _ in range(6)] == [0, 0, 0, 0, 0, 1]
    slow = RateLimit(0.5)
    assert [slow.wait_s("acme", 1, 0.0), slow.wait_s("acme", 1, 0.0)] == [0, 2]


def test_a_batch_above_the_burst_passes_once_and_is_paid_for_afterwards() -> None:
    limit = RateLimit(10, burst=20)
    assert limit.wait_s("acme", 100, 0.0) == 0
    assert limit.wait_s("acme", 1, 0.0) == 9
    assert limit.wait_s("acme", 1, 8.2) == 0


def test_pressure_admits_one_body_of_any_size_and_no_more_than_it_may_hold() -> None:
    pressure = Pressure(max_bytes=100)
    alone = pressure.hold("1000")
    with pytest.raises(TooMuch):
        pressure.hold("1")
    pressure.release(alone)
    assert pressure.hold("60") == 60 and pressure.hold("40") == 40
    with pytest.raises(TooMuch):
        pressure.hold("1")
    assert pressure.held_bytes == 100


@pytest.mark.parametrize("declared", [None, "", "-1", "1e3", "9" * 5_000, "٣"])
def test_a_length_that_is_not_known_is_taken_for_a_small_body(declared: str | None) -> None:
    assert Pressure(max_bytes=100).hold(declared, unknown_bytes=7) == 7


def test_a_sender_above_its_rate_waits_and_others_do_not() -> None:
    rates = SenderRates()
    assert rates.wait_s("s1", 30, 30, 0.0) == 0
    assert rates.wait_s("s1", 2, 30, 0.0) == 4
    assert rates.wait_s("s2", 30, 30, 0.0) == 0
    assert rates.wait_s("s1", 2, 30, 4.0) == 0


def test_rates_of_senders_long_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SenderRates, "REMEMBERED", 2)
    rates = SenderRates()
    for sender in ("s1", "s2", "s3"):
        assert rates.wait_s(sender, 30, 30, 0.0) == 0
    assert rates.wait_s("s1", 30, 30, 0.0) == 0, "forgotten, and so full again"
    assert rates.wait_s("s3", 30, 30, 0.0) > 0
