"""One run: a load on a running target, with everything that the processes used meanwhile."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from benchmarks.load.drive import put_load
from benchmarks.load.job import Job, Merged
from benchmarks.report.figures import Usage, derive
from benchmarks.targets.place import Server
from benchmarks.targets.processes import CpuMeter, core_busy_share, core_busy_ticks, rss_bytes
from benchmarks.targets.redis_counters import RedisCounters, read_counters
from benchmarks.targets.upstream import Upstream


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """Which cores are whose, and how many generator processes there are."""

    target_cores: frozenset[int] = frozenset({0})
    load_cores: frozenset[int] = frozenset({1})
    generators: int = 1


def bench_here(generators: int = 1) -> Bench:
    """Return the first core for the target, the others, if there are any, for load and upstream."""
    cores = sorted(os.sched_getaffinity(0))
    return Bench(
        target_cores=frozenset(cores[:1]),
        load_cores=frozenset(cores[1:] or cores),
        generators=generators,
    )


class Watch:
    """Reads everything at both edges of a window.

    Args:
        bench: Whose cores are whose.
        server: The target; None where only the load is watched.
        upstreams: What is behind it.
    """

    def __init__(self, bench: Bench, server: Server | None, upstreams: list[Upstream]) -> None:
        self._bench = bench
        self._server = server
        self._upstreams = upstreams
        self.usage = Usage(window_s=1.0)

    def begin(self) -> None:
        """Note how things stand at the beginning of the window."""
        server = self._server
        self._begun_s = time.monotonic()
        self._busy = {core: core_busy_ticks(core) for core in self._cores()}
        self._upstream_cpu = [CpuMeter([upstream.pid]) for upstream in self._upstreams]
        self._redis = _counters(server)
        self._tree = CpuMeter(server.pids() if server else [])
        self._carriers = CpuMeter(server.carriers() if server else [])

    def end(self) -> None:
        """Work out what was used since."""
        window_s = time.monotonic() - self._begun_s
        here, targets = self._server is not None, self._bench.target_cores
        redis = _counters(self._server)
        self.usage = Usage(
            window_s=window_s,
            tree_s=self._tree.used_s() if here else None,
            carriers_s=self._carriers.used_s() if here else None,
            upstream_share=max((m.used_s() / window_s for m in self._upstream_cpu), default=None),
            load_cores_share=self._share(self._bench.load_cores, window_s),
            target_cores_share=self._share(targets, window_s) if targets else None,
            target_cores=max(1, len(targets)),
            one_core=targets == self._bench.load_cores,
            rss_bytes=rss_bytes(self._server.pids()) if self._server else None,
            redis=redis.since(self._redis) if redis and self._redis else None,
        )

    def _cores(self) -> frozenset[int]:
        return self._bench.load_cores | self._bench.target_cores

    def _share(self, cores: frozenset[int], window_s: float) -> float:
        shares = [core_busy_share(core, window_s, self._busy[core]) for core in cores]
        return sum(shares) / len(shares)


def _counters(server: Server | None) -> RedisCounters | None:
    if server is None or server.redis is None:
        return None
    return read_counters(server.redis)


def measure(
    bench: Bench,
    job: Job,
    server: Server | None,
    upstreams: list[Upstream],
    on_end: Callable[[], None] = lambda: None,
    stop: threading.Event | None = None,
) -> tuple[dict[str, Any], Merged]:
    """Put `job` on a target; return the figures, and what they were derived from.

    `on_end` is called when the window closes, while everything still runs; `stop` closes it early.
    """
    watch = Watch(bench, server, upstreams)

    def end() -> None:
        watch.end()
        on_end()

    seen = put_load(
        job,
        processes=bench.generators,
        cores=set(bench.load_cores),
        on_begin=watch.begin,
        on_end=end,
        stop=stop,
    )
    streams = any(call.stream for call in job.calls)
    return derive(seen, watch.usage, offered_rps=job.rate, streams=streams), seen
