"""What an error of the Kafka client means in our tree."""

from __future__ import annotations

from aiokafka import errors

from shared.errors import LogTruncated, LogUnavailable, RecordTooLarge, ThreadlineError

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
