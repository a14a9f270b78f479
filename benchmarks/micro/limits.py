"""`relay bench limits`: what all limits together add to a call, as CPU in the worker.

Six buckets, and nothing to be asked:

    weigh the body -> estimate, take from six leases, header lines -> ... -> settle, learn

Six is what a key's call draws on whose line, account and key all have tokens and requests a minute.
The leases are full, as they are for a busy key: the round trips that fill them are counted by
tests/live/test_limits_flood.py. Printed is the least of several rounds, and the median.
"""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import click

from relay.flow.call import Call
from relay.flow.counters import Counters
from relay.flow.ports import Client
from relay.flow.request import RequestFacts, Rights
from relay.flow.reserve.limits import LimitReservation
from relay.limits.estimate import Estimator
from relay.model import Account, Key, Line
from relay.stage import Stage
from relay.store.limits.limiter import Limiter
from relay.store.limits.nodes import one_node
from relay.usage import Usage
from relay.wire.request.text_size import weigh

MUCH = 10**15
BODY = (b'{"model":"gpt-4o-mini","max_tokens":700,"messages":[{"role":"user","content":"%b"}]}') % (
    b"A question of several words, to be answered at length. " * 100
)
USAGE = Usage(input_tokens=1_400, cached_tokens=200, output_tokens=600)
LIMITS: dict[str, Any] = {"tpm": 30_000_000, "rpm": 600_000}


async def _nowhere() -> str:
    raise AssertionError("nothing is asked")


class Bench:
    """A reservation with full leases, and calls that pay it.

    Args:
        permits: Whether calls at once are limited as well, in three concurrency limits.
    """

    def __init__(self, *, permits: bool) -> None:
        limits = LIMITS | ({"concurrency": 1_000} if permits else {})
        self._limiter = Limiter(one_node(_nowhere), "bench", lambda: time.monotonic() * 1_000)
        self._rates = LimitReservation(self._limiter, Estimator(), Counters())
        self._key = Key(id=1, account_id=1, name="k", digest=b"", last4="", **limits)
        self._line = Line(id=1, name="line", channel_ids=(), **limits)
        self._account = Account(id=1, name="acme", group_id=1, **limits)
        call = self.call()
        call.request = RequestFacts("gpt-4o-mini", output_tokens_max=700, counts_bytes=True)
        assert self._rates.take(call) is False, "nothing is leased yet"
        call_limits = self._rates._call_limits_of(call)  # noqa: SLF001 - the bank's part is played here
        for lease in self._limiter._broker.leases.drawn_on(call_limits, 0.0):  # noqa: SLF001
            lease.balance = MUCH
        for concurrency in call_limits.concurrencies:
            block = self._limiter._permits._open(concurrency)  # noqa: SLF001
            block.granted = MUCH
        assert self._rates.take(call)
        assert len(call_limits.buckets) == 6

    def call(self) -> Call:
        """Return a call as admission leaves it."""
        call = Call(bytes(16), cast("Client", None), 0)
        call.rights = Rights(self._key, self._account, None, self._line)
        return call

    def with_limits(self, calls: int) -> None:
        """Make calls that pay."""
        rates = self._rates
        for _ in range(calls):
            call = self.call()
            text_bytes, images = weigh(BODY)
            call.request = RequestFacts(
                "gpt-4o-mini",
                output_tokens_max=700,
                text_bytes=text_bytes,
                images=images,
                counts_bytes=True,
            )
            rates.take(call)
            call.stage = Stage.COMMITTED
            call.usage = USAGE
            rates.close(call, USAGE, 0)

    def without(self, calls: int) -> None:
        """Make calls that do not."""
        for _ in range(calls):
            call = self.call()
            call.stage = Stage.COMMITTED
            call.usage = USAGE


def cost_us(work: Callable[[int], None], calls: int) -> float:
    """Return the CPU that one call takes, in microseconds."""
    gc.collect()
    begun_ns = time.process_time_ns()
    work(calls)
    return (time.process_time_ns() - begun_ns) / calls / 1_000


@click.command()
@click.option("--rounds", type=click.IntRange(1, 1_000), default=15, show_default=True)
@click.option("--calls", type=click.IntRange(1, 1_000_000), default=20_000, show_default=True)
@click.option(
    "--permits", "--seats", "permits", is_flag=True, help="Three limits of calls at once as well."
)
def command(rounds: int, calls: int, *, permits: bool) -> None:
    """Measure what all limits together add to a call in the worker."""
    bench = Bench(permits=permits)
    bench.with_limits(calls)
    added = []
    for _ in range(rounds):
        plain = cost_us(bench.without, calls)
        added.append(cost_us(bench.with_limits, calls) - plain)
    found = {
        "buckets": 6,
        "concurrencies": 3 if permits else 0,
        "added_cpu_us_per_call": round(min(added), 2),
        "median_us": round(statistics.median(added), 2),
        "worst_us": round(max(added), 2),
    }
    sys.stdout.write(json.dumps(found) + "\n")
