"""What an error of the Kafka client means in our tree."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from aiokafka import errors

from shared.errors import LogTruncated, LogUnavailable, RecordTooLarge, ThreadlineError
from shared.log.waiting import being_cancelled

TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError, errors.RecordTooLargeError)

CLIENT_ERRORS = (errors.KafkaError, errors.ConsumerStoppedError, errors.IllegalOperation, OSError)
"""Everything that the client raises on purpose; TimeoutError is an OSError."""

BROKEN_PRODUCER = (
    errors.ProducerClosed,
    errors.ProducerFenced,
    errors.OutOfOrderSequenceNumber,
    errors.InvalidProducerEpoch,
    errors.UnknownProducerId,
    errors.DuplicateSequenceNumber,
)
"""After one of these a producer never sends again: it is replaced."""


def in_log(error: BaseException) -> ThreadlineError:
    """Return what `error` of the client means. Its text stays out, since it may carry a record; its class says enough.

    A refusal that an operator has to lift (authentication, authorisation, an invalid configuration) is LogUnavailable
    too: nothing may go on before it is lifted, and everything goes on by itself afterwards.
    """
    if isinstance(error, ThreadlineError):
        return error
    if isinstance(error, TOO_LARGE):
        return RecordTooLarge("a record is larger than the Kafka topic takes (max.message.bytes)")
    if isinstance(error, errors.OffsetOutOfRangeError):
        return LogTruncated("the Kafka topic does not hold the next offset to read")
    if isinstance(error, TimeoutError | errors.KafkaTimeoutError | errors.RequestTimedOutError):
        return LogUnavailable("Kafka did not answer in time")
    return LogUnavailable(f"Kafka does not work now ({type(error).__name__})")


@contextmanager
def translated() -> Iterator[None]:
    """Turn whatever the client raises inside into an error of our tree.

    A CancelledError that nobody asked for is one too: aiokafka lets those of its own inner tasks out, and one that
    passed would end a consumer without a word.
    """
    try:
        yield
    except CLIENT_ERRORS as error:
        raise in_log(error) from error
    except asyncio.CancelledError as error:
        if being_cancelled():
            raise
        raise LogUnavailable("the Kafka client cut its own work short") from error


REPEAT_S = 10.0
CLIENT_LOGGERS = (
    "aiokafka",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.producer.sender",
)


class NowAndThen(logging.Filter):
    """Lets one line of each kind through every `REPEAT_S` seconds: with a broker away there are a hundred a second."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to write the line."""
        kind = (record.pathname, record.lineno)
        now = monotonic()
        if now - self._last.get(kind, -REPEAT_S) < REPEAT_S:
            return False
        self._last[kind] = now
        return True


def quiet_client() -> None:
    """Bound what the client writes while a broker is away; doing it twice is doing it once."""
    for name in CLIENT_LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, NowAndThen) for each in logger.filters):
            logger.addFilter(NowAndThen())
