"""`relay bench soak`: hours of mixed load, to see whether anything grows.

RSS, open files and threads of the relay are sampled all along; the slope of each is the least
squares line over the samples after the first tenth, in which caches and pools fill. With --faults
something goes wrong behind it each minute (`faults`).
"""

import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from benchmarks.report.document import RESULTS, begin_report, write_report
from benchmarks.report.terminal import print_report, say
from benchmarks.scenarios.faults import Mischief, Stand
from benchmarks.scenarios.measure import bench_here, measure
from benchmarks.scenarios.staging import staged
from benchmarks.scenarios.suite import Options, Stage, make_job
from benchmarks.scenarios.table import SCENARIOS, Scenario
from benchmarks.targets import target
from benchmarks.targets.books import Books
from benchmarks.targets.place import Server
from benchmarks.targets.processes import open_files, rss_bytes, threads
from benchmarks.targets.upstream import Script

_SETTLE_SHARE: Final = 0.1
_RSS_MIB_PER_HOUR_MAX: Final = 4.0
"""Beyond this the soak says so; an allocator's wobble over an hour is below it."""
_SPAN_S_MIN: Final = 600.0
"""Of samples, before a slope is judged: pools, caches and the collector's own rhythm come first."""

_SCENARIO: Final = Scenario(
    name="soak",
    about="the enterprise mix at a quarter of 30M tokens a minute, for hours",
    script=Script(chunks=1000, interval_ms=40, tokens_per_event=4),
    calls=SCENARIOS["mixed_30m"].calls,
    rate=SCENARIOS["mixed_30m"].rate / 4,
    warm_s=10,
)


class Sample(msgspec.Struct, frozen=True):
    """How a target stood at a moment, seconds after the beginning."""

    at_s: float
    rss_mib: float
    open_files: int
    threads: int


class Sampler:
    """Looks at a server every so often, in a thread, until it is stopped."""

    def __init__(self, server: Server, every_s: float) -> None:
        self.samples: list[Sample] = []
        self._server = server
        self._every_s = every_s
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
            pids = self._server.carriers()
            sample = Sample(
                time.monotonic() - self._begun_s,
                rss_bytes(pids) / 2**20,
                open_files(pids),
                threads(pids),
            )
            self.samples.append(sample)
            say(
                f"soak {sample.at_s:.0f} s: RSS {sample.rss_mib:.1f} MiB, "
                f"{sample.open_files} files, {sample.threads} threads"
            )


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
    """Return the slopes, and notes on what grows."""
    settled = samples[int(len(samples) * _SETTLE_SHARE) :]
    slopes = {
        "rss_mib_per_hour": slope_per_hour([(s.at_s, s.rss_mib) for s in settled]),
        "open_files_per_hour": slope_per_hour([(s.at_s, s.open_files) for s in settled]),
        "threads_per_hour": slope_per_hour([(s.at_s, s.threads) for s in settled]),
    }
    long = bool(settled) and settled[-1].at_s - settled[0].at_s >= _SPAN_S_MIN
    grows = long and slopes["rss_mib_per_hour"] > _RSS_MIB_PER_HOUR_MAX
    notes = [f"{name.replace('_', ' ')} {value:+.2f}" for name, value in slopes.items()]
    verdict = "RSS GROWS" if grows else "RSS does not grow"
    notes.append(verdict if long else "too short to tell whether RSS grows")
    return {**slopes, "rss_grows": grows, "notes": notes}


@click.command()
@click.option("--hours", type=click.FloatRange(0.01, 24), default=2.0, show_default=True)
@click.option("--every-s", type=click.FloatRange(1, 600), default=30.0, show_default=True)
@click.option("--faults", is_flag=True, help="Each minute something goes wrong behind the relay.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the faults' dice.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path))
@click.pass_context
def command(
    ctx: click.Context, hours: float, every_s: float, seed: int, out: Path | None, *, faults: bool
) -> None:
    """Run the relay under load for hours; exit 1 where its memory grows or calls fail."""
    report = begin_report("soak")
    entry = run_soak(Soak(hours=hours, every_s=every_s, faults=faults, seed=seed))
    report["scenarios"].append(entry)
    write_report(report, out or RESULTS / "tmp")
    print_report(report)
    ctx.exit(1 if entry["rss_grows"] or entry["errors"] or entry.get("log_rows_missing") else 0)


class Soak(msgspec.Struct, frozen=True, kw_only=True):
    """How long, how often to look, and whether something is to go wrong."""

    hours: float
    every_s: float
    faults: bool
    seed: int


def run_soak(soak: Soak) -> dict[str, Any]:
    """Soak the relay; return the entry of the report."""
    options = Options(bench=bench_here())
    script, place = _SCENARIO.script, {"line_tpm": _SCENARIO.line_tpm, "splice": soak.faults}
    with ExitStack() as stack:
        server, upstreams = stack.enter_context(
            staged(options, script, upstreams=2 if soak.faults else 1, **place)
        )
        books = Books(server)
        stage = Stage(upstream=upstreams[0], servers={target.RELAY: server})
        job = make_job(_SCENARIO, stage, target.RELAY, options)
        job = msgspec.structs.replace(job, window_s=soak.hours * 3600)
        sampler = stack.enter_context(Sampler(server, soak.every_s))
        mischief = None
        if soak.faults:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-soak-")))
            stand = Stand(script, set(options.bench.load_cores), folder)
            mischief = stack.enter_context(
                Mischief(server, upstreams, stand, seed=soak.seed, say=say)
            )
        figures, _ = measure(options.bench, job, server, upstreams)
        books.asked += figures["asked"]
        figures |= books.check()
    found = conclude(sampler.samples)
    if mischief is not None:
        found["faults"] = mischief.struck
        found["notes"].append(f"{len(mischief.struck)} faults, dice of seed {soak.seed}")
    return {
        "name": "soak",
        "target": target.RELAY,
        "about": f"{_SCENARIO.about}: {soak.hours:g} h",
        "does": target.does(target.RELAY),
        **figures,
        **found,
        "samples": msgspec.to_builtins(sampler.samples),
    }
