"""The control process's eye on the channels: alarms, probes and metrics, from what workers tell.

workers --gossip--> Overview --changes--> Alarms --> log, metric, webhook
                             --states---> Prober --> hints to the workers
                             --states---> /metrics
"""

import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from relay.clock import wall_us
from relay.control.watch.alarms import Alarms
from relay.control.watch.channel_names import ChannelBook
from relay.control.watch.prober import Prober
from relay.control.watch.webhook import Webhook
from relay.model import Channel, Secret
from relay.routing.breaker import BreakerState
from relay.routing.health import Condition
from relay.routing.overview import Overview, look_at
from relay.store.health.gossip import Gossip
from relay.store.postgres import Connection
from relay.store.secrets.vault import Vault
from relay.tasks import Bell, first_of

STATE_VALUES: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
ALL_MODELS: Final = "*"


class ChannelWatch(Collector):
    """Follows the gossip and acts on it.

    Args:
        redis_url: Returns where the workers gossip; raises DependencyDown where nobody knows.
        connect: Returns a new connection to the catalog.
        vault: Opens the channels' credentials.
        webhook: Where alarms go; None = nowhere.
        changed: Rings where the catalog has changed.
    """

    def __init__(
        self,
        redis_url: Callable[[], str],
        connect: Callable[[], Awaitable[Connection]],
        vault: Vault,
        webhook: Secret | None,
        changed: Bell,
    ) -> None:
        self._overview = Overview()
        self._gossip = Gossip(redis_url, f"control-{secrets.token_hex(8)}", self._hear)
        self._book = ChannelBook(connect, vault, changed)
        self._webhook = None if webhook is None else Webhook(webhook)
        self._alarms = Alarms(self._book.name, self._conditions, redis_url, self._webhook)
        self._prober = Prober(lambda: self._book.channels, self._conditions, redis_url)

    async def run(self) -> None:
        """Watch for ever."""
        works = [self._book.follow_forever(), self._alarms.run(), self._prober.run()]
        if self._webhook is not None:
            works.append(self._webhook.run())
        self._gossip.start()
        try:
            await first_of(*works)
        finally:
            await self._gossip.stop()

    def collect(self) -> Iterator[Metric]:
        """Return the channels' states, none while nobody tells of them, and the alarms so far."""
        states = GaugeMetricFamily(
            "relay_channel_state",
            "0 in service, 1 half-open, 2 open; model * is the channel as a whole.",
            labels=("channel", "model"),
        )
        if self._gossip.connected:
            for channel, model, state in channel_states(self._book.channels, self._conditions()):
                states.add_metric((channel, model), STATE_VALUES[state])
        yield states
        alarms = CounterMetricFamily(
            "relay_channel_alarms",
            "Channels that refused our credential, once for each time they went out of service.",
            labels=("channel", "reason"),
        )
        for labels, count in sorted(self._alarms.counts.items()):
            alarms.add_metric(labels, count)
        yield alarms

    def models_out(self) -> set[str]:
        """Return the models of which no channel is in service; none while nobody tells of them.

        A channel that its operator drains is none: that it is out is no news.
        """
        conditions = self._conditions()
        if not self._gossip.connected or not conditions:
            return set()
        found: dict[str, bool] = {}
        by_channel: dict[int, list[Condition]] = {}
        for condition in conditions:
            by_channel.setdefault(condition.channel_id, []).append(condition)
        for channel in self._book.channels.values():
            if channel.drained:
                continue
            whole, others = look_at(channel.models, by_channel.get(channel.id, []))
            for model in channel.models:
                well = others.get(model, whole).state is BreakerState.CLOSED
                found[model] = found.get(model, False) or well
        return {model for model, served in found.items() if not served}

    def _conditions(self) -> list[Condition]:
        return self._overview.conditions(wall_us())

    def _hear(self, message: bytes) -> None:
        # Another release may speak of health in another way; its own control process listens.
        with contextlib.suppress(ValueError):
            self._alarms.note(self._overview.hear(message, wall_us()))


def channel_states(
    channels: Mapping[int, Channel], conditions: Iterable[Condition]
) -> Iterator[tuple[str, str, BreakerState]]:
    """Yield (channel, model, state): each channel as a whole, and its models once in trouble."""
    by_channel: dict[int, list[Condition]] = {}
    for condition in conditions:
        by_channel.setdefault(condition.channel_id, []).append(condition)
    for channel in channels.values():
        own = by_channel.get(channel.id, [])
        whole, others = look_at(channel.models, own)
        yield channel.name, ALL_MODELS, whole.state
        for condition in own:
            if condition.model in channel.models:
                outlook = others.get(condition.model, whole)
                yield channel.name, condition.model, outlook.state
