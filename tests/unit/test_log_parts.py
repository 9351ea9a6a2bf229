"""The log's pure decisions: who reads what, how much of it, what an error means, when a client stands still."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from aiokafka import errors
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import LogTruncated, LogUnavailable, RecordTooLarge, Retryable, ThreadlineError
from shared.log.headers import decode_headers, encode_headers
from shared.log.kafka_consumer import COORDINATOR_LIMIT_S, STALL_CHECK_S, StandstillWatch
from shared.log.kafka_errors import CLIENT_ERRORS, in_log
from shared.log.membership import assignment, shares
from shared.log.protocol import Record
from shared.log.runner import halves, run_of_rejections, steps

KAFKA_ERRORS = sorted(
    {
        each
        for _, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, Exception) and each.__module__ == errors.__name__
    },
    key=lambda each: each.__name__,
)


def record(partition: int, offset: int) -> Record:
    return Record("t", partition, offset, b"", b"", (), datetime(2026, 1, 1, tzinfo=UTC))


@given(st.sets(st.uuids(), min_size=1, max_size=12), st.integers(1, 40))
def test_every_partition_has_exactly_one_owner_and_shares_differ_by_one_at_most(members: set[UUID], count: int) -> None:
    parts = [assignment(member, members, count) for member in members]
    assert sorted(partition for part in parts for partition in part) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_who_is_not_among_the_living_owns_nothing() -> None:
    assert assignment(uuid4(), {uuid4()}, 8) == frozenset()


@given(st.dictionaries(st.integers(0, 20), st.integers(0, 5000)), st.integers(1, 3000))
def test_shares_use_the_whole_limit_and_no_more(available: dict[int, int], limit: int) -> None:
    result = shares(available, limit)
    assert sum(result.values()) == min(limit, sum(available.values()))
    assert all(0 < count <= available[partition] for partition, count in result.items())


def test_a_busy_partition_does_not_starve_the_others() -> None:
    assert shares({0: 1_000_000, 1: 10, 2: 10}, 1000) == {0: 980, 1: 10, 2: 10}


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.binary())))
def test_headers_come_back_as_they_were(headers: list[tuple[str, bytes]]) -> None:
    assert decode_headers(encode_headers(tuple(headers))) == tuple(headers)


@given(st.integers(0, 5), st.lists(st.booleans()))
def test_the_run_of_rejections_is_the_longest_there_was(before: int, flags: list[bool]) -> None:
    records = [record(0, n) for n in range(len(flags))]
    rejected = {(0, n) for n, flag in enumerate(flags) if flag}
    runs = "".join("x" if flag else "." for flag in [True] * before + flags).split(".")
    assert run_of_rejections(before, records, rejected) == (len(runs[-1]), max(map(len, runs)))


def test_steps_of_a_batch_go_from_its_first_offset_to_after_its_last() -> None:
    assert steps([record(1, 5), record(1, 6), record(0, 9), record(1, 7)]) == {1: (5, 8), 0: (9, 10)}


def test_halves_lose_nothing_and_get_smaller() -> None:
    records = [record(0, n) for n in range(5)]
    first, second = halves(records)
    assert [*first, *second] == records
    assert first and second


@pytest.mark.parametrize("kind", KAFKA_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_kafka_client_has_its_place_in_our_tree(kind: type[Exception]) -> None:
    error = kind()
    assert isinstance(error, CLIENT_ERRORS)
    meant = in_log(error)
    assert isinstance(meant, ThreadlineError)
    if kind in (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError, errors.RecordTooLargeError):
        assert isinstance(meant, RecordTooLarge)
    elif kind is errors.OffsetOutOfRangeError:
        assert isinstance(meant, LogTruncated)
    else:
        assert isinstance(meant, LogUnavailable)


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionRefusedError(), OSError("no route")])
def test_what_the_network_says_may_pass(error: OSError) -> None:
    assert isinstance(in_log(error), Retryable)


def test_the_text_of_a_kafka_error_stays_out() -> None:
    assert "secret" not in str(in_log(errors.KafkaError("a customer's secret")))


def test_a_client_whose_partition_holds_more_for_two_looks_stands_still() -> None:
    watch = StandstillWatch(0.0)
    assert not watch.due(STALL_CHECK_S - 0.1)
    assert watch.due(STALL_CHECK_S)
    assert watch.judge(5.0, {0: 7, 1: 9}) is None
    assert not watch.due(6.0)
    assert watch.judge(10.0, {1: 9}) == "partitions [1] hold records that do not come"


def test_a_client_that_moves_does_not_stand_still() -> None:
    watch = StandstillWatch(0.0)
    assert watch.judge(5.0, {0: 7}) is None
    watch.seen(6.0, moved=True, coordinated=True)
    assert not watch.due(10.0)
    assert watch.judge(12.0, {0: 7}) is None


def test_a_client_that_finds_no_coordinator_for_long_is_replaced() -> None:
    watch = StandstillWatch(0.0)
    assert watch.judge(COORDINATOR_LIMIT_S, {}) is None
    assert watch.judge(COORDINATOR_LIMIT_S + 1, {}) is not None
    watch.seen(COORDINATOR_LIMIT_S + 2, moved=False, coordinated=True)
    assert watch.judge(COORDINATOR_LIMIT_S + 3, {}) is None
