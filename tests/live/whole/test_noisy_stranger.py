"""Goal: a client that pays hardly notices what strangers and slow readers do beside it.

Method: a real relay of two workers. Beside it come at once 18,000 idle sockets, 1,000 slow readers,
pipelines (read and unread) and guessed keys, each kind out of a process of its own, which has of
the processors what nobody else wants (tests/live/noise.py). Whom the relay turns away is counted. A
client calls forty times a second over kept connections, in windows before them, among them and
after them: what is compared is the median of the windows' p99. The same client calls its upstream
without the relay at the same pace: by how much that becomes slower is the machine's doing, which
client, upstream and strangers share with the relay, and is taken off. Told are all figures, with
and without it, and who had the processors meanwhile.

For a machine of two cores or more where little else runs: where the windows before and after are
further apart than what may be added, nothing can be said, and the test says so. RELAY_NOISE_KINDS
names the kinds that come (all), RELAY_NOISE_MS_MAX, RELAY_NOISE_IDLE, RELAY_NOISE_READERS and
RELAY_NOISE_WINDOW_S change its size.
"""

import asyncio
import contextlib
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from relay.edge.server import connections_allowed
from tests.live.flood import Crowd, Upstream, quantile, request_of
from tests.live.processors import Processors
from tests.live.relay_process import RelayProcess, family

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(300)]

STRANGERS: Final = {
    "readers": int(os.environ.get("RELAY_NOISE_READERS", "1000")),
    "idle": int(os.environ.get("RELAY_NOISE_IDLE", "18000")),
    "guesses": 8,
    "pipelines": 4,
}
KINDS: Final = os.environ.get("RELAY_NOISE_KINDS", ",".join(STRANGERS)).split(",")
ADDED_MS_MAX: Final = float(os.environ.get("RELAY_NOISE_MS_MAX", "20"))
CONNECTIONS: Final = 16
CALLS_PER_S: Final = 40.0
WINDOWS: Final = 3
WINDOW_S: Final = float(os.environ.get("RELAY_NOISE_WINDOW_S", "10"))
UNDER_WAY_S: Final = 60.0
HELD_SHARE_MIN: Final = 0.95
"""Of those who come, as far as the limit of open files allows."""
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


# --- strangers ------------------------------------------------------------------------------------


class Strangers:
    """Those of one kind, and what they told: when all had come, and at their end."""

    def __init__(self, kind: str, process: asyncio.subprocess.Process) -> None:
        self.kind = kind
        self.process = process
        self.came: dict[str, Any] = {}
        self.went: dict[str, Any] = {}

    @classmethod
    async def send(cls, kind: str, relay: RelayProcess, *words: str) -> "Strangers":
        """Have them come."""
        port = relay.address.rpartition(":")[2]
        command = [sys.executable, "-m", "tests.live.noise", kind, str(STRANGERS[kind]), port]
        process = await asyncio.create_subprocess_exec(*command, *words, stdout=subprocess.PIPE)
        return cls(kind, process)

    async def tells(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        told: dict[str, Any] = json.loads(await self.process.stdout.readline() or "{}")
        return told

    async def arrive(self) -> None:
        """Wait until as many of them are there as may be."""
        async with asyncio.timeout(UNDER_WAY_S):
            self.came = await self.tells()

    async def leave(self) -> None:
        """Have them go, and hear what they were answered."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNDER_WAY_S):
                if self.process.returncode is None:
                    self.process.terminate()
                    self.went = await self.tells()
                    await self.process.wait()
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def __str__(self) -> str:
        return f"{self.kind} came {self.came} went {self.went}"


@contextlib.asynccontextmanager
async def noise(relay: RelayProcess, key: str, upstream: int) -> AsyncIterator[list[Strangers]]:
    """Have them all come; when the block ends they go."""
    words = {"readers": (key, str(upstream))}
    crowds = [await Strangers.send(kind, relay, *words.get(kind, ())) for kind in KINDS]
    try:
        await asyncio.gather(*(crowd.arrive() for crowd in crowds))
        yield crowds
    finally:
        await asyncio.gather(*(crowd.leave() for crowd in crowds))


def check_strangers(crowds: list[Strangers], connections: float) -> None:
    """See that those who should make noise did, as far as the limit of open files lets them in."""
    held = {crowd.kind: crowd.came["held"] for crowd in crowds}
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = 2 * connections_allowed(20_000, files)
    asked = sum(STRANGERS[kind] for kind in KINDS)
    assert connections >= HELD_SHARE_MIN * min(asked, room), held
    for crowd in crowds:
        assert crowd.went and not crowd.went["fallen"], crowd
        assert sum(crowd.went[kind] for kind in crowd.went if kind not in {"fallen"}) > 0


# --- the client -----------------------------------------------------------------------------------


class Window(NamedTuple):
    """What a client saw in one window, in milliseconds, over the relay and without it."""

    p50_ms: float
    p99_ms: float
    direct_p50_ms: float
    direct_p99_ms: float

    def __str__(self) -> str:
        return (
            f"p50 {self.p50_ms:.1f}, p99 {self.p99_ms:.1f} ms "
            f"(without the relay {self.direct_p50_ms:.1f}, {self.direct_p99_ms:.1f})"
        )


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
        return [await self._window() for _ in range(count)]

    async def _window(self) -> Window:
        crowds = self.relayed, self.direct
        for crowd in crowds:
            crowd.calls.clear()
        await asyncio.gather(*[crowd.offer(CALLS_PER_S, WINDOW_S) for crowd in crowds])
        await asyncio.sleep(1.0)
        self.statuses.update(one.status for one in self.relayed.calls)
        took = [[one.took_s for one in crowd.calls] for crowd in crowds]
        return Window(*(quantile(times, share) for times in took for share in (0.5, 0.99)))


class Stage:
    """One part of the test: how long it took, and who had the processors."""

    def __init__(self, relay: RelayProcess, crowds: list[Strangers]) -> None:
        workers = {f"worker {slot}": [pid] for slot, (pid, _) in sorted(relay.workers().items())}
        known = {pid for pids in workers.values() for pid in pids}
        rest = {one.pid for one in family(relay.process.pid)} - known
        self._processors = Processors(
            {
                **workers,
                "rest of the relay": rest,
                "client and upstream": [os.getpid()],
                **{crowd.kind: [crowd.process.pid] for crowd in crowds},
            }
        )
        self._begun_s = time.monotonic()

    def tell(self, name: str, windows: list[Window]) -> None:
        """Say what was found."""
        tell(f"{name}, {time.monotonic() - self._begun_s:.0f} s: {median(windows)}")
        tell(f"  windows' p99: {[round(one.p99_ms, 1) for one in windows]}")
        tell(f"  processors: {self._processors}")


def tell(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


async def test_a_paying_client_hardly_notices_the_strangers(reachable: Path) -> None:
    loop, slow, begun_s = asyncio.get_running_loop(), free_port(), time.monotonic()
    server = await loop.create_server(lambda: Upstream(10, 5), "127.0.0.1", 0)
    calm = server.sockets[0].getsockname()[1]
    async with RelayProcess.start(reachable / "noisy") as relay:
        await relay.apply(CATALOG.format(calm=calm, slow=slow))
        client = PayingClient(request_of(await relay.make_key("payer"), "calm", 600, 5))
        key = await relay.make_key("slow", "slow")
        await client.connect(int(relay.address.rpartition(":")[2]), calm)
        await client.windows(1)  # caches fill, connections to the upstream are made
        tell(f"serves after {time.monotonic() - begun_s:.0f} s")
        stage = Stage(relay, [])
        before = await client.windows(WINDOWS)
        stage.tell("before", before)
        async with noise(relay, key, slow) as crowds:
            stage = Stage(relay, crowds)
            among = await client.windows(WINDOWS)
            stage.tell("among strangers", among)
            await relay.figures_published()
            gauges = [figure.gauges for _, figure in relay.workers().values()]
        tell("\n".join(map(str, crowds)))
        stage = Stage(relay, [])
        after = await client.windows(WINDOWS)
        stage.tell("after", after)
        client.direct.leave()
    server.close()
    connections = sum(one["connections"] for one in gauges)
    memory = [int(one["resident_memory_bytes"]) for one in gauges]
    tell(f"{connections:.0f} connections, {[size >> 20 for size in memory]} MiB")
    tell(f"{dict(client.statuses)}, late {client.relayed.late}, lost {client.relayed.lost}")
    tell(f"in all {time.monotonic() - begun_s:.0f} s")
    quiet, noisy = median(before + after), median(among)
    machine_ms = max(0.0, noisy.direct_p99_ms - quiet.direct_p99_ms)
    added_ms = noisy.p99_ms - quiet.p99_ms - machine_ms
    tell(f"p99 grew by {noisy.p99_ms - quiet.p99_ms:.1f} ms, {added_ms:.1f} ms of it the relay's")
    check_strangers(crowds, connections)
    assert set(client.statuses) == {200} and not client.relayed.lost
    assert max(memory) < MEMORY_BYTES_MAX
    apart_ms = abs(median(before).p99_ms - median(after).p99_ms)
    assert apart_ms < ADDED_MS_MAX, "this machine is too busy otherwise to tell"
    assert added_ms < ADDED_MS_MAX
