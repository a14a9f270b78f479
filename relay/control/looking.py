"""One look into Postgres after another, for ever, whatever happens to it meanwhile."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import asyncpg

from relay.backoff import Backoff
from relay.clock import until_beat_s
from relay.errors import RelayError
from relay.store.kept import Kept
from relay.store.postgres import Connection, border, hang_up
from relay.tasks import Bell

_log = logging.getLogger(__name__)


async def look_forever(
    connect: Callable[[], Awaitable[Connection]],
    look: Callable[[Connection], Awaitable[None]],
    *,
    name: str,
    every_s: float,
    most_s: float,
    changed: Bell | None = None,
) -> None:
    """Look until cancelled, on one connection as long as it holds.

    Args:
        connect: Returns a new connection.
        look: Does what is due.
        name: Who waits, as the log has it when Postgres fails.
        every_s: Between two looks.
        most_s: The longest wait after failures in a row.
        changed: Rings where there is something to look at sooner.
    """
    backoff = Backoff(first_s=every_s, most_s=most_s)
    bell = Bell() if changed is None else changed
    kept = Kept(connect, hang_up)
    try:
        while True:
            try:
                with border():
                    async with kept.use() as connection:
                        await look(connection)
                backoff.succeed()
            except (RelayError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as exc:
                if backoff.fail():
                    _log.warning(f"{name} waits", extra={"error": type(exc).__name__})
            if backoff.failures:
                await asyncio.sleep(backoff.wait_s())
            else:
                await bell.wait(until_beat_s(every_s))
    finally:
        kept.close()
