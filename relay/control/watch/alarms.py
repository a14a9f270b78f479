"""Alarms: a channel refused our credential, and only an operator can help.

    a worker's finding -> Overview -> claim in Redis -> log, metric, Webhook

Every host has a control process that hears the same; who claims the alarm in Redis raises it. The
claim lasts as long as the channel is out, so that a restart raises no alarm twice, and ends with
it, so that the next refusal raises the next one. Whoever takes the claim away tells that it is
over: "channel_alarm_over", once.
"""

import asyncio
import contextlib
import datetime
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from redis.asyncio import Redis

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
        self._fading: Counter[tuple[int, str]] = Counter()
        """What nobody tells of any more (it is no longer sold, its worker is gone) -> for how many
        renewals."""
        self._raised: set[tuple[int, str]] = set()

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
                await self._give_back((change.channel_id, change.model))
            elif await self._claim(change):
                self._raise(change, await self._name(change.channel_id))

    def _raise(self, change: HealthChange, channel: str) -> None:
        place = (change.channel_id, change.model)
        alarm = _alarm("channel_alarm", channel, place, change.after, change.reason.value)
        self._raised.add(place)
        self.counts[channel, alarm.reason] += 1
        _log.error(
            "a channel refused our credential and is out of service",
            extra={"channel": channel, "reason": alarm.reason},
        )
        if self._webhook is not None:
            self._webhook.send(alarm)

    async def _end(self, place: tuple[int, str]) -> None:
        channel = await self._name(place[0])
        _log.warning("a channel's credential is taken again", extra={"channel": channel})
        if self._webhook is not None:
            self._webhook.send(
                _alarm("channel_alarm_over", channel, place, BreakerState.CLOSED, "")
            )

    # --- claims -----------------------------------------------------------------------------

    async def _claim(self, change: HealthChange) -> bool:
        """Return whether the alarm is ours to raise; without Redis, better twice than never."""
        place = (change.channel_id, change.model)
        self._claimed.add(place)
        with contextlib.suppress(RelayError):
            async with redis.connect(self._redis_url(), application="relay-alarms") as client:
                return bool(await client.set(_key(client, place), b"", nx=True, ex=CLAIM_S))
        return True

    async def _give_back(self, place: tuple[int, str]) -> None:
        """End a claim; of those that had it, the one that takes it away tells, once."""
        if place not in self._claimed and place not in self._fading:
            return
        self._claimed.discard(place)
        del self._fading[place]
        ours = place in self._raised
        self._raised.discard(place)
        with contextlib.suppress(RelayError):
            async with redis.connect(self._redis_url(), application="relay-alarms") as client:
                ours = bool(await client.delete(_key(client, place)))
        if ours:
            await self._end(place)

    async def _fade(self, out: set[tuple[int, str]]) -> None:
        """Give back what nobody has told of for as long as a claim lasts."""
        self._fading.update(self._claimed - out)
        self._claimed &= out
        for place in [*self._fading]:
            if place in out:
                del self._fading[place]
                self._claimed.add(place)
            elif (self._fading[place] + 1) * self._renew_s >= CLAIM_S:
                await self._give_back(place)
            else:
                self._fading[place] += 1

    async def _renew_forever(self) -> None:
        """Keep the claims of what is still out, whoever raised the alarm."""
        while True:
            await asyncio.sleep(self._renew_s)
            out = {c[:2] for c in self._conditions() if c.state is not BreakerState.CLOSED}
            await self._fade(out)
            if self._claimed:
                with contextlib.suppress(RelayError):
                    await self._renew()

    async def _renew(self) -> None:
        async with (
            redis.connect(self._redis_url(), application="relay-alarms") as client,
            client.pipeline(transaction=False) as batch,
        ):
            for place in self._claimed:
                batch.expire(_key(client, place), CLAIM_S)
            await batch.execute()


def _key(client: Redis, place: tuple[int, str]) -> str:
    return redis.tagged(client, f"{KEY_PREFIX}{place[0]}:{place[1]}")


def _alarm(
    event: str, channel: str, place: tuple[int, str], state: BreakerState, reason: str
) -> Alarm:
    return Alarm(
        event=event,
        channel=channel,
        model=place[1] or "*",
        state=state.value,
        reason=reason,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
    )
