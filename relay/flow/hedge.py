"""Hedging: a second channel is asked where the first one shows nothing for too long.

Opt-in per line. Whoever has output first wins; the other is dropped in the same moment and is the
operator's cost, never the client's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from relay.errors import ChannelOutrun, RelayError, forget_frames
from relay.flow.asker import Asker
from relay.flow.attempts.attempt import Attempt
from relay.flow.call import Call


async def race(
    asker: Asker, call: Call, attempt: Attempt, plan: Callable[[Call], Awaitable[None]]
) -> None:
    """Ask, and where no output comes in time ask another channel beside it.

    `plan`: has the call ready for channels of other dialects, where the line has some.

    Raises:
        RelayError: No attempt got an answer out; the error of the last that failed.
    """
    line = call.rights.line
    assert line is not None and line.hedge_ms, "the line is hedged"
    if call.committed:
        await asker.ask(attempt)
        return
    async with _Tasks() as tasks:
        first = tasks.start(asker.ask(attempt))
        await asyncio.wait({first}, timeout=line.hedge_ms / 1000)
        if call.rights.foreign and not first.done():
            await plan(call)
        if not first.done() and not call.committed:
            second = asker.attempt_beside(call)
            if second is not None:
                tasks.start(asker.ask(second))
        await tasks.first_good()


class _Tasks:
    """Tasks of which one success is enough; none outlives the block."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "_Tasks":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                forget_frames(ended)  # they hold the tasks, and the tasks hold the errors
        self._tasks.clear()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task

    async def first_good(self) -> None:
        """Return with the first success; raise the last failure that counts if there is none."""
        running = set(self._tasks)
        failure: RelayError | None = None
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    return
                if not isinstance(error, RelayError):
                    raise error
                if failure is None or not isinstance(error, ChannelOutrun):
                    failure = error
        assert failure is not None
        try:
            raise failure
        finally:
            del failure, error, done, running, task  # an error holds the frames it came through
