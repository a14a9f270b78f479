"""Goal: a client that pays hardly notices what strangers and slow readers do beside it.

Method: a real relay; its p99 is measured alone, and again while 18,000 idle sockets, 1,000 slow
readers, pipelines and guessed keys come at once, out of a process of the lowest priority. On a
machine that is busy otherwise the figures are as noisy: RELAY_NOISE_MS_MAX says what may be added.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.live.flood import Crowd, Upstream, quantile, request_of
from tests.live.relay_process import RelayProcess

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(400)]

IDLE: Final = int(os.environ.get("RELAY_NOISE_IDLE", "18000"))
READERS: Final = int(os.environ.get("RELAY_NOISE_READERS", "1000"))
ADDED_MS_MAX: Final = float(os.environ.get("RELAY_NOISE_MS_MAX", "20"))
CONNECTIONS: Final = 16
CALLS_PER_S: Final = 40.0
MEASURE_S: Final = 20.0
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


async def measure(crowd: Crowd) -> tuple[float, Counter[int]]:
    """Return the p99 in milliseconds of calls at a steady pace, and their statuses."""
    crowd.calls.clear()
    await crowd.offer(CALLS_PER_S, MEASURE_S)
    await asyncio.sleep(1.0)
    return quantile([one.took_s for one in crowd.calls], 0.99), Counter(
        one.status for one in crowd.calls
    )


async def test_a_paying_client_hardly_notices_the_strangers(reachable: Path) -> None:
    loop, slow = asyncio.get_running_loop(), free_port()
    server = await loop.create_server(lambda: Upstream(10, 5), "127.0.0.1", 0)
    calm = server.sockets[0].getsockname()[1]
    async with RelayProcess.start(reachable / "noisy") as relay:
        await relay.apply(CATALOG.format(calm=calm, slow=slow))
        crowd = Crowd(request_of(await relay.make_key("payer"), "calm", 600, 5))
        await crowd.connect(int(relay.address.rpartition(":")[2]), CONNECTIONS)
        await measure(crowd)  # caches fill, connections to the upstream are made
        alone_ms, statuses = await measure(crowd)
        assert set(statuses) == {200}
        async with noise(relay, await relay.make_key("slow", "slow"), slow) as said:
            await relay.figures_published()
            figures = [figure.gauges for _, figure in relay.workers().values()]
            among_ms, statuses = await measure(crowd)
        open_at_once = sum(gauges["connections"] for gauges in figures)
        memory = [int(gauges["resident_memory_bytes"]) for gauges in figures]
        sys.stdout.write(
            f"p99 alone {alone_ms:.1f} ms, among strangers {among_ms:.1f} ms; {dict(statuses)}, "
            f"late {crowd.late}, lost {crowd.lost}; {open_at_once:.0f} connections, "
            f"{[size >> 20 for size in memory]} MiB; strangers: {said[0]}"
        )
        assert set(statuses) == {200} and not crowd.lost
        assert open_at_once >= 0.95 * (IDLE + READERS)
        assert max(memory) < MEMORY_BYTES_MAX
        assert among_ms - alone_ms < ADDED_MS_MAX
    server.close()
