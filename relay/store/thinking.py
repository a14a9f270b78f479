"""What upstreams signed of their thinking, where all workers find it: sealed, in Redis, a while.

    put --> a bounded queue --> SET relay:thinking:DIGEST sealed EX     in a task of its own
    get --> MGET, within GET_S, or nothing

A value is sealed under the master key for its own digest, so that Redis holds nothing that can be
read or moved. Nothing depends on it: without it a turn goes on without what was thought before.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from relay.backoff import Backoff
from relay.clock import clock_s, dice, until_beat_s
from relay.errors import ConfigError, DependencyDown
from relay.model import Secret
from relay.store import redis
from relay.store.redis import ANSWER_S, tagged
from relay.store.redis_room import RedisRoom
from relay.store.secrets.vault import Vault
from relay.tasks import cancel_all

KEY_PREFIX: Final = "relay:thinking:"
KEPT_S: Final = 2 * 3600
GET_S: Final = 0.05
"""A call waits for it."""
VALUE_BYTES_MAX: Final = 256 << 10
QUEUED_MAX: Final = 1_024
HOUR_S: Final = 3600.0
HOUR_BYTES_MAX: Final = 64 << 20
"""What one worker puts there in an hour: Redis holds no more than KEPT_S of that for each."""
BATCH_MAX: Final = 64
PING_S: Final = 5.0


class SharedThinking:
    """One worker's way to what all of them keep (implements flow.ports.ThinkingStore).

    Its connection is made anew for ever.

    Args:
        redis_url: Returns where Redis is; raises DependencyDown where nobody knows.
        vault: Seals what is kept.
    """

    def __init__(self, redis_url: Callable[[], str], vault: Vault) -> None:
        self._redis_url = redis_url
        self._vault = vault
        self._client: Redis | None = None
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self._wake = asyncio.Event()
        self._writing = False
        self._hour_s = 0.0
        self._hour_bytes = 0
        self._room = RedisRoom("thinking")
        self._backoff = Backoff(first_s=0.1, most_s=5.0, jitter=0.5)
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether it is worth asking."""
        return self._client is not None

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be written."""
        return not self._queue and not self._writing

    def start(self) -> None:
        """Keep and find until `stop`; returns at once, whether Redis is there or not."""
        assert self._task is None, "started once"
        self._task = asyncio.create_task(self._run(), name="thinking")

    async def stop(self) -> None:
        """Hang up; what was kept stays for a while."""
        if self._task is not None:
            await cancel_all([self._task])
            self._task = None

    def put(self, digest: bytes, value: bytes) -> None:
        """Keep a value, unless there is too much of it."""
        now_s = clock_s()
        if now_s - self._hour_s > HOUR_S:
            self._hour_s, self._hour_bytes = now_s, 0
        self._hour_bytes += len(value)
        fits = len(value) <= VALUE_BYTES_MAX and self._hour_bytes <= HOUR_BYTES_MAX
        if fits and self._client is not None and len(self._queue) < QUEUED_MAX:
            self._queue.append((digest, value))
            self._wake.set()

    async def get(self, digests: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return what is known of some digests, nothing where Redis is slow."""
        client = self._client
        if client is None:
            return {}
        try:
            async with asyncio.timeout(GET_S):
                sealed: list[Any] = await client.mget([_key(client, digest) for digest in digests])
        except (TimeoutError, RedisError, OSError):
            return {}
        found = {}
        for digest, value in zip(digests, sealed, strict=True):
            opened = None if value is None else self._vault.open(value, _owner(digest))
            if opened is not None:
                found[digest] = opened.reveal().encode()
        return found

    async def _run(self) -> None:
        while True:
            try:
                url = self._redis_url()
                async with redis.connect(
                    url, application="relay-thinking", within_s=None
                ) as client:
                    await self._serve(client)
            except (DependencyDown, ConfigError, TimeoutError):
                self._backoff.fail()
            finally:
                self._client = None
                self._queue.clear()
                self._writing = False
            await asyncio.sleep(self._backoff.wait_s(dice()))

    async def _serve(self, client: Redis) -> None:
        """Write what is put until the connection breaks."""
        while True:
            async with asyncio.timeout(ANSWER_S):
                await client.ping()
            self._backoff.succeed()
            self._client = client
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until_beat_s(PING_S)):
                    await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._write(client)

    async def _write(self, client: Redis) -> None:
        self._writing = True
        if self._room.is_due:
            async with asyncio.timeout(ANSWER_S):
                self._room.hear(await client.info("memory"))
        if not self._room.is_there:
            self._queue.clear()
        async with asyncio.timeout(ANSWER_S), client.pipeline(transaction=False) as batch:
            for _ in range(min(BATCH_MAX, len(self._queue))):
                digest, value = self._queue.popleft()
                sealed = self._vault.seal(Secret(value.decode()), _owner(digest))
                batch.set(_key(client, digest), sealed, ex=KEPT_S)
            await batch.execute()
        self._writing = False


def _key(client: Redis, digest: bytes) -> str:
    return tagged(client, KEY_PREFIX + digest.hex())


def _owner(digest: bytes) -> str:
    return f"thinking:{digest.hex()}"
