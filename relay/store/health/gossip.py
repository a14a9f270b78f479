"""What the workers tell each other about their channels' health, over Redis; nothing depends on it.

    publish(message) --> PUBLISH relay:health      every other worker hears it at once
                     --> SET relay:health:NAME     who starts or only looks reads it later

Messages are opaque here. Without Redis every worker decides for itself; the newest message is sent
when it is back. Publications know no databases, so their channels carry the database's number: two
relays on two databases of one Redis must not take out each other's channels.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from relay.backoff import Backoff
from relay.clock import dice, until_beat_s
from relay.errors import ConfigError, DependencyDown
from relay.store import redis
from relay.store.redis import ANSWER_S, tagged
from relay.tasks import cancel_all, first_of

TOPIC: Final = "relay:health"
HINT_TOPIC: Final = "relay:health:hint"
KEY_PREFIX: Final = "relay:health:"

SCAN_KEYS: Final = 1_000
"""Keys that Redis looks through in one go; the limiter keeps its own in the same place."""

RECONNECT_S_MIN: Final = 0.1
RECONNECT_S_MAX: Final = 5.0
"""Workers must not come back in step, nor storm a Redis that has just come back."""
ID_DIGITS_MAX: Final = 19
"""Digits of a channel's id, which is a bigint of Postgres."""

_SEPARATOR: Final = b"\0"
_log = logging.getLogger(__name__)


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often things are done, in seconds."""

    refresh_s: float = 5.0
    """What this worker last told is written again, so that it is not taken for gone."""
    kept_s: int = 15
    """A worker that is gone is no longer read after this."""
    ping_s: float = 5.0
    """A connection silent for this long is asked if it lives; after as long again it is dead."""
    revival_s: float = 5.0
    """The pause between a fault that nobody foresaw and a new start."""


USUAL: Final = Pace()


def _ignore(_channel_id: int) -> None:
    """Take no hint."""


class Gossip:
    """One worker's mouth and ears, on connections re-made for ever.

    Args:
        redis_url: Returns where Redis is; raises DependencyDown where nobody knows.
        name: Of this worker, unlike any other's on any host; holds no NUL.
        on_message: Called in the event loop with what another worker published; what is known at
            a start or after an outage comes first.
        on_hint: Called with the id of a channel that a probe has just seen answer again.
        pace: How often it does what.
    """

    def __init__(
        self,
        redis_url: Callable[[], str],
        name: str,
        on_message: Callable[[bytes], None],
        on_hint: Callable[[int], None] = _ignore,
        *,
        pace: Pace = USUAL,
    ) -> None:
        self.connected = False
        """Whether everything that others publish arrives here."""
        self._redis_url = redis_url
        self._name = name.encode()
        self._on_message = on_message
        self._on_hint = on_hint
        self._pace = pace
        self._message: bytes | None = None
        self._fresh = asyncio.Event()
        self._backoff = Backoff(first_s=RECONNECT_S_MIN, most_s=RECONNECT_S_MAX, jitter=0.5)
        self._task: asyncio.Task[None] | None = None
        self._revival: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Listen and tell until `stop`; returns at once, whether Redis is there or not."""
        assert self._task is None, "started once"
        self._begin()

    async def stop(self) -> None:
        """Fall silent; what was told stays known for a while."""
        if self._revival is not None:
            self._revival.cancel()
        if self._task is not None:
            await cancel_all([self._task])

    def publish(self, message: bytes) -> None:
        """Tell everybody, soon; of several messages that could not be sent the newest remains."""
        self._message = message
        self._fresh.set()

    # --- the connection ---------------------------------------------------------------------

    def _begin(self) -> None:
        self._revival = None
        self._task = asyncio.create_task(self._run(), name="gossip")
        self._task.add_done_callback(self._revive)

    def _revive(self, task: asyncio.Task[None]) -> None:
        """Begin anew after a fault that nobody foresaw: no worker is restarted for its gossip."""
        if not task.cancelled() and (fault := task.exception()) is not None:
            _log.error("channel health is not shared for a moment", exc_info=fault)
            pause_s = self._pace.revival_s
            self._revival = asyncio.get_running_loop().call_later(pause_s, self._begin)

    async def _run(self) -> None:
        while True:
            try:
                url = self._redis_url()
                async with redis.connect(url, application="relay-gossip", within_s=None) as client:
                    await self._gossip(client)
            except (DependencyDown, ConfigError) as error:
                self._note_failure(error)
            finally:
                self.connected = False
            await asyncio.sleep(self._backoff.wait_s(dice()))

    async def _gossip(self, client: Redis) -> None:
        """Tell and listen until the connection breaks."""
        async with client.pubsub() as ears:
            async with asyncio.timeout(ANSWER_S):
                await ears.subscribe(_at(client, TOPIC), _at(client, HINT_TOPIC))
                # Only what is read after subscribing cannot have been missed in between.
                known = await read_messages(client, besides=self._name)
            for message in known:
                self._on_message(message)
            self._note_success()
            self._fresh.set()
            await first_of(self._tell(client), self._listen(ears, client))

    async def _tell(self, client: Redis) -> None:
        while True:
            told = await self._told()
            if self._message is None:
                continue
            async with asyncio.timeout(ANSWER_S), client.pipeline(transaction=False) as batch:
                batch.set(_key(client, self._name), self._message, ex=self._pace.kept_s)
                if told:
                    marked = self._name + _SEPARATOR + self._message
                    batch.publish(_at(client, TOPIC), marked)
                await batch.execute()

    async def _told(self) -> bool:
        """Wait for the next message or the next refreshing; return whether it is a message."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until_beat_s(self._pace.refresh_s)):
                await self._fresh.wait()
        told = self._fresh.is_set()
        self._fresh.clear()
        return told

    async def _listen(self, ears: PubSub, client: Redis) -> None:
        hints = _at(client, HINT_TOPIC).encode()
        asked = False
        while True:
            heard = await ears.get_message(timeout=until_beat_s(self._pace.ping_s))
            if heard is not None:
                asked = False
                if heard["type"] == "message":
                    self._deliver(heard["data"], is_hint=heard["channel"] == hints)
            elif asked:
                raise DependencyDown("Redis fell silent")
            else:
                async with asyncio.timeout(ANSWER_S):
                    await ears.ping()
                asked = True

    def _deliver(self, payload: bytes, *, is_hint: bool) -> None:
        if is_hint:
            if payload.isdigit() and len(payload) <= ID_DIGITS_MAX:
                self._on_hint(int(payload))
            return
        teller, _, message = payload.partition(_SEPARATOR)
        if teller != self._name:
            self._on_message(message)

    def _note_failure(self, error: DependencyDown | ConfigError) -> None:
        if self._backoff.fail():
            _log.warning("channel health is not shared", extra={"reason": error.message})

    def _note_success(self) -> None:
        if tries := self._backoff.succeed():
            _log.warning("channel health is shared again", extra={"count": tries})
        self.connected = True


async def read_messages(client: Redis, *, besides: bytes = b"") -> list[bytes]:
    """Return the last message of every worker that lives.

    Args:
        client: To the Redis of the workers.
        besides: Name of a worker that is left out.
    """
    own = _key(client, besides)
    prefix = tagged(client, KEY_PREFIX)
    found = client.scan_iter(match=f"{prefix}*", count=SCAN_KEYS)
    keys = [key async for key in found if key != own]
    messages: list[Any] = await client.mget(keys) if keys else []
    return [message for message in messages if message is not None]


async def send_hint(client: Redis, channel_id: int) -> None:
    """Tell every worker that a channel answers again: its next trial need not wait any longer."""
    await client.publish(_at(client, HINT_TOPIC), str(channel_id))


def _key(client: Redis, name: bytes) -> bytes:
    return tagged(client, KEY_PREFIX).encode() + name


def _at(client: Redis, topic: str) -> str:
    """Return the name of a publication in the client's database."""
    number = int(client.connection_pool.connection_kwargs.get("db") or 0)
    return f"{topic}@{number}" if number else topic
