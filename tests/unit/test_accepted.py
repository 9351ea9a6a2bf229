"""What this process accepted is known until the consumer has it."""

from __future__ import annotations

from shared.accepted import Accepted


def test_an_accepted_event_is_known_until_the_consumer_has_done_it() -> None:
    accepted = Accepted()
    accepted.add("acme", "/chat", "a", partition=0, offset=5, now_s=1.0)
    accepted.add("acme", "/chat", "b", partition=1, offset=5, now_s=2.0)
    assert accepted.contains("acme", "/chat", "a") and not accepted.contains("globex", "/chat", "a")
    accepted.forget_done({0: 5, 1: 6})
    assert accepted.contains("acme", "/chat", "a") and not accepted.contains("acme", "/chat", "b")


def test_an_event_accepted_twice_is_known_until_both_are_done() -> None:
    accepted = Accepted()
    for offset in (1, 2):
        accepted.add("acme", "/chat", "a", partition=0, offset=offset, now_s=1.0)
    accepted.forget_done({0: 2})
    assert accepted.contains("acme", "/chat", "a")
    accepted.forget_done({0: 3})
    assert not accepted.contains("acme", "/chat", "a") and len(accepted) == 0


def test_what_waits_too_long_is_given_out_oldest_first_and_forgotten_once_written() -> None:
    accepted = Accepted()
    for offset, since in ((1, 1.0), (2, 2.0), (3, 3.0)):
        accepted.add("acme", "/chat", str(offset), partition=0, offset=offset, now_s=since)
    late = accepted.waiting_since(2.0)
    assert [waiting.offset for waiting in late] == [1, 2]
    accepted.forget_oldest(len(late))
    assert not accepted.contains("acme", "/chat", "1") and accepted.contains("acme", "/chat", "3")


def test_memory_is_bounded() -> None:
    accepted = Accepted(capacity=10)
    for offset in range(100):
        accepted.add("acme", "/chat", str(offset), partition=0, offset=offset, now_s=0.0)
    assert len(accepted) == 10 and accepted.contains("acme", "/chat", "99")
