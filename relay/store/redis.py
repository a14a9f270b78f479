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
from relay.store.limits.resp import in_time
from relay.store.shared_redis import TAG, find_shared, tag_of

ANSWER_S: Final = 3.0


class ShardClient(Redis):
    """A client of the shard of a cluster that has what is shared."""


@asynccontextmanager
async def connect(
    url: str, *, application: str, within_s: float | None = ANSWER_S
) -> AsyncIterator[Redis]:
    """Give a client of one's own; it connects at its first command and is closed on leaving.

    Args:
        url: As `[redis] url` (store.shared_redis), or one of `relay.store.embedded.locate`.
        application: What CLIENT LIST calls it; no space in it.
        within_s: What the whole block may take; None = the block has deadlines of its own, for
            the client has none.

    Raises:
        DependencyDown: Within the block too: Redis cannot be reached, is too slow or refuses.
        ConfigError: The URL is not one.
    """
    kind = ShardClient if tag_of(url) else Redis
    url = await in_time(find_shared(url), ANSWER_S, "whoever knows the Redis is too slow")
    try:
        # With a socket timeout redis-py writes under asyncio.wait_for, which on Python 3.11 loses a
        # cancellation that comes as the write ends: its task could never be stopped.
        client = kind.from_url(
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


def tagged(client: Redis, key: str) -> str:
    """Return a key as the client's server has it: in a cluster under the tag of what is shared."""
    return TAG + key if isinstance(client, ShardClient) else key
