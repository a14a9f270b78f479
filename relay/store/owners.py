"""Who made what, in Redis: a digest, and the numbers of an account, a channel and a line.

    put(some) --> written at once, nobody waits --> SET relay:own:DIGEST VALUE EX TTL
    get(some) --> MGET, within ASK_S

What is put is on its way before its client hears of it: a worker that is killed then takes nothing
with it that a client was told. Nothing is sent twice, and nothing at all while Redis is half full
(store.redis_room). While Redis cannot be reached, or owes many replies, a bounded number of values
waits for it, the newest ones; whoever asks is told at once.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final

import hiredis

from relay.backoff import Backoff
from relay.clock import dice, until_beat_s
from relay.errors import ConfigError, DependencyDown
from relay.store.limits.resp import Command, RespConnection, connect
from relay.store.redis_room import ASK, RedisRoom
from relay.store.shared_redis import find_shared, tag_of

PREFIX: Final = b"relay:own:"
LISTS: Final = b"relay:own:list:"
ASK_S: Final = 0.25
"""A client waits for this; beyond it nobody knows who made a thing."""
CONNECT_S: Final = 1.0
WAITING_MAX: Final = 10_000
BATCH_MAX: Final = 500
UNANSWERED_MAX: Final = 2_000
"""Commands that Redis owes a reply; what comes beyond waits here, where it is bounded."""
LISTED_MAX: Final = 200
"""Of one account and kind, the newest; see flow.state.owners."""
RETRY_S: Final = 0.25
RETRY_S_MAX: Final = 5.0

_log = logging.getLogger(__name__)


class RedisOwners:
    """The shared memory of who made what (flow.state.owners.OwnerStore).

    Args:
        locate: Returns `[redis] url`; raises DependencyDown where nobody knows.
    """

    def __init__(self, locate: Callable[[], str]) -> None:
        self._locate = locate
        self._connection: RespConnection | None = None
        self._waiting: deque[Command] = deque(maxlen=WAITING_MAX)
        self._tag = b""
        """Before each key, where the server is the shard of a cluster."""
        self._wake = asyncio.Event()
        self._room = RedisRoom("who made what")
        self._is_looking = False
        """Whether Redis was asked for its room, and has not said yet."""
        self._backoff = Backoff(first_s=RETRY_S, most_s=RETRY_S_MAX, jitter=0.5)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect, and keep connected until `stop`."""
        self._task = asyncio.create_task(self._run(), name="owners")

    async def stop(self) -> None:
        """Hang up; what waits is lost."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._connection is not None:
            self._connection.close()

    def put(self, digest: bytes, value: bytes, ttl_s: int) -> None:
        """Keep a value; see flow.state.owners.OwnerStore."""
        self._waiting.append(("SET", PREFIX + digest, value, "EX", ttl_s))
        self._send()

    def push(self, digest: bytes, value: bytes, ttl_s: int) -> None:
        """Put a value before a list; see flow.state.owners.OwnerStore."""
        key = LISTS + digest
        self._waiting.append(("LPUSH", key, value))
        self._waiting.append(("LTRIM", key, 0, LISTED_MAX - 1))
        self._waiting.append(("EXPIRE", key, ttl_s))
        self._send()

    def drop(self, digest: bytes, value: bytes) -> None:
        """Take a value out of a list; see flow.state.owners.OwnerStore."""
        self._waiting.append(("LREM", LISTS + digest, 0, value))
        self._send()

    async def listed(self, digest: bytes) -> list[bytes]:
        """Return a list; see flow.state.owners.OwnerStore."""
        [found] = await self._ask(("LRANGE", self._tag + LISTS + digest, 0, LISTED_MAX - 1))
        if not isinstance(found, list):
            raise DependencyDown("Redis refuses to say who made what")
        return found

    async def get(self, digests: Sequence[bytes]) -> list[bytes | None]:
        """Return what is kept under each; see flow.state.owners.OwnerStore."""
        [found] = await self._ask(("MGET", *(self._tag + PREFIX + d for d in digests)))
        if not isinstance(found, list) or len(found) != len(digests):
            raise DependencyDown("Redis refuses to say who made what")
        return found

    async def _ask(self, command: Command) -> list[Any]:
        connection = self._connection
        if connection is None or not connection.usable:
            raise DependencyDown("Redis cannot be asked who made what")
        try:
            async with asyncio.timeout(ASK_S):
                return await connection.ask([command])
        except TimeoutError:
            raise DependencyDown("Redis is too slow to say who made what") from None

    async def _run(self) -> None:
        while True:
            try:
                url = self._locate()
                self._tag = tag_of(url).encode()
                async with asyncio.timeout(CONNECT_S):
                    self._connection = await connect(await find_shared(url))
                await self._keep(self._connection)
            except (DependencyDown, ConfigError, TimeoutError) as error:
                if self._backoff.fail():
                    reason = error.message if isinstance(error, DependencyDown) else "too slow"
                    _log.warning("who made what is not shared", extra={"reason": reason})
            await asyncio.sleep(self._backoff.wait_s(dice()))

    async def _keep(self, connection: RespConnection) -> None:
        """Send what waits, and ask every few seconds whether it lives, until it breaks."""
        while True:
            async with asyncio.timeout(RETRY_S_MAX):
                [told] = await connection.ask([ASK])
                self._room.hear(told)
            self._wake.clear()
            self._send()
            if self._backoff.succeed():
                _log.warning("who made what is shared again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until_beat_s(RETRY_S_MAX)):
                    await self._wake.wait()
                raise DependencyDown("Redis refuses to keep who made what")

    def _send(self) -> None:
        """Write what waits, as far as Redis has room and answers."""
        connection, waiting = self._connection, self._waiting
        if connection is None or not connection.usable or connection.unanswered >= UNANSWERED_MAX:
            return
        if self._room.is_due:
            self._is_looking = True
            connection.tell([ASK]).add_done_callback(self._hear_room)
        if not self._room.is_there:
            waiting = self._take_drops()
        due = min(len(waiting), BATCH_MAX)
        if due:
            commands = [self._tagged(waiting.popleft()) for _ in range(due)]
            connection.tell(commands).add_done_callback(self._hear_kept)

    def _take_drops(self) -> deque[Command]:
        """Take out what makes room: it is told all the same; the rest is not kept."""
        told = (command for command in self._waiting if command[0] == "LREM")
        drops = deque(islice(told, BATCH_MAX))
        for command in drops:
            self._waiting.remove(command)
        if not self._is_looking:
            self._waiting.clear()
        return drops

    def _hear_room(self, told: asyncio.Future[Any]) -> None:
        """Send what came meanwhile, or forget it."""
        self._is_looking = False
        if told.exception() is not None:
            return
        self._room.hear(told.result())
        if not self._room.is_there:
            self._waiting.clear()
        elif self._waiting:
            self._send()

    def _hear_kept(self, told: asyncio.Future[Any]) -> None:
        """Go on with what waits; a connection that is broken or refuses is made anew."""
        if told.exception() is not None or isinstance(told.result(), hiredis.ReplyError):
            self._wake.set()
        elif self._waiting:
            self._send()

    def _tagged(self, command: Command) -> Command:
        """Return a command on the key as the server has it."""
        name, key, *rest = command
        assert isinstance(key, bytes)
        return (name, self._tag + key, *rest)
