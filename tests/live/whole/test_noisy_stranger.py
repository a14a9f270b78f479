"""Goal: a client that pays hardly notices what strangers and slow readers do beside it.

Method: a real relay of two workers. Beside it, out of a process of the lowest priority, come at
once 18,000 idle sockets, 1,000 slow readers, pipelines (read and unread) and guessed keys. A client
calls forty times a second over kept connections, three windows alone and three among them: what is
compared is the median of the windows' p99. The same client calls its upstream without the relay at
the same pace: by how much that becomes slower is the machine's doing, which client, upstream and
strangers share with the relay, and is taken off. All figures are printed, with and without it.

For a quiet machine of two cores or more: where the windows alone are further apart than what may be
added, nothing can be said, and the test says so. RELAY_NOISE_MS_MAX, RELAY_NOISE_IDLE and
RELAY_NOISE_READERS change its size.
"""

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.live.flood import Crowd, Upstream, quantile, request_of
from tests.live.relay_process import RelayProcess

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(600)]

IDLE: Final = int(os.environ.get("RELAY_NOISE_IDLE", "18000"))
READERS: Final = int(os.environ.get("RELAY_NOISE_READERS", "1000"))
ADDED_MS_MAX: Final = float(os.environ.get("RELAY_NOISE_MS_MAX", "20"))
CONNECTIONS: Final = 16
CALLS_PER_S: Final = 40.0
WINDOWS: Final = 3
WINDOW_S: Final = float(os.environ.get("RELAY_NOISE_WINDOW_S", "15"))
UNDER_WAY_S: Final = 120.0
MEMORY_BYTES_MAX: Final = 500 * 1024 * 1024
"""Of a worker with half of them all."""
CATALOG: Final = """
[[channel]]
name = "calm"
base_url = "http://127.0.0.1:{calm}/v1"
models = ["calm"]
[[channel]]
name = "slow"
base_url = "http://127.0.0.1:{slow}/v1"
models = ["slow"]
[[line]]
name = "town"
channels = ["calm", "slow"]
[[group]]
name = "folk"
lines = ["town"]
[[price]]
model = "calm"
input = "0.01"
output = "0.02"
[[price]]
model = "slow"
input = "0.01"
output = "0.02"
[[account]]
name = "folk"
group = "folk"
credit_limit = "100"
[[account]]
name = "slow"
group = "folk"
credit_limit = "1000"
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def noise(relay: RelayProcess, key: str, upstream: int) -> AsyncIterator[list[str]]:
    """Have them all come; yield what they tell in the end."""
    words = ["-m", "tests.live.noise", relay.address.rpartition(":")[2], key, str(upstream)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, str(IDLE), str(READERS), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        async with asyncio.timeout(UNDER_WAY_S):
            assert await process.stdout.readline() == b"under way\n"
        yield said
    finally:
        if process.returncode is None:
            process.terminate()
        said.append((await process.stdout.read()).decode())
        await process.wait()


class Window(NamedTuple):
    """What a client saw in one window: p99 in milliseconds, over the relay and without it."""

    relayed_ms: float
    direct_ms: float


def median(windows: list[Window]) -> Window:
    return Window(*(statistics.median(figures) for figures in zip(*windows, strict=True)))


class PayingClient:
    """A client that calls over the relay, and the upstream itself for comparison."""

    def __init__(self, request: bytes) -> None:
        self.relayed, self.direct = Crowd(request), Crowd(request)
        self.statuses: Counter[int] = Counter()

    async def connect(self, relay: int, upstream: int) -> None:
        await self.relayed.connect(relay, CONNECTIONS)
        await self.direct.connect(upstream, CONNECTIONS)

    async def windows(self, count: int) -> list[Window]:
        """Call for so many windows."""
        found = []
        for _ in range(count):
            crowds = self.relayed, self.direct
            for crowd in crowds:
                crowd.calls.clear()
            await asyncio.gather(*[crowd.offer(CALLS_PER_S, WINDOW_S) for crowd in crowds])
            await asyncio.sleep(1.0)
            self.statuses.update(one.status for one in self.relayed.calls)
            found.append(
                Window(*(quantile([o.took_s for o in crowd.calls], 0.99) for crowd in crowds))
            )
        return found


async def test_a_paying_client_hardly_notices_the_strangers(reachable: Path) -> None:
    loop, slow = asyncio.get_running_loop(), free_port()
    server = await loop.create_server(lambda: Upstream(10, 5), "127.0.0.1", 0)
    calm = server.sockets[0].getsockname()[1]
    async with RelayProcess.start(reachable / "noisy") as relay:
        await relay.apply(CATALOG.format(calm=calm, slow=slow))
        client = PayingClient(request_of(await relay.make_key("payer"), "calm", 600, 5))
        await client.connect(int(relay.address.rpartition(":")[2]), calm)
        await client.windows(1)  # caches fill, connections to the upstream are made
        alone = await client.windows(WINDOWS)
        async with noise(relay, await relay.make_key("slow", "slow"), slow) as said:
            await relay.figures_published()
            figures = [figure.gauges for _, figure in relay.workers().values()]
            among = await client.windows(WINDOWS)
        client.direct.leave()
        open_at_once = sum(gauges["connections"] for gauges in figures)
        memory = [int(gauges["resident_memory_bytes"]) for gauges in figures]
        quiet, noisy = median(alone), median(among)
        machine_ms = max(0.0, noisy.direct_ms - quiet.direct_ms)
        added_ms = noisy.relayed_ms - quiet.relayed_ms - machine_ms
        apart_ms = max(one.relayed_ms for one in alone) - min(one.relayed_ms for one in alone)
        sys.stdout.write(
            f"p99 alone {quiet.relayed_ms:.1f} ms, among strangers {noisy.relayed_ms:.1f} ms; "
            f"without the relay {quiet.direct_ms:.1f} and {noisy.direct_ms:.1f} ms: "
            f"{added_ms:.1f} ms are the relay's; windows {alone}, {among}; "
            f"{dict(client.statuses)}, late {client.relayed.late}, lost {client.relayed.lost}; "
            f"{open_at_once:.0f} connections, {[size >> 20 for size in memory]} MiB; "
            f"strangers: {said[0]}"
        )
        assert set(client.statuses) == {200} and not client.relayed.lost
        assert open_at_once >= 0.95 * (IDLE + READERS)
        assert max(memory) < MEMORY_BYTES_MAX
        assert apart_ms < ADDED_MS_MAX, "this machine is too busy otherwise to tell"
        assert added_ms < ADDED_MS_MAX
    server.close()
