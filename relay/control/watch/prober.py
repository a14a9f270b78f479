"""Finds out that a dead channel lives again before a client's call has to.

A channel that is left alone has no traffic by which it could prove itself; its next trial may be
two minutes away. The prober asks it the cheapest question there is, and when the answer changes
from bad to good it hints to the workers that the trial need not wait. A question that was answered
well all along says nothing about what ails the channel (its balance, one of its models), and gives
no hint: the breaker's own back-off stays in force.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Final

import aiohttp

from relay.clock import until_beat_s
from relay.errors import RelayError
from relay.model import Channel
from relay.routing.breaker import BreakerState
from relay.routing.health import Condition
from relay.routing.policy import Reason
from relay.store import redis
from relay.store.health.gossip import send_hint
from relay.wire.kinds.address import models_url, request_headers

TICK_S: Final = 1.0
PAUSE_S: Final = 10.0
DEADLINE_S: Final = 5.0
PROBES_MAX: Final = 32
"""Channels asked at once."""
SOON_S: Final = 1.0
"""A trial that is due by then needs no hint."""


class Prober:
    """Asks channels that are out of service.

    Args:
        channels: Returns the catalog's channels by id.
        conditions: Returns what is in trouble.
        redis_url: Returns where the workers listen; raises DependencyDown where nobody knows.
        pause_s: Between two questions to one channel.
        tick_s: Between two looks at what is in trouble.
    """

    def __init__(
        self,
        channels: Callable[[], Mapping[int, Channel]],
        conditions: Callable[[], Iterable[Condition]],
        redis_url: Callable[[], str],
        *,
        pause_s: float = PAUSE_S,
        tick_s: float = TICK_S,
    ) -> None:
        self._channels = channels
        self._conditions = conditions
        self._redis_url = redis_url
        self._pause_s = pause_s
        self._tick_s = tick_s
        self._asked_s: dict[int, float] = {}
        """By channel in trouble: when it was last asked."""
        self._seen_down: set[int] = set()
        """Channels whose last question went unanswered."""

    async def run(self) -> None:
        """Ask for ever."""
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            while True:
                due = self._due(time.monotonic())
                await asyncio.gather(*(self._probe(session, channel) for channel in due))
                await asyncio.sleep(until_beat_s(self._tick_s))

    def _due(self, now_s: float) -> list[Channel]:
        """Return the channels to ask now, and forget those that are out of trouble."""
        conditions = [c for c in self._conditions() if c.state is not BreakerState.CLOSED]
        troubled = {c.channel_id for c in conditions}
        waiting = {c.channel_id for c in conditions if _waits(c)}
        self._asked_s = {id_: at_s for id_, at_s in self._asked_s.items() if id_ in troubled}
        self._seen_down &= troubled
        found = [
            channel
            for channel_id, channel in self._channels().items()
            if channel_id in waiting
            and not channel.drained
            and models_url(channel)
            and now_s - self._asked_s.get(channel_id, -inf) >= self._pause_s
        ]
        return found[:PROBES_MAX]

    async def _probe(self, session: aiohttp.ClientSession, channel: Channel) -> None:
        self._asked_s[channel.id] = time.monotonic()
        if not await _answers(session, channel):
            self._seen_down.add(channel.id)
        elif channel.id in self._seen_down:
            self._seen_down.discard(channel.id)
            # Without Redis no worker hears a hint, and each tries the channel in its own time.
            with contextlib.suppress(RelayError):
                async with redis.connect(self._redis_url(), application="relay-prober") as client:
                    await send_hint(client, channel.id)


def _waits(condition: Condition) -> bool:
    """Tell whether a hint would help: not where the upstream itself asked us to wait."""
    left_alone = condition.state is BreakerState.OPEN and condition.reason is not Reason.LIMITED
    return left_alone and condition.trial_in_s > SOON_S


async def _answers(session: aiohttp.ClientSession, channel: Channel) -> bool:
    """Ask for the models; no redirect is followed, so the credential goes nowhere else."""
    headers = {"accept": "application/json", **request_headers(channel)}
    try:
        async with session.get(
            models_url(channel), headers=headers, allow_redirects=False
        ) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, OSError, ValueError):
        return False
