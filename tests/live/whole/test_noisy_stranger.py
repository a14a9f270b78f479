"""Goal: a client that pays hardly notices what strangers and slow readers do beside it.

Method: a real relay of two workers. Beside it come at once 18,000 idle sockets, 1,000 slow readers,
pipelines (read and unread) and guessed keys, each kind out of a process of its own, which has of
the processors what nobody else wants (tests/live/noise.py). Whom the relay turns away is counted. A
client calls forty times a second over kept connections, in windows before them, among them and
after them: what is compared is the median of the windows' p99. The same client calls its upstream
at the same pace by a process that only passes bytes on (tests/live/plain_way.py): by how much that
becomes slower is the machine's doing, and is taken off. Told are all figures, with and without it,
and who had the processors meanwhile.

For a machine of two cores or more where little else runs: where the windows before and after are
further apart than what may be added, nothing can be said, and the test says so. RELAY_NOISE_KINDS
names the kinds that come (all), RELAY_NOISE_MS_MAX, RELAY_NOISE_IDLE, RELAY_NOISE_READERS,
RELAY_NOISE_PIPELINES and RELAY_NOISE_WINDOW_S change its size.
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
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from relay.edge.server import connections_allowed
from tests.live.flood import Crowd, quantile, request_of
from tests.live.processors import Processors
from tests.live.relay_process import RelayProcess, family

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(300)]

STRANGERS: Final = {
    "readers": int(os.environ.get("RELAY_NOISE_READERS", "1000")),
    "idle": int(os.environ.get("RELAY_NOISE_IDLE", "18000")),
    "guesses": 8,
    "pipelines": int(os.environ.get("RELAY_NOISE_PIPELINES", "4")),
}
KINDS: Final = os.environ.get("RELAY_NOISE_KINDS", ",".join(STRANGERS)).split(",")
ADDED_MS_MAX: Final = float(os.environ.get("RELAY_NOISE_MS_MAX", "20"))
CONNECTIONS: Final = 16
CALLS_PER_S: Final = 40.0
WINDOWS: Final = 3
WINDOW_S: Final = float(os.environ.get("RELAY_NOISE_WINDOW_S", "8"))
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
    assert connections >= HELD_SHARE_MIN * min(asked, room), f"too few could come: {held}"
    for crowd in crowds:
        assert crowd.went and not crowd.went["fallen"], crowd
        assert sum(crowd.went[kind] for kind in crowd.went if kind not in {"fallen"}) > 0


@contextlib.contextmanager
def complaining(relay: RelayProcess) -> Iterator[None]:
    """Tell in the end what the relay had to say of it all."""
    try:
        yield
    finally:
        events = Counter(json.loads(line)["event"] for line in relay.complaints())
        tell(f"the relay says: {dict(events)}")


@contextlib.asynccontextmanager
async def plain_way(*words: str) -> AsyncIterator[tuple[int, int]]:
    """Run a process of tests.live.plain_way; yield its port and its pid."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.live.plain_way", *words),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield int(await process.stdout.readline()), process.pid
    finally:
        process.stdin.close()
        await process.wait()


# --- the client -----------------------------------------------------------------------------------


class Window(NamedTuple):
    """What a client saw in one window, in milliseconds, over the relay and by the plain way."""

    p50_ms: float
    p99_ms: float
    plain_p50_ms: float
    plain_p99_ms: float

    def __str__(self) -> str:
        return (
            f"p50 {self.p50_ms:.1f}, p99 {self.p99_ms:.1f} ms "
            f"(by the plain way {self.plain_p50_ms:.1f}, {self.plain_p99_ms:.1f})"
        )


def median(windows: list[Window]) -> Window:
    return Window(*(statistics.median(figures) for figures in zip(*windows, strict=True)))


class PayingClient:
    """A client that calls over the relay, and by the plain way for comparison."""

    def __init__(self, request: bytes) -> None:
        self.relayed, self.plain = Crowd(request), Crowd(request)
        self.statuses: Counter[int] = Counter()

    async def connect(self, relay: int, plain: int) -> None:
        await self.relayed.connect(relay, CONNECTIONS)
        await self.plain.connect(plain, CONNECTIONS)

    async def windows(self, count: int) -> list[Window]:
        """Call for so many windows."""
        return [await self._window() for _ in range(count)]

    async def _window(self) -> Window:
        crowds = self.relayed, self.plain
        for crowd in crowds:
            crowd.calls.clear()
        await asyncio.gather(*[crowd.offer(CALLS_PER_S, WINDOW_S) for crowd in crowds])
        await asyncio.sleep(1.0)
        self.statuses.update(one.status for one in self.relayed.calls)
        took = [[one.took_s for one in crowd.calls] for crowd in crowds]
        return Window(*(quantile(times, share) for times in took for share in (0.5, 0.99)))


class Stage:
    """One part of the test: how long it took, and who had the processors.

    Args:
        relay: Whose processes are told apart: workers, and the rest.
        others: Further processes, by name.
    """

    def __init__(self, relay: RelayProcess, others: dict[str, int]) -> None:
        workers = {slot: [pid] for slot, (pid, _) in sorted(relay.workers().items())}
        known = {pid for pids in workers.values() for pid in pids}
        rest = {one.pid for one in family(relay.process.pid)} - known
        more = {name: [pid] for name, pid in others.items()}
        groups = {**workers, "rest of the relay": rest, "client": [os.getpid()], **more}
        self._processors = Processors(groups)
        self._begun_s = time.monotonic()

    def tell(self, name: str, windows: list[Window]) -> Window:
        """Say what was found; return the median of the windows."""
        found = median(windows)
        tell(f"{name}, {time.monotonic() - self._begun_s:.0f} s: {found}")
        tell(f"  windows' p99: {[round(one.p99_ms, 1) for one in windows]}")
        tell(f"  by the plain way: {[round(one.plain_p99_ms, 1) for one in windows]}")
        tell(f"  processors: {self._processors}")
        return found


def tell(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


class Found(NamedTuple):
    """What a paying client met before, among and after the strangers, and what was left of them."""

    before: Window
    among: Window
    after: Window
    crowds: list[Strangers]
    gauges: list[dict[str, float]]
    """Of each worker, among them."""

    @property
    def grew_ms(self) -> float:
        """By how much the p99 grew."""
        return self.among.p99_ms - (self.before.p99_ms + self.after.p99_ms) / 2

    @property
    def added_ms(self) -> float:
        """How much of that the relay added, and not the machine."""
        plain_ms = (
            self.among.plain_p99_ms - (self.before.plain_p99_ms + self.after.plain_p99_ms) / 2
        )
        return self.grew_ms - max(0.0, plain_ms)


async def measure(
    relay: RelayProcess, client: PayingClient, others: dict[str, int], key: str, slow: int
) -> Found:
    """Have a client call before, among and after strangers; tell of each."""
    await client.windows(1)  # caches fill, connections to the upstream are made
    stage = Stage(relay, others)
    before = stage.tell("before", await client.windows(WINDOWS))
    async with noise(relay, key, slow) as crowds:
        stage = Stage(relay, {**others, **{one.kind: one.process.pid for one in crowds}})
        among = stage.tell("among strangers", await client.windows(WINDOWS))
        await relay.figures_published()
        gauges = [figure.gauges for _, figure in relay.workers().values()]
    tell("\n".join(map(str, crowds)))
    stage = Stage(relay, others)
    after = stage.tell("after", await client.windows(WINDOWS))
    return Found(before, among, after, crowds, gauges)


async def test_a_paying_client_hardly_notices_the_strangers(reachable: Path) -> None:
    begun_s = time.monotonic()
    async with (
        plain_way("upstream") as (upstream, upstream_pid),
        plain_way("forward", str(upstream)) as (forward, forward_pid),
        RelayProcess.start(reachable / "noisy") as relay,
    ):
        with complaining(relay):
            slow = free_port()
            await relay.apply(CATALOG.format(calm=upstream, slow=slow))
            client = PayingClient(request_of(await relay.make_key("payer"), "calm", 600, 5))
            key = await relay.make_key("slow", "slow")
            await client.connect(int(relay.address.rpartition(":")[2]), forward)
            tell(f"serves after {time.monotonic() - begun_s:.0f} s")
            others = {"upstream": upstream_pid, "plain way": forward_pid}
            found = await measure(relay, client, others, key, slow)
            late, lost = client.relayed.late, client.relayed.lost
    connections = sum(one["connections"] for one in found.gauges)
    memory = [int(one["resident_memory_bytes"]) for one in found.gauges]
    tell(f"{connections:.0f} connections, {[size >> 20 for size in memory]} MiB")
    tell(f"{dict(client.statuses)}, late {late}, lost {lost}")
    tell(f"p99 grew by {found.grew_ms:.1f} ms, {found.added_ms:.1f} ms of it the relay's")
    tell(f"in all {time.monotonic() - begun_s:.0f} s")
    check_strangers(found.crowds, connections)
    assert set(client.statuses) == {200} and not lost
    assert max(memory) < MEMORY_BYTES_MAX
    apart_ms = abs(found.before.p99_ms - found.after.p99_ms)
    assert apart_ms < ADDED_MS_MAX, "this machine is too busy otherwise to tell"
    assert found.added_ms < ADDED_MS_MAX
