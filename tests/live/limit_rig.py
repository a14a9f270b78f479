"""Limiters on a real server, and a server that a test may hurt.

Goal: tests of the limiter say what happens, not how it is set up. Method: context managers.
"""

import asyncio
import itertools
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from redis.asyncio import Redis

from relay.limits.bucket import Rule
from relay.limits.decision import Denied
from relay.limits.limit_set import Costs, Grant, LimitSet
from relay.limits.scopes import Bucket, ConcurrencyLimit, Limit, Measure, Scope
from relay.model import OnLoss
from relay.store.embedded.embedded import Embedded
from relay.store.limits.limiter import Limiter
from relay.store.limits.nodes import one_node
from relay.store.limits.resp import connect

_numbers = itertools.count(1)


def now_ms() -> float:
    return time.monotonic() * 1_000


def bucket(
    per_minute: int,
    burst_ms: int = 6_000,
    *,
    name: str = "1",
    on_loss: OnLoss = OnLoss.SHARE,
    measure: Measure = Measure.TOKENS,
) -> Bucket:
    tag = f"{{l:{name}}}"
    key = f"relay:{tag}:{measure}"
    rule = Rule(per_minute, burst_ms)
    return Bucket(key, tag, Scope.LINE, measure, rule, on_loss=on_loss)


def concurrency(permits: int) -> ConcurrencyLimit:
    return ConcurrencyLimit("relay:{l:1}:seats", "{l:1}", Scope.LINE, permits)


@asynccontextmanager
async def limiter_on(url: str) -> AsyncIterator[Limiter]:
    """A limiter that runs, under a name that no other has, of whichever process."""

    async def locate() -> str:
        return url

    async with Limiter(
        one_node(locate), f"worker-{os.getpid()}-{next(_numbers)}", now_ms
    ) as limiter:
        yield limiter


async def ask(
    limiter: Limiter,
    bucket: Bucket,
    cost: int = 1,
    concurrencies: tuple[ConcurrencyLimit, ...] = (),
) -> Grant | Denied:
    """Ask as the flow does; no call may wait for longer than two deadlines."""
    return await ask_all(limiter, [(bucket, cost)], concurrencies)


async def ask_all(
    limiter: Limiter,
    draws: Sequence[tuple[Bucket, int]],
    concurrencies: tuple[ConcurrencyLimit, ...] = (),
) -> Grant | Denied:
    """Ask for several buckets at once."""
    limit_set, costs = limit_set_of(draws, concurrencies)
    began_ms = now_ms()
    decision = limiter.admit(limit_set, costs)
    if decision is None:
        decision = await limiter.wait(limit_set, costs)
        assert now_ms() - began_ms < 1_000  # a deadline is 50 ms; a busy machine adds to it
    return decision


def limit_set_of(
    draws: Sequence[tuple[Bucket, int]], concurrencies: tuple[ConcurrencyLimit, ...] = ()
) -> tuple[LimitSet, Costs]:
    """Return a limit set of these buckets and concurrency limits, and the costs in its order."""
    limits = [Limit(tuple(bucket for bucket, _ in draws), None)]
    limits += [Limit((), concurrency) for concurrency in concurrencies]
    limit_set = LimitSet(tuple(limits))
    costs = dict(draws)
    return limit_set, [costs[bucket] for bucket in limit_set.buckets]


async def spend(limiter: Limiter, bucket: Bucket, cost: int, seconds: float) -> int:
    """Ask for calls at every turn of the loop, and return the tokens admitted."""
    admitted = 0
    end_ms = now_ms() + seconds * 1_000
    while now_ms() < end_ms:
        if isinstance(await ask(limiter, bucket, cost), Grant):
            admitted += cost
        await asyncio.sleep(0.001)
    return admitted


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


class Server:
    """A server that a test may stop, kill and fill."""

    def __init__(self, embedded: Embedded) -> None:
        self._embedded = embedded
        self.url = embedded.redis_url
        self._pid = 0

    async def run(self, *command: str) -> object:
        connection = await connect(self.url)
        [reply] = await connection.ask([command])
        connection.close()
        return reply

    async def send(self, number: signal.Signals) -> None:
        """Send a signal to it; it may be unable to answer."""
        if not self._pid:
            client = Redis.from_url(self.url)
            self._pid = (await client.info("server"))["process_id"]
            await client.aclose()
        os.kill(self._pid, number)

    async def revive(self) -> None:
        """Start it again, empty, at the same address."""
        async with asyncio.timeout(10):
            while not await self._embedded.revive():
                await asyncio.sleep(0.005)
        self._pid = 0


@contextmanager
def _open_folder(folder: Path) -> Iterator[Path]:
    """A folder that the server's user can reach."""
    with tempfile.TemporaryDirectory(prefix="bank-", dir=folder) as place:
        path = Path(place)
        path.chmod(0o755)
        yield path


@asynccontextmanager
async def own_server(folder: Path) -> AsyncIterator[Server]:
    """A server of this test alone, whose guard is old: so buckets begin full."""
    with _open_folder(folder) as place:
        embedded = Embedded(place, postgres=False)
        await embedded.start()
        server = Server(embedded)
        try:
            await server.run("SET", "relay:born", "0")
            yield server
        finally:
            if server._pid:
                with suppress(ProcessLookupError):
                    os.kill(server._pid, signal.SIGCONT)
            await embedded.stop()
