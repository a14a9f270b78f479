"""Clients of Redis for what is not urgent, and the border where its failures become ours.

Limits are asked for over `relay.store.resp`, which is faster and never asks twice. Nothing is sent
twice here either: redis-py's own retries are off, whoever asks decides what a failure means.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from relay.errors import ConfigError, DependencyDown

CONNECT_S: Final = 3.0
ANSWER_S: Final = 3.0


@asynccontextmanager
async def connect(url: str, *, application: str) -> AsyncIterator[Redis]:
    """Give a client of one's own; it connects at its first command and is closed on leaving.

    Args:
        url: redis://, rediss:// or unix://, or one of `relay.store.locate`.
        application: What CLIENT LIST calls it; no space in it.

    Raises:
        DependencyDown: Within the block too: Redis cannot be reached, is too slow or refuses.
        ConfigError: The URL is not one.
    """
    try:
        client = Redis.from_url(
            url,
            client_name=application,
            socket_connect_timeout=CONNECT_S,
            socket_timeout=ANSWER_S,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise ConfigError("[redis] url is not a URL of Redis") from error
    try:
        yield client
    except (RedisError, OSError) as error:
        raise DependencyDown(f"Redis does not answer ({type(error).__name__})") from error
    finally:
        await client.aclose()
