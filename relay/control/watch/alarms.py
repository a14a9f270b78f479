"""Alarms: a channel refused our credential, and only an operator can help.

    a worker's finding -> Overview -> claim in Redis -> log, metric, Webhook

Every host has a control process that hears the same; who claims the alarm in Redis raises it. The
claim lasts as long as the channel is out, so that a restart raises no alarm twice, and ends with
it, so that the next refusal raises the next one.
"""

import asyncio
import contextlib
import datetime
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from relay.control.watch.webhook import Alarm, Webhook
from relay.errors import RelayError
from relay.routing.breaker import BreakerState
from relay.routing.health import Condition, HealthChange
from relay.store import redis
from relay.tasks import first_of

KEY_PREFIX: Final = "relay:alarm:"
CLAIM_S: Final = 60
RENEW_S: Final = 20.0
WAITING_MAX: Final = 1_000
"""Changes not judged yet; there are never more channels than that to lose their credential."""

_log = logging.getLogger(__name__)


class Alarms:
    """Raises each alarm once.

    Args:
        name: Finds out a channel's name.
        conditions: Returns what is in trouble.
        redis_url: Returns where claims are kept; raises DependencyDown where nobody knows.
        webhook: Where alarms are sent to; None = nowhere.
        renew_s: Between two renewals of the claims; well below CLAIM_S.
    """

    def __init__(
        self,
        name: Callable[[int], Awaitable[str]],
        conditions: Callable[[], Iterable[Condition]],
        redis_url: Callable[[], str],
        webhook: Webhook | None,
        *,
        renew_s: float = RENEW_S,
    ) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """(channel, reason) -> alarms raised here."""
        self._name = name
        self._conditions = conditions
        self._redis_url = redis_url
        self._webhook = webhook
        self._renew_s = renew_s
        self._changes: asyncio.Queue[HealthChange] = asyncio.Queue(WAITING_MAX)
        self._claimed: set[tuple[int, str]] = set()

    def note(self, changes: Iterable[HealthChange]) -> None:
        """Take up what has changed; never waits."""
        for change in changes:
            if change.alarm or change.after is BreakerState.CLOSED:
                with contextlib.suppress(asyncio.QueueFull):
                    self._changes.put_nowait(change)

    async def run(self) -> None:
        """Raise alarms for ever."""
        await first_of(self._judge_forever(), self._renew_forever())

    async def _judge_forever(self) -> None:
        while True:
            change = await self._changes.get()
            if not change.alarm:
                await self._give_back(change)
            elif await self._claim(change):
                self._raise(change, await self._name(change.channel_id))

    def _raise(self, change: HealthChange, channel: str) -> None:
        alarm = Alarm(
            event="channel_alarm",
            channel=channel,
            model=change.model or "*",
            state=change.after.value,
            reason=change.reason.value,
            time=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        )
        self.counts[channel, alarm.reason] += 1
        _log.error(
            "a channel refused our credential and is out of service",
            extra={"channel": channel, "reason": alarm.reason},
        )
        if self._webhook is not None:
            self._webhook.send(alarm)

    # --- claims -----------------------------------------------------------------------------

    async def _claim(self, change: HealthChange) -> bool:
        """Return whether the alarm is ours to raise; without Redis, better twice than never."""
        self._claimed.add((change.channel_id, change.model))
        with contextlib.suppress(RelayError):
            async with redis.connect(self._redis_url(), application="relay-alarms") as client:
                return bool(await client.set(_key(change), b"", nx=True, ex=CLAIM_S))
        return True

    async def _give_back(self, change: HealthChange) -> None:
        place = (change.channel_id, change.model)
        if place in self._claimed:
            self._claimed.discard(place)
            with contextlib.suppress(RelayError):
                async with redis.connect(self._redis_url(), application="relay-alarms") as client:
                    await client.delete(_key(change))

    async def _renew_forever(self) -> None:
        """Keep the claims of what is still out, whoever raised the alarm."""
        while True:
            await asyncio.sleep(self._renew_s)
            out = {c[:2] for c in self._conditions() if c.state is not BreakerState.CLOSED}
            self._claimed &= out
            if self._claimed:
                with contextlib.suppress(RelayError):
                    await self._renew()

    async def _renew(self) -> None:
        async with (
            redis.connect(self._redis_url(), application="relay-alarms") as client,
            client.pipeline(transaction=False) as batch,
        ):
            for channel_id, model in self._claimed:
                batch.expire(f"{KEY_PREFIX}{channel_id}:{model}", CLAIM_S)
            await batch.execute()


def _key(change: HealthChange) -> str:
    return f"{KEY_PREFIX}{change.channel_id}:{change.model}"
