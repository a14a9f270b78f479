"""How a target stands every so often: memory, files, threads, tasks; and their slopes."""

import re
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from benchmarks.targets.place import Server
from benchmarks.targets.processes import command_line, open_files, rss_bytes, threads

_SETTLE_SHARE: Final = 0.1
_RSS_MIB_PER_HOUR_MAX: Final = 4.0
"""Beyond this the soak says so; an allocator's wobble over an hour is below it."""
_SPAN_S_MIN: Final = 600.0
"""Of samples, before a slope is judged: pools, caches and the collector's own rhythm come first."""
_IDLE_S: Final = 150.0
"""After a load, in which idle connections of clients and channels are closed."""
_SPARE: Final = 12
"""Files and tasks that a target keeps once it has worked: pools, what is made late."""
_TASKS: Final = re.compile(rb"^relay_tasks(?:\{[^}]*\})? ([0-9.e+]+)", re.MULTILINE)
_UNITS: Final = {
    "rss_mib": "rss_mib_per_hour",
    "others_rss_mib": "others_rss_mib_per_hour",
    "open_files": "open_files_per_hour",
    "threads": "threads_per_hour",
    "tasks": "tasks_per_hour",
}


class Sample(msgspec.Struct, frozen=True):
    """How a target stood at a moment, seconds after the beginning.

    `rss_mib`, `open_files`, `threads`, `tasks`: of what carries traffic, the relay's workers;
    `others_rss_mib`: of its other processes, without databases. `tasks` is 0 where nobody tells.
    """

    at_s: float
    rss_mib: float
    open_files: int
    threads: int
    tasks: int = 0
    others_rss_mib: float = 0.0


def take_sample(server: Server, at_s: float) -> Sample:
    """Look at a server now."""
    carriers = server.carriers()
    others = [pid for pid in server.pids() if pid not in carriers and _is_ours(pid)]
    return Sample(
        at_s,
        rss_bytes(carriers) / 2**20,
        open_files(carriers),
        threads(carriers),
        _count_tasks(server),
        rss_bytes(others) / 2**20,
    )


def _is_ours(pid: int) -> bool:
    return b"python" in command_line(pid)


def _count_tasks(server: Server) -> int:
    """Return the tasks of all workers as the relay publishes them; 0 where it does not answer."""
    if not server.admin:
        return 0
    with suppress(OSError):
        url = f"http://127.0.0.1:{server.admin}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            found = _TASKS.search(answer.read())
            return int(float(found[1])) if found else 0
    return 0


class Sampler:
    """Looks at a server every so often, in a thread, until it is stopped; tells of each look."""

    def __init__(self, server: Server, every_s: float, tell: Callable[[Sample], None]) -> None:
        self.samples: list[Sample] = []
        self._server = server
        self._every_s = every_s
        self._tell = tell
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Sampler":
        self._begun_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            sample = take_sample(self._server, time.monotonic() - self._begun_s)
            self.samples.append(sample)
            self._tell(sample)


def await_idle(server: Server, before: Sample, wait_s: float = _IDLE_S) -> Sample:
    """Return how a server stands once it holds what it held before its load, or stays above it."""
    until_s = time.monotonic() + wait_s
    while True:
        now = take_sample(server, 0.0)
        if not left_over(before, now) or time.monotonic() > until_s:
            return now
        time.sleep(2.0)


def left_over(before: Sample, after: Sample) -> dict[str, int]:
    """Return what an idle target holds more of than before its load, beyond what it may keep."""
    more = {name: getattr(after, name) - getattr(before, name) for name in ("open_files", "tasks")}
    return {name: count for name, count in more.items() if count > _SPARE}


def slope_per_hour(points: list[tuple[float, float]]) -> float:
    """Return the slope of the least squares line through (seconds, value), an hour."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if spread == 0:
        return 0.0
    return 3600 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def conclude(samples: list[Sample]) -> dict[str, Any]:
    """Return the slopes after the first tenth, in which caches fill, and notes on what grows."""
    settled = samples[int(len(samples) * _SETTLE_SHARE) :]
    slopes = {
        unit: slope_per_hour([(sample.at_s, getattr(sample, name)) for sample in settled])
        for name, unit in _UNITS.items()
    }
    long = bool(settled) and settled[-1].at_s - settled[0].at_s >= _SPAN_S_MIN
    grows = long and slopes["rss_mib_per_hour"] > _RSS_MIB_PER_HOUR_MAX
    notes = [f"{name.replace('_', ' ')} {value:+.2f}" for name, value in slopes.items()]
    verdict = "RSS GROWS" if grows else "RSS does not grow"
    notes.append(verdict if long else "too short to tell whether RSS grows")
    return {**slopes, "rss_grows": grows, "notes": notes}
