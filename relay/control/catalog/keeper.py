"""Keeps the catalog in step: lists taken over by rule, official prices obeyed, margins counted.

every 10 s    channels with `models_auto` that were not asked for an hour: their lists, taken over
every minute  what calls of the minute before last earned and cost; prices above the rule's ceiling

A list that looks broken (empty, or most of it gone) is told and left alone. So is a price above the
ceiling: it was all right when it was set, and whose fault that is only an operator can tell.
"""

import datetime
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from math import inf
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from relay.control.catalog.questions import ask_lists
from relay.control.looking import look_forever
from relay.control.watch.webhook import Notice
from relay.store.catalog.sale.listed import ListChange, read_stated, take_over
from relay.store.catalog.sale.official import Breach, read_breaches
from relay.store.catalog.snapshot import load_channels
from relay.store.log.margins import MODELS_MAX, list_margins
from relay.store.postgres import Connection
from relay.store.secrets.vault import Vault
from relay.units import NANOS_PER_USD

LOOK_S: Final = 10.0
BACKOFF_S_MAX: Final = 60.0
ASK_S: Final = 3600.0
"""Providers add models by the week; an hour is soon."""
LATE: Final = datetime.timedelta(minutes=2)
"""The shipper has all calls of a minute by then."""
MINUTE: Final = datetime.timedelta(minutes=1)
SPAN_MAX: Final = datetime.timedelta(minutes=15)
"""What is caught up after an outage; calls before it are in the log, not in the metrics."""
OTHERS: Final = "other"
NAMED_MAX: Final = 20

_log = logging.getLogger(__name__)


class ModelsMoved(Notice, frozen=True, kw_only=True):
    """A channel's list changed: what was taken over, or why nothing was."""

    channel: str
    gained: list[str]
    lost: list[str]
    vanished: list[str]
    doubt: str


class PriceExceeded(Notice, frozen=True, kw_only=True):
    """A price is above `billing.official_max` times the official one."""

    model: str
    rate: str
    official_usd: str
    asked_usd: str
    times: str


class CatalogKeeper(Collector):
    """Looks after the catalog on a connection of its own.

    Args:
        connect: Returns a new connection to the catalog.
        vault: Opens the channels' credentials.
        official_max: How many times an official price may be asked; "" = as one likes.
        send: Sends a notice to the operator; None = only log and metrics tell.
        clock_s: A clock that never jumps.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        vault: Vault,
        official_max: str,
        send: Callable[[Notice], None] | None,
        clock_s: Callable[[], float],
    ) -> None:
        self._connect = connect
        self._vault = vault
        self._official_max = official_max
        self._send = send
        self._clock_s = clock_s
        self._asked_s: dict[str, float] = {}
        self._told: dict[tuple[str, str], Breach] = {}
        self._breaches: list[Breach] = []
        self._counted: datetime.datetime | None = None
        self._earned: Counter[tuple[str, str]] = Counter()
        self._spent: Counter[tuple[str, str]] = Counter()

    async def run(self) -> None:
        """Keep for ever, whatever happens to Postgres meanwhile."""

        async def look(connection: Connection) -> None:
            await self.look(connection, datetime.datetime.now(datetime.UTC))

        await look_forever(
            self._connect, look, name="catalog keeper", every_s=LOOK_S, most_s=BACKOFF_S_MAX
        )

    async def look(self, connection: Connection, now: datetime.datetime) -> None:
        """Do what is due at `now` (aware)."""
        await self._take_over(connection)
        minute = (now - LATE).replace(second=0, microsecond=0)
        if self._counted is None or minute > self._counted:
            since = max(self._counted or minute - MINUTE, minute - SPAN_MAX)
            await self._count(connection, since, minute)
            self._counted = minute
            await self._look_at_prices(connection)

    def collect(self) -> Iterator[Metric]:
        """Return what was earned and spent, and how many prices are above the ceiling."""
        for name, told, sums in (
            ("relay_earned_usd", "What calls were charged.", self._earned),
            ("relay_upstream_cost_usd", "What they cost at official prices.", self._spent),
        ):
            metric = CounterMetricFamily(name, told, labels=("line", "model"))
            for labels, nanos in sorted(sums.items()):
                metric.add_metric(labels, nanos / NANOS_PER_USD)
            yield metric
        yield GaugeMetricFamily(
            "relay_prices_above_official_max",
            "Rates above billing.official_max times the official price.",
            value=len(self._breaches),
        )

    async def _take_over(self, connection: Connection) -> None:
        now_s = self._clock_s()
        due = {
            one.channel
            for one in await read_stated(connection)
            if one.auto and one.patterns and now_s - self._asked_s.get(one.channel, -inf) >= ASK_S
        }
        if not due:
            return
        channels = (await load_channels(connection, self._vault)).values()
        self._asked_s |= dict.fromkeys(due, now_s)
        answers = await ask_lists([one for one in channels if one.name in due])
        for answer in answers:
            if answer.trouble:
                _log.warning(
                    "a channel does not list its models",
                    extra={"channel": answer.channel, "error": answer.trouble},
                )
        lists = {one.channel: one.models for one in answers if not one.trouble}
        for change in await take_over(connection, lists, even_doubtful=False):
            if change.changes or change.vanished:
                self._tell_list(change)

    def _tell_list(self, change: ListChange) -> None:
        _log.warning(
            "a channel's list is doubted and left alone" if change.doubt else "models moved",
            extra={
                "channel": change.channel,
                "gained": len(change.gained),
                "lost": len(change.lost),
                "vanished": len(change.vanished),
            },
        )
        if self._send is not None:
            self._send(
                ModelsMoved(
                    event="models_moved",
                    time=_now(),
                    channel=change.channel,
                    gained=change.gained[:NAMED_MAX],
                    lost=change.lost[:NAMED_MAX],
                    vanished=change.vanished[:NAMED_MAX],
                    doubt=change.doubt,
                )
            )

    async def _look_at_prices(self, connection: Connection) -> None:
        if not self._official_max:
            return
        self._breaches = await read_breaches(connection, self._official_max)
        now = {(one.model, one.rate): one for one in self._breaches}
        for place, breach in now.items():
            if place not in self._told:
                extra = {"model": breach.model, "rate": breach.rate, "times": breach.times}
                _log.error("a price is above billing.official_max", extra=extra)
                self._notify("price_exceeded", breach)
        for place, breach in self._told.items():
            if place not in now:
                extra = {"model": breach.model, "rate": breach.rate}
                _log.warning("a price is within billing.official_max again", extra=extra)
                self._notify("price_exceeded_over", breach)
        self._told = now

    def _notify(self, event: str, breach: Breach) -> None:
        if self._send is not None:
            self._send(
                PriceExceeded(
                    event=event,
                    time=_now(),
                    model=breach.model,
                    rate=breach.rate,
                    official_usd=breach.official_usd,
                    asked_usd=breach.asked_usd,
                    times=breach.times,
                )
            )

    async def _count(
        self, connection: Connection, since: datetime.datetime, until: datetime.datetime
    ) -> None:
        for margin in await list_margins(connection, since, until):
            labels = (margin.line, margin.model)
            if labels not in self._earned and len(self._earned) >= MODELS_MAX:
                labels = (margin.line, OTHERS)
            self._earned[labels] += margin.earned_nanos
            self._spent[labels] += margin.spent_nanos or 0


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
