"""Clients of Redis for what is not urgent, and the border where its failures become ours.

Limits are asked for over `relay.store.limits.resp`, which is faster and never asks twice. Nothing
is sent twice here either: redis-py's own retries are off, and whoever asks decides what a failure
means.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from relay.errors import ConfigError, DependencyDown

ANSWER_S: Final = 3.0


@asynccontextmanager
async def connect(
    url: str, *, application: str, within_s: float | None = ANSWER_S
) -> AsyncIterator[Redis]:
    """Give a client of one's own; it connects at its first command and is closed on leaving.

    Args:
        url: redis://, rediss:// or unix://, or one of `relay.store.embedded.locate`.
        application: What CLIENT LIST calls it; no space in it.
        within_s: What the whole block may take; None = the block has deadlines of its own, for
            the client has none.

    Raises:
        DependencyDown: Within the block too: Redis cannot be reached, is too slow or refuses.
        ConfigError: The URL is not one.
    """
    try:
        # With a socket timeout redis-py writes under asyncio.wait_for, which on Python 3.11 loses a
        # cancellation that comes as the write ends: its task could never be stopped.
        client = Redis.from_url(
            url,
            client_name=application,
            socket_connect_timeout=ANSWER_S,
            socket_timeout=None,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise ConfigError("[redis] url is not a URL of Redis") from error
    try:
        async with asyncio.timeout(within_s):
            yield client
    except (RedisError, OSError) as error:
        raise DependencyDown(f"Redis does not answer ({type(error).__name__})") from error
    finally:
        await client.aclose()
