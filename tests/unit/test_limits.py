"""A limit holds when somebody set one, and says how long to wait."""

from __future__ import annotations

from services.ingest.limits import Pressure, RateLimit


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


def test_a_batch_above_the_burst_passes_once_and_is_paid_for_afterwards() -> None:
    limit = RateLimit(10, burst=20)
    assert limit.wait_s("acme", 100, 0.0) == 0
    assert limit.wait_s("acme", 1, 0.0) == 9
    assert limit.wait_s("acme", 1, 8.2) == 0


def test_pressure_admits_one_body_of_any_size_and_no_more_than_it_may_hold() -> None:
    pressure = Pressure(max_bytes=100)
    assert pressure.admits(1_000)
    pressure.held_bytes = 60
    assert pressure.admits(40) and not pressure.admits(41)
