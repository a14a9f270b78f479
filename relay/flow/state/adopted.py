"""Background responses of workers that are gone: asked for by those that serve, settled once.

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
from typing import Final, Protocol
from urllib.parse import quote

import msgspec

from relay.backoff import Backoff
from relay.billing.charged import complete
from relay.billing.shapes import Delivered
from relay.billing.tariff import NO_TARIFF, Tariff
from relay.clock import dice, wall_us
from relay.errors import DependencyDown, RelayError
from relay.extras import NOTHING_ASKED
from relay.flow.state.background import FREE_ENDS, GONE_MAX, NOT_FOUND, OK, TOTAL_S
from relay.flow.state.fetch import fetch
from relay.flow.state.remembered import Remembered
from relay.model import Snapshot
from relay.ports import Connections
from relay.records import CallEnd, EndReason, Unended, UnendedCall
from relay.usage import Usage
from relay.wire.state.answered import UNENDED, read_kept
from relay.wire.usage.reader import find_usage_of_body

LOOK_S: Final = 2.0
BACKOFF_S_MAX: Final = 30.0
ASKED_AT_ONCE: Final = 8

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
    """Asks for the background responses of workers that are gone, for as long as it runs.

    Args:
        connections: The pool of upstream connections.
        snapshot: Returns the catalog as it is.
        store: Where the calls are.
        remembered: What clients had of them before they were counted.
        look_s: Between two looks that found nothing.
    """

    def __init__(
        self,
        connections: Connections,
        snapshot: Callable[[], Snapshot | None],
        store: UnendedStore,
        remembered: Remembered,
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self._connections = connections
        self._snapshot = snapshot
        self._store = store
        self._remembered = remembered
        self._backoff = Backoff(first_s=look_s, most_s=max(look_s, BACKOFF_S_MAX), jitter=0.3)
        self._task: asyncio.Task[None] | None = None
        self.settled = 0
        """Calls that were settled here."""

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.get_running_loop().create_task(self._look_forever(), name="adopted")

    async def stop(self) -> None:
        """Look no more: what is claimed is due again for others."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _look_forever(self) -> None:
        while True:
            found = 0
            try:
                found = await self.look()
                self._backoff.succeed()
            except DependencyDown:
                self._backoff.fail()
            if found < ASKED_AT_ONCE:
                await asyncio.sleep(self._backoff.wait_s(dice()))

    async def look(self) -> int:
        """Ask for what is due, a few at once; return how many that were.

        Raises:
            DependencyDown: RELAY; nothing is known of what is due.
        """
        calls = await self._store.claim(ASKED_AT_ONCE)
        await asyncio.gather(*(self._ask(call) for call in calls))
        return len(calls)

    async def _ask(self, call: UnendedCall) -> None:
        """Ask how a response stands, and settle its call where it has ended or is lost."""
        unended = call.checkpoint.unended
        assert unended is not None
        status, body = await self._fetch(call.checkpoint.channel_id, unended.name)
        kept = read_kept(body) if status == OK else None
        ended = kept is not None and kept.status != "" and kept.status not in UNENDED
        told = find_usage_of_body(body) if ended else None
        tokens = 0
        if told is None and (ended or status == NOT_FOUND or _is_lost(call, status)):
            told, tokens = await self._remembered.find(unended.name)
        with contextlib.suppress(DependencyDown):  # it is due again
            if told is not None or (kept is not None and ended):
                word = "" if kept is None else kept.status
                await self._settle(end_of(call, told, word, wall_us(), tokens))
            elif _is_lost(call, status):
                _log.warning("a background response was lost", extra={"count": call.gone + 1})
                await self._settle(lost_end_of(call, wall_us(), tokens))
            elif status == NOT_FOUND:
                await self._store.note_gone(call.start.request_id)

    async def _fetch(self, channel_id: int, name: str) -> tuple[int, bytes]:
        """Return status and body of a response; 0 where its channel does not answer."""
        snapshot = self._snapshot()
        channel = None if snapshot is None else snapshot.channels.get(channel_id)
        if channel is None:
            return (0, b"") if snapshot is None else (NOT_FOUND, b"")
        with contextlib.suppress(RelayError, TimeoutError):
            return await fetch(self._connections, channel, f"/responses/{quote(name, safe='')}")
        return 0, b""

    async def _settle(self, end: CallEnd) -> None:
        if await self._store.settle(end):
            self.settled += 1


def end_of(
    call: UnendedCall, reported: Usage | None, status: str, now_us: int, tokens: int = 0
) -> CallEnd:
    """Return the end of a call by what its provider says; one that failed without usage is free.

    As flow.settle has it for a call whose worker lives: claims beyond what can be are cut.

    Args:
        call: Which.
        reported: What its provider says it used, None = nothing.
        status: How it ended, in its provider's words.
        now_us: Microseconds since 1970.
        tokens: About as many were read of it.
    """
    unended = call.checkpoint.unended
    assert unended is not None
    if reported is None and status in FREE_ENDS and not (tokens or call.start.stream):
        return _end(call, Usage(), NO_TARIFF, EndReason.COMPLETED, now_us)
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
    """Return the end of a call of which nobody knows what became: as its worker last counted it."""
    unended, last = call.checkpoint.unended, call.checkpoint
    assert unended is not None
    usage = Usage(
        input_tokens=last.input_tokens,
        cached_tokens=last.cached_tokens,
        cache_write_tokens=last.cache_write_tokens,
        output_tokens=max(last.output_estimate, tokens),
        reasoning_tokens=last.reasoning_tokens,
        cache_write_1h_tokens=last.cache_write_1h_tokens,
        audio_input_tokens=last.audio_input_tokens,
        audio_output_tokens=last.audio_output_tokens,
        image_input_tokens=last.image_input_tokens,
        image_output_tokens=last.image_output_tokens,
        images=last.images,
        estimated=True,
        extras=last.extras,
    )
    return _end(call, usage, _tariff_of(call, unended), EndReason.INTERRUPTED, now_us)


def _is_lost(call: UnendedCall, status: int) -> bool:
    gone = call.gone + (status == NOT_FOUND)
    return gone >= GONE_MAX or wall_us() - call.start.time_us > TOTAL_S * 1e6


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
    ended_us = max(now_us, start.time_us)
    return CallEnd(
        request_id=start.request_id,
        time_us=ended_us,
        account_id=start.account_id,
        key_id=start.key_id,
        ip=start.ip,
        endpoint=start.endpoint,
        model=start.model,
        line_id=start.line_id,
        stream=start.stream,
        channel_id=last.channel_id,
        served_model=unended.served_model,
        status=OK,
        reason=reason.value,
        input_tokens=usage.input_tokens,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        estimated=usage.estimated,
        ttft_us=unended.ttft_us,
        total_us=ended_us - start.time_us,
        attempts=unended.attempts,
        cost_nanos=tariff.cost_nanos(usage),
        price_id=tariff.price_id,
        group_multiplier_ppm=tariff.group_multiplier_ppm,
        model_multiplier_ppm=tariff.model_multiplier_ppm,
        error_code="" if reason is EndReason.COMPLETED else "interrupted",
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        audio_input_tokens=usage.audio_input_tokens,
        audio_output_tokens=usage.audio_output_tokens,
        image_input_tokens=usage.image_input_tokens,
        image_output_tokens=usage.image_output_tokens,
        images=usage.images,
        extras=usage.extras,
    )
