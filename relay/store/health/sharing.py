"""A worker's part in the gossip: it tells what it finds out about channels, and believes the rest.

a change found here     -> told within SOON_S, several at once
anything in trouble     -> told again every RETELL_S, for who has just joined or missed it
what others found later -> taken over; what they found earlier is no news
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Final

from relay.clock import now_us, until_beat_s, wall_us
from relay.routing.health import Health, HealthChange
from relay.store.health.gossip import Gossip

SOON_S: Final = 0.02
"""One dead upstream fails many models at once: that is one message."""
RETELL_S: Final = 5.0


class HealthSharing:
    """Keeps one worker's Health and the others' in step while Redis answers.

    Args:
        redis_url: Returns where Redis is; raises DependencyDown where nobody knows.
        name: Of this worker, unlike any other's on any host.
        retell_s: Between two tellings of the same trouble.
    """

    def __init__(
        self, redis_url: Callable[[], str], name: str, *, retell_s: float = RETELL_S
    ) -> None:
        self._gossip = Gossip(redis_url, name, self._hear, self._hasten)
        self._retell_s = retell_s
        self._health: Health | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._later: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> bool:
        """Whether what others find out arrives here."""
        return self._gossip.connected

    def start(self, health: Health) -> None:
        """Share `health` until `stop`."""
        self._health = health
        self._gossip.start()
        self._tell()

    async def stop(self) -> None:
        """Stop sharing; the worker decides for itself."""
        for timer in (self._soon, self._later):
            if timer is not None:
                timer.cancel()
        self._health = None
        await self._gossip.stop()

    def on_changes(self, _changes: Iterable[HealthChange]) -> None:
        """Tell the others soon: `Health` knows what there is to tell."""
        if self._soon is None and self._health is not None:
            self._soon = asyncio.get_running_loop().call_later(SOON_S, self._tell)

    def _tell(self) -> None:
        assert self._health is not None, "the timers end with it"
        self._soon = None
        self._gossip.publish(self._health.encode(now_us=now_us(), wall_us=wall_us()))
        if self._later is not None:
            self._later.cancel()
        self._retell_later()

    def _retell_later(self) -> None:
        wait_s = until_beat_s(self._retell_s)
        self._later = asyncio.get_running_loop().call_later(wait_s, self._retell)

    def _retell(self) -> None:
        assert self._health is not None, "the timers end with it"
        if self._health.troubled:
            self._tell()
        else:
            self._retell_later()

    def _hear(self, message: bytes) -> None:
        if self._health is not None:
            # Another release may speak of health in another way; the worker then decides alone.
            with contextlib.suppress(ValueError):
                self._health.merge(message, now_us=now_us(), wall_us=wall_us())

    def _hasten(self, channel_id: int) -> None:
        if self._health is not None:
            self._health.hasten(channel_id, now_us())
