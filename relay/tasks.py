"""Wait for the first of several things to happen; end those that are not waited for."""

import asyncio
import contextlib
from collections.abc import Awaitable, Iterable
from typing import Any, Final

CANCEL_AGAIN_S: Final = 0.25


class Bell:
    """Rings for whoever waits for it at that moment."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake all who wait."""
        self._rung.set()
        self._rung = asyncio.Event()

    async def wait(self, within_s: float) -> None:
        """Return when it rings, or `within_s` seconds have passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._rung.wait()


async def first_of(*works: Awaitable[Any], within_s: float | None = None) -> None:
    """Return when one of `works` is done or `within_s` seconds have passed.

    Coroutines are this call's own: those not done are cancelled, and have ended on return. Tasks
    and futures are the caller's and stay as they are. What the first one raised is raised here.
    """
    futures = [asyncio.ensure_future(work) for work in works]
    own = [future for future, work in zip(futures, works, strict=True) if future is not work]
    try:
        done, _ = await asyncio.wait(futures, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_all(own)
    for future in done:
        future.result()


async def cancel_all(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel `tasks` and return when they have ended; what they raise is their owner's.

    Once is not always enough: where a peer breaks off at the same moment, the cleanup of a library
    raises an error of its own in place of the cancellation, and the task goes on to its next try.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
        for task in ended:
            if not task.cancelled():
                task.exception()  # looked at, or asyncio would complain that nobody did
