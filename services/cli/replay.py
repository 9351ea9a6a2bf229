"""`threadline replay`: read the log again from its beginning, into the database that is there or into an empty one.

What is on timelines already stays as it is, what is missing comes back, and what was erased does not: the tombstones in
the log are read before anything else.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.cli import ledger
from services.cli.platform import DataOption, on_database, open_platform, quiet_settings
from services.conversation.batch import Limits
from services.conversation.consumer import InboundConsumer
from services.conversation.erasure.erasing import replay as carry_out
from services.conversation.lane import Lane
from services.conversation.update import Outcome
from shared.database.engine import transaction
from shared.database.migrate import migrate
from shared.entry_ids import entry_secret
from shared.errors import Rejected, SetupError
from shared.events import InboundEvent
from shared.log.protocol import INBOUND, TIMELINE, Record
from shared.log.stretch import stretch
from shared.service import Platform
from shared.settings import Settings
from shared.tombstones import ERASED, Erasure, erasure_of, is_erasure, stub_of


def replay(data: DataOption = None) -> None:
    """Rebuild timelines from the log: what is missing comes back, what is there stays, what was erased stays away.

    Safe beside running services, to repeat and to interrupt.
    """
    tally = on_database(quiet_settings(data), "replay", _replay, begun=True)
    read, added, known, erased, refused = (tally[name] for name in ("read", "added", "known", "erased", "refused"))
    print(
        f"read {read:,} records of the log: {added:,} events came back, {known:,} were there, "
        f"{erased:,} are erased, {refused:,} cannot be understood"
    )


async def _replay(settings: Settings) -> Counter[str]:
    await migrate(settings.dsn())
    async with AsyncExitStack() as stack:
        platform = await open_platform(settings, stack, name="threadline replay")
        bar = stack.enter_context(_progress())
        begins = await platform.log.begin_offsets(INBOUND)
        ends = await platform.log.end_offsets(INBOUND)
        if any(begins.values()):
            bar.console.print("the log no longer begins at its beginning: what retention took does not come back")
        try:
            await _read_erasures(platform, ends, bar, _size(begins, ends))
            return await Replay(platform).run(ends, bar, _size(begins, ends))
        except ledger.NotDone as error:
            raise SetupError(f"cannot read the log to its end: {error}") from error


def _size(begins: Mapping[int, int], ends: Mapping[int, int]) -> int:
    return sum(end - begins[partition] for partition, end in ends.items())


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)


async def _read_erasures(platform: Platform, ends: Mapping[int, int], bar: Progress, size: int) -> None:
    """Carry out what the log says of erasures, so that nothing of them is put on a timeline even for a moment."""
    task = bar.add_task("erasures", total=size)
    found: dict[str, list[Erasure]] = defaultdict(list)
    async for records in stretch(platform.log, INBOUND, await platform.log.begin_offsets(INBOUND), ends):
        for event in _erasures(records):
            found[event.tenant].append(erasure_of(event))
        bar.advance(task, len(records))
    secret = entry_secret(platform.secret_key)
    for tenant, erasures in found.items():
        async with transaction(platform.pool) as connection:
            await carry_out(connection, platform.log, tenant, secret, erasures, platform.clock.now())


def _erasures(records: Sequence[Record]) -> Iterator[InboundEvent]:
    for record in records:
        with suppress(Rejected):  # the second reading counts it
            if ERASED.encode() in record.value and is_erasure(event := InboundEvent.decode(record.value)):
                yield event


class Replay:
    """Puts what the log holds on timelines through the consumer's own handler, a batch a transaction."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._tally: Counter[str] = Counter()
        self._outcomes: list[Outcome] = []
        secret = entry_secret(platform.secret_key)
        self._lane = Lane(platform, self)
        settings = platform.settings
        limits = Limits(settings.lane_leaves, settings.lane_entries)
        self._handle = InboundConsumer(platform.log, platform.clock, secret, self, limits)

    def count(self, outcome: Outcome) -> None:
        """Hear from the handler what a batch did; it counts once the batch is committed."""
        self._outcomes.append(outcome)

    def show_aside(self, events: int, oldest_s: float) -> None:
        """Hear how much is set aside: all of it is decided before the end."""

    async def run(self, ends: Mapping[int, int], bar: Progress, size: int) -> Counter[str]:
        """Replay everything before `ends`; return how many records did what."""
        task = bar.add_task("timelines", total=size)
        begins = await self._platform.log.begin_offsets(INBOUND)
        async for records in stretch(self._platform.log, INBOUND, begins, ends):
            await self._put(records)
            self._tally["read"] += len(records)
            self._tally["erased"] += sum(1 for record in records if stub_of(record.value) is not None)
            bar.advance(task, len(records))
        self._outcomes.clear()
        await self._lane.drain()
        self._tell()
        return self._tally

    async def _put(self, records: Sequence[Record]) -> None:
        self._outcomes.clear()
        try:
            async with transaction(self._platform.pool) as connection:
                refused = await self._handle(connection, records)
        except Rejected:
            # As the runner does it: by halves, until the one that is at fault is alone. It is in quarantine already.
            if len(records) == 1:
                self._tally["refused"] += 1
                return
            middle = len(records) // 2
            await self._put(records[:middle])
            await self._put(records[middle:])
            return
        self._tally["refused"] += len(refused)
        self._tell()
        self._platform.log.wake(TIMELINE)

    def _tell(self) -> None:
        for outcome in self._outcomes:
            self._tally["added"] += outcome.new
            self._tally["known"] += outcome.repeated + outcome.conflicts
            self._tally["erased"] += len(outcome.erased)
