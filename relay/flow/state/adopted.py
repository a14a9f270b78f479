"""Background jobs of workers that are gone: asked for by those that serve, settled once.

    claim (store.log.unended) --> the channel that made it is asked --> ended: settled as its usage
                                                                    says, by the price it began at
                                                                --> not known there, or for too
                                                                    long: by its last checkpoint

Whoever made it held its money, and did not live to charge it. What is held for it is held until
then, once, whoever settles it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import msgspec

from relay.backoff import Backoff
from relay.billing.charged import complete
from relay.billing.shapes import Delivered
from relay.billing.tariff import NO_TARIFF, Tariff
from relay.clock import dice, until_beat_s, wall_us
from relay.errors import DependencyDown
from relay.extras import NOTHING_ASKED
from relay.flow.state.background import GONE_MAX, BackgroundCalls
from relay.flow.state.looks import NOT_FOUND, OK
from relay.model import Snapshot
from relay.records import (
    CallEnd,
    EndReason,
    Unended,
    UnendedCall,
    counted_usage,
    interrupted_end,
)
from relay.usage import NOTHING, Usage
from relay.wire.state.jobs import Job, JobEnd, job_of

LOOK_S: Final = 2.0
VAIN_LOOKS: Final = 10
"""After so many that found nothing there is no such job, or one that takes hours."""
SELDOM: Final = 5
"""So many times as long it is until the next look then."""
BACKOFF_S_MAX: Final = 30.0
ASKED_AT_ONCE: Final = 8
LOOK_MOST_S: Final = 10.0
"""Whose results take longer to read holds up nobody else."""

_log = logging.getLogger(__name__)


class UnendedStore(Protocol):
    """Where such calls are kept (store.log.unended)."""

    async def claim(self, count: int) -> list[UnendedCall]:
        """Return calls to ask for now, at most `count`: nobody else asks for them meanwhile.

        Raises:
            DependencyDown: RELAY.
        """
        ...

    async def settle(self, end: CallEnd) -> bool:
        """Log and charge a call and free what was held for it; False: somebody did.

        Raises:
            DependencyDown: RELAY; nobody knows whether it was done.
        """
        ...

    async def note_gone(self, request_id: bytes) -> None:
        """Note that a call's provider did not know its response.

        Raises:
            DependencyDown: RELAY.
        """
        ...


class AdoptedCalls:
    """Asks for the background jobs of workers that are gone, for as long as it runs.

    Args:
        snapshot: Returns the catalog as it is.
        store: Where the calls are.
        background: Who follows what this worker has begun: jobs are looked at in the same way.
        look_s: Between two looks that found nothing.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot | None],
        store: UnendedStore,
        background: BackgroundCalls,
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self._snapshot = snapshot
        self._store = store
        self._remembered = background.remembered
        self._looks = background.looks
        self._asking: dict[bytes, asyncio.Task[None]] = {}
        """Calls that are asked for now, by their ids."""
        self._backoff = Backoff(first_s=look_s, most_s=max(look_s, BACKOFF_S_MAX), jitter=0.3)
        self._look_s = look_s
        self._looks_in_vain = 0
        self._task: asyncio.Task[None] | None = None
        self.settled = 0
        """Calls that were settled here."""

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.get_running_loop().create_task(self._look_forever(), name="adopted")

    async def stop(self) -> None:
        """Look no more: what is claimed is due again for others."""
        task, self._task = self._task, None
        ending = [*self._asking.values(), *([task] if task is not None else [])]
        for one in ending:
            one.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _look_forever(self) -> None:
        while True:
            found = 0
            try:
                found = await self.look()
                self._backoff.succeed()
            except DependencyDown:
                self._backoff.fail()
            self._looks_in_vain = 0 if found else self._looks_in_vain + 1
            if found < ASKED_AT_ONCE:
                await asyncio.sleep(self._wait_s())

    def _wait_s(self) -> float:
        if self._backoff.failures:
            return self._backoff.wait_s(dice())
        seldom = self._looks_in_vain >= VAIN_LOOKS
        return until_beat_s(SELDOM * self._look_s if seldom else self._look_s)

    async def look(self) -> int:
        """Ask for what is due, a few at once; return how many that were.

        Raises:
            DependencyDown: RELAY; nothing is known of what is due.
        """
        calls = [
            call
            for call in await self._store.claim(ASKED_AT_ONCE)
            if call.start.request_id not in self._asking
        ]
        tasks = [asyncio.create_task(self._ask(call), name="adopted call") for call in calls]
        for call, task in zip(calls, tasks, strict=True):
            request_id = call.start.request_id
            self._asking[request_id] = task
            task.add_done_callback(partial(self._forget, request_id))
        if tasks:
            await asyncio.wait(tasks, timeout=LOOK_MOST_S)
        return len(calls)

    def _forget(self, request_id: bytes, task: asyncio.Task[None]) -> None:
        self._asking.pop(request_id, None)
        if not task.cancelled() and (bug := task.exception()) is not None:
            _log.error("a look at a job failed", exc_info=bug)

    async def _ask(self, call: UnendedCall) -> None:
        """Ask how a job stands, and settle its call where it has ended or is lost."""
        unended = call.checkpoint.unended
        assert unended is not None
        job = job_of(call.start.endpoint)
        status, end = await self._look(call, job, unended)
        lost, tokens = _is_lost(call, job, status), 0
        untold = end is not None and end.usage is None
        if untold or (end is None and (status == NOT_FOUND or lost)):
            usage, tokens = await self._remembered.find(unended.name)
            if usage is not None:
                end = JobEnd(usage)
        counted = unended.name if unended.asked is not None and unended.asked.requests else ""
        with contextlib.suppress(DependencyDown):  # it is due again
            if end is not None:
                await self._settle(end_of(call, end, wall_us(), tokens), counted)
            elif lost:
                _log.warning("a job was lost", extra={"reason": job.word, "count": call.gone + 1})
                await self._settle(lost_end_of(call, wall_us(), tokens), counted)
            elif status == NOT_FOUND:
                await self._store.note_gone(call.start.request_id)

    async def _look(
        self, call: UnendedCall, job: Job, unended: Unended
    ) -> tuple[int, JobEnd | None]:
        """Look at a job; where its channel is no more, nobody knows it."""
        snapshot = self._snapshot()
        if snapshot is None:
            return 0, None
        channel = snapshot.channels.get(call.checkpoint.channel_id)
        if channel is None:
            return NOT_FOUND, None
        requests = 0 if unended.asked is None else unended.asked.requests
        input_each = call.start.input_estimate // max(1, requests)
        return await self._looks.look(channel, job, unended.name, input_each)

    async def _settle(self, end: CallEnd, name: str = "") -> None:
        if await self._store.settle(end):
            self.settled += 1
        if name:
            self._remembered.note_counted(name)


def end_of(call: UnendedCall, told: JobEnd, now_us: int, tokens: int = 0) -> CallEnd:
    """Return the end of a call by what its provider says; one that failed without usage is free.

    As flow.settle has it for a call whose worker lives: claims beyond what can be are cut.

    Args:
        call: Which.
        told: How its job ended.
        now_us: Microseconds since 1970.
        tokens: About as many were read of it.
    """
    unended, reported = call.checkpoint.unended, told.usage
    assert unended is not None
    unread = reported is None and told.free_unread and not (tokens or call.start.stream)
    if reported is NOTHING or unread:
        return _end(call, NOTHING, NO_TARIFF, EndReason.COMPLETED, now_us)
    facts = Delivered(
        whole=reported is not None,
        input_estimate=call.start.input_estimate,
        output_estimate=max(call.checkpoint.output_estimate, tokens),
        input_max=unended.input_max,
        output_max=unended.output_max,
        asked=unended.asked or NOTHING_ASKED,
        tier=unended.tier,
    )
    usage = complete(reported, facts)
    return _end(call, usage, _tariff_of(call, unended), EndReason.COMPLETED, now_us)


def lost_end_of(call: UnendedCall, now_us: int, tokens: int = 0) -> CallEnd:
    """Return the end of a call of which nobody knows what became: as its worker last counted it.

    Unless such a job costs nothing then: nobody can have had any of it.
    """
    unended, last = call.checkpoint.unended, call.checkpoint
    assert unended is not None
    if job_of(call.start.endpoint).lost_end is not None:
        return _end(call, NOTHING, NO_TARIFF, EndReason.INTERRUPTED, now_us)
    usage = counted_usage(last, 0, tokens)
    return _end(call, usage, _tariff_of(call, unended), EndReason.INTERRUPTED, now_us)


def _is_lost(call: UnendedCall, job: Job, status: int) -> bool:
    gone = call.gone + (status == NOT_FOUND) >= GONE_MAX and not job.watched
    return gone or wall_us() - call.start.time_us > job.total_s * 1e6


def _tariff_of(call: UnendedCall, unended: Unended) -> Tariff:
    """Return the tariff that the call began with, whatever the catalog says by now."""
    if not unended.price_id:
        return NO_TARIFF
    model_ppm = unended.model_multiplier_ppm
    price = msgspec.structs.replace(call.price, model_multiplier_ppm=model_ppm)
    return Tariff(price, unended.group_multiplier_ppm)


def _end(
    call: UnendedCall, usage: Usage, tariff: Tariff, reason: EndReason, now_us: int
) -> CallEnd:
    start, last, unended = call.start, call.checkpoint, call.checkpoint.unended
    assert unended is not None
    return msgspec.structs.replace(
        interrupted_end(start, last, usage, now_us),
        served_model=unended.served_model,
        status=OK,
        reason=reason.value,
        ttft_us=unended.ttft_us,
        attempts=unended.attempts,
        cost_nanos=tariff.cost_nanos(usage),
        price_id=tariff.price_id,
        group_multiplier_ppm=tariff.group_multiplier_ppm,
        model_multiplier_ppm=tariff.model_multiplier_ppm,
        error_code="" if reason is EndReason.COMPLETED else "interrupted",
    )
