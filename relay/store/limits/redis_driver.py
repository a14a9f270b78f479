"""Asks one Redis for everything that a worker's limits need, one batch at a time.

    due(group) --> take batches, requests, the heartbeat --> one write --> replies --> land
                                                      |
                                                      +-- late, broken, refused --> lose, back off

Nothing here runs in a request's task, and nothing is retried: a batch whose outcome is unknown is
a lost lease. While Redis is lost the worker lives on its share, and Redis probes: 250 ms after
the loss, then less and less often, up to 2 s. A probe that is granted ends the loss.

Source: docs/limits.md, "Redis lost".
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

import hiredis
import msgspec

from relay.backoff import Backoff
from relay.clock import until_beat_s
from relay.errors import DependencyDown
from relay.limits.batch import Batch
from relay.limits.broker import Broker
from relay.limits.bucket import BucketReply, read_reply
from relay.limits.decision import PermitRequest
from relay.limits.heartbeat import BEAT_MS, IDLE_BEAT_MS, SILENT_MS_MAX, Heartbeat
from relay.limits.permits import TTL_MS, Permits
from relay.limits.scopes import PREFIX
from relay.store.limits.nodes import Locate
from relay.store.limits.resp import NO_SCRIPT, Command, RespConnection, Script, connect, in_time

ASK_S: Final = 0.05
"""A batch is lost after this: callers wait for it."""
CONNECT_S: Final = 0.2
BEAT_LATE_MS: Final = 200.0
"""A heartbeat waits so long for a batch that it can go with."""
BACKOFF_S: Final = 0.25
BACKOFF_S_MAX: Final = 2.0
GROUPS_MAX: Final = 32
"""Groups asked in one batch; with one Redis there is only one."""

_log = logging.getLogger(__name__)


class RedisDriver:
    """Everything that one worker asks of one Redis.

    Args:
        locate: Returns its URL; asked again for each connection, so it may follow a failover.
        worker: Name of this worker, unlike any other's.
        broker: The buckets' leases.
        permits: The permits' blocks.
        now_ms: The worker's monotonic clock.
        tag: A hash tag that this Redis keeps; "" where it keeps them all.
    """

    def __init__(
        self,
        locate: Locate,
        worker: str,
        broker: Broker,
        permits: Permits,
        now_ms: Callable[[], float],
        *,
        tag: str = "",
    ) -> None:
        self._locate = locate
        self._tag = tag
        self._beat_key = f"{PREFIX}{tag}beat"
        self._worker = worker
        self._broker = broker
        self._permits = permits
        self._now_ms = now_ms
        self._heartbeat = Heartbeat(worker)
        self._admit = Script("admit.lua")
        self._slots = Script("slots.lua")
        self._connection: RespConnection | None = None
        self._greeted: set[str] = set()
        """Groups whose guard this worker has seen to."""
        self._due: dict[str, None] = {}
        self._lost: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._backoff = Backoff(first_s=BACKOFF_S, most_s=BACKOFF_S_MAX)
        self._retry_ms = 0.0
        self._beat_ms = 0.0
        self.batches = 0
        """Round trips made: each is one write, however many scripts are in it."""
        self.losses = 0

    @property
    def lost(self) -> bool:
        """Whether the worker lives on its share of what is kept here."""
        return bool(self._lost)

    def due(self, group: str) -> None:
        """Take note that a group has something to ask."""
        self._due[group] = None
        self._wake.set()

    async def run(self) -> None:
        """Fly until cancelled."""
        while True:
            await self._wait()
            await self._turn()

    async def leave(self, requests: list[list[PermitRequest]]) -> None:
        """Give the permits back and hang up; for the end, when `run` has been cancelled.

        Where this fails the permits come back by themselves, when the blocks expire.

        Args:
            requests: From `Seats.leave`, of the groups that are kept here.
        """
        commands = [self._ask_permits(asked) for asked in requests]
        commands.append(("HDEL", self._beat_key, self._worker))
        if self._connection is not None and self._connection.usable and not self._lost:
            with contextlib.suppress(DependencyDown):
                await in_time(self._connection.ask(commands), ASK_S, "too slow to be told")
        self._hang_up()

    async def _wait(self) -> None:
        """Wait until something is due, or the next probe or heartbeat."""
        until_ms = self._retry_ms
        if not self._lost:
            until_ms = min(self._beat_ms + BEAT_LATE_MS, self._permits.retry_ms)
        wait_s = max(0.0, (until_ms - self._now_ms()) / 1_000)
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _turn(self) -> None:
        now_ms = self._now_ms()
        self._permits.wake(now_ms)
        if self._lost and now_ms < self._retry_ms:
            names = list(self._due)
            self._due.clear()
            self._lose(names, [], now_ms)
            return
        names = list(self._lost | self._due)[:GROUPS_MAX]
        for name in names:
            self._due.pop(name, None)
        if self._due:
            self._wake.set()
        await self._fly(names, now_ms)

    async def _fly(self, names: list[str], now_ms: float) -> None:
        probe = bool(self._lost)
        batches = [
            batch
            for name in names
            if (batch := self._broker.take_batch(name, now_ms, probe=probe)) is not None
        ]
        requests = [
            (n, asked) for n in names if (asked := self._permits.take_permit_requests(n, now_ms))
        ]
        beating = now_ms >= self._beat_ms
        greetings = self._greet([batch.group for batch in batches])
        commands = greetings + [self._ask_buckets(batch) for batch in batches]
        commands += [self._ask_permits(asked) for _, asked in requests]
        commands += self._tell() if beating else []
        if not commands:
            return
        try:
            replies = (await self._ask(commands))[len(greetings) :]
            read = [_read(batch, reply) for batch, reply in zip(batches, replies, strict=False)]
            sizes = [
                _sizes(asked, reply)
                for (_, asked), reply in zip(requests, replies[len(batches) :], strict=False)
            ]
        except DependencyDown as exc:
            self._fail(names, batches, exc)
            return
        self._greeted.update(batch.group for batch in batches)
        self._regain(names)
        now_ms = self._now_ms()
        if beating:
            # Where no batch comes by, it goes when all else here looks around.
            every_ms = BEAT_MS if len(self._broker.leases) else IDLE_BEAT_MS
            self._beat_ms = now_ms + until_beat_s(every_ms / 1_000) * 1_000 - BEAT_LATE_MS
            self._hear(replies[-1], now_ms)
        for batch, reply in zip(batches, read, strict=True):
            self._broker.land(batch, reply, now_ms)
        for (name, _), granted in zip(requests, sizes, strict=True):
            self._permits.land(name, granted, now_ms)

    async def _ask(self, commands: list[Command]) -> list[Any]:
        """Return the replies, scripts loaded where they were not; all within the deadline.

        Raises:
            DependencyDown: Late, broken, or an error reply.
        """
        self.batches += 1
        if self._connection is None or not self._connection.usable:
            self._connection = await in_time(
                self._connect(), CONNECT_S, "the limiter's Redis takes no connection"
            )
        replies = await in_time(
            self._ask_over(self._connection, commands), ASK_S, "the limiter's Redis is too slow"
        )
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise DependencyDown(f"the limiter's Redis refuses: {_code(reply)}")
        return replies

    async def _connect(self) -> RespConnection:
        return await connect(await self._locate())

    async def _ask_over(self, connection: RespConnection, commands: list[Command]) -> list[Any]:
        replies = await connection.ask(commands)
        for at, reply in enumerate(replies):
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith(NO_SCRIPT):
                # It did not run, so this is no second time.
                [replies[at]] = await connection.ask([self._spell_out(commands[at])])
        return replies

    def _spell_out(self, command: Command) -> Command:
        script = self._admit if command[1] == self._admit.digest else self._slots
        return script.spell_out(command)

    def _greet(self, groups: list[str]) -> list[Command]:
        """Return what tells a Redis without data that it is new, and has lost nothing.

        Only a worker's first question of a group says so: whoever has asked there before, and
        finds no data, must take every bucket for empty (admit.lua). So a new relay's first call is
        not refused, and a Redis that was emptied while the relay runs gives no second burst.
        """
        return [("SET", _guard(group), "0", "NX") for group in groups if group not in self._greeted]

    def _ask_buckets(self, batch: Batch) -> Command:
        keys = [*(request.key for request in batch.question.requests), _guard(batch.group)]
        return self._admit.call(keys, msgspec.msgpack.encode(batch.question.flatten()))

    def _ask_permits(self, asked: list[PermitRequest]) -> Command:
        flat = [
            n
            for request in asked
            for n in (request.permits, request.used, request.need, request.spare, request.rank)
        ]
        keys = [request.key for request in asked]
        return self._slots.call(keys, self._worker, TTL_MS, msgspec.msgpack.encode(flat))

    def _tell(self) -> list[Command]:
        told = self._heartbeat.beat(self._broker.leases)
        return [
            ("HSET", self._beat_key, self._worker, told),
            ("PEXPIRE", self._beat_key, 2 * SILENT_MS_MAX),
            ("HGETALL", self._beat_key),
        ]

    def _hear(self, reply: list[bytes], now_ms: float) -> None:
        """Take in what the workers told; remove those that are gone for long."""
        pairs = zip(reply[::2], reply[1::2], strict=True)
        fields = {worker.decode(errors="replace"): told for worker, told in pairs}
        shares, share_default, gone = self._heartbeat.hear(fields, now_ms)
        self._broker.shares, self._broker.share_default = shares, share_default
        self._permits.share = share_default
        if gone and self._connection is not None and self._connection.usable:
            self._connection.tell([("HDEL", self._beat_key, *gone)])

    def _fail(self, names: list[str], batches: list[Batch], exc: DependencyDown) -> None:
        """Take in that the batch is lost; nobody waits for the next one."""
        now_ms = self._now_ms()
        self._hang_up()
        self._backoff.fail()
        self._retry_ms = now_ms + self._backoff.wait_s() * 1_000
        if not self._lost:
            self.losses += 1
            _log.error("limiter lives on its share", extra={"reason": exc.message})
        self._lose([*names, *self._due] or [self._tag], batches, now_ms)

    def _lose(self, names: list[str], batches: list[Batch], now_ms: float) -> None:
        taken = {batch.group: batch for batch in batches}
        for name in dict.fromkeys([*names, *taken]):
            self._lost[name] = None
            self._broker.lose(name, taken.get(name), now_ms)
            self._permits.lose(name, now_ms)

    def _regain(self, names: list[str]) -> None:
        if self._lost:
            _log.warning("limiter has its Redis back")
        for name in names:
            self._lost.pop(name, None)
            self._permits.regain(name)
        self._backoff.succeed()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _guard(group: str) -> str:
    """Return the key that says since when a group's data exist."""
    return f"{PREFIX}{group}:born" if group else f"{PREFIX}born"


def _read(batch: Batch, reply: Any) -> BucketReply:
    try:
        return read_reply(batch.question, reply)
    except (ValueError, TypeError) as exc:
        raise DependencyDown("the limiter's Redis answers something else") from exc


def _sizes(asked: list[PermitRequest], reply: Any) -> list[int]:
    if not isinstance(reply, list) or len(reply) != len(asked):
        raise DependencyDown("the limiter's Redis answers something else")
    return reply


def _code(error: Exception) -> str:
    """Return the code word of an error reply: OOM, READONLY, LOADING."""
    return str(error).partition(" ")[0][:20]
