"""What everybody else feels of one address that tries 10,000 wrong keys a second.

    alone, flooded, counting, alone ...    the same load; figures are the medians of each

Beside processes that only count (`targets.processes.counting`) it is told what any busy machine
would cost: what the flood adds to that is the door's.

The stranger (`load.stranger`) is a process that takes the processor from nobody: its own work is
elsewhere in truth. What becomes of its tries is the door's to say: an answer, 429, 403, a
connection that is not read or not taken. What they cost the worker is the CPU that it used beyond
that of the same load without them, which a wait for a processor does not change.
"""

import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from benchmarks.load.drive import ROOT, START_S
from benchmarks.load.job import Call, Job
from benchmarks.load.stranger import Heard, Plan
from benchmarks.report.figures import note_disturbed
from benchmarks.scenarios.measure import measure
from benchmarks.scenarios.staging import entry_of, staged
from benchmarks.scenarios.suite import Options, Say, brief
from benchmarks.targets.place import KEY
from benchmarks.targets.processes import counting
from benchmarks.targets.upstream import Script

WRONG_PER_S: Final = 10_000
STRANGER: Final = "127.0.0.2"
STRANGERS_CONNECTIONS: Final = 1_024
CALLS_PER_S: Final = 400
ROUNDS: Final = 5
WARM_S: Final = 2.0
WINDOW_S: Final = 8.0
P99_RISE_MAX: Final = 0.10

Figures = dict[str, Any]


def run_wrong_keys(options: Options, say: Say) -> list[dict[str, Any]]:
    """Measure a load alone and beside the flood, in turn; the added latency is what counts."""
    calm: list[Figures] = []
    flooded: list[Figures] = []
    busy: list[Figures] = []
    heard: list[Heard] = []
    with staged(options, Script(chunks=40)) as (server, upstreams):
        job = Job(
            host="127.0.0.1",
            port=server.port,
            key=KEY,
            calls=(Call(stream=False),),
            rate=CALLS_PER_S,
            connections=256,
            warm_s=WARM_S,
            window_s=WINDOW_S,
        )
        for seed in range(1, ROUNDS + 1):
            job = msgspec.structs.replace(job, seed=seed)
            calm.append(measure(options.bench, job, server, upstreams)[0])
            with _stranger(server.port, options.bench.load_cores, heard):
                flooded.append(measure(options.bench, job, server, upstreams)[0])
            with counting():
                busy.append(measure(options.bench, job, server, upstreams)[0])
    figures = sorted(flooded, key=_p99)[ROUNDS // 2]
    note_disturbed(figures)
    before, after, beside = (statistics.median(map(_p99, it)) for it in (calm, flooded, busy))
    rise, beyond = after / before - 1, after / beside - 1
    tries_per_s = sum(one.tries for one in heard) / ROUNDS / (WARM_S + WINDOW_S)
    used = statistics.median(map(_worker_share, flooded)) - statistics.median(
        map(_worker_share, calm)
    )
    fates = _fates(heard)
    figures |= {
        "p99_rise": rise,
        "p99_rise_beyond_counting": beyond,
        "calm_p99_ms": [round(_p99(one), 3) for one in calm],
        "flooded_p99_ms": [round(_p99(one), 3) for one in flooded],
        "counting_p99_ms": [round(_p99(one), 3) for one in busy],
        "tries_per_s": tries_per_s,
        "worker_share_of_tries": used,
        "fates": fates,
    }
    held = "within" if min(rise, beyond) < P99_RISE_MAX else "NOT within"
    notes = [
        f"p99 {before:.2f} ms alone, {after:.2f} ms beside the flood: {rise:+.1%}; {beside:.2f} ms "
        f"beside processes that only count, {beyond:+.1%} of that: {held} {P99_RISE_MAX:.0%}",
        f"{tries_per_s:,.0f} keys a second were tried, at {max(o.cpu_share for o in heard):.0%} of "
        f"a core; they cost the worker {used:.1%} of one, {used / tries_per_s * 1e6:.1f} us each",
        "of the tries: " + ", ".join(f"{name} {count}" for name, count in fates.items()),
    ]
    say(f"wrong_keys: {brief(figures)}; {'; '.join(notes)}")
    about = f"{CALLS_PER_S} JSON calls a second while one address tries {WRONG_PER_S} wrong keys"
    return [entry_of("wrong_keys", about, figures, notes)]


@contextmanager
def _stranger(port: int, cores: frozenset[int], heard: list[Heard]) -> Iterator[None]:
    """Have a stranger try keys for as long as a load goes on that is put on within the block."""
    plan = Plan(
        port=port,
        source=STRANGER,
        rate=WRONG_PER_S,
        connections=STRANGERS_CONNECTIONS,
        begin_ns=time.monotonic_ns() + int(START_S * 1e9),
        seconds=WARM_S + WINDOW_S,
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load.stranger"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(plan))
        process.stdin.close()
        process.stdin = None
        yield
        output, _ = process.communicate(timeout=30)
        heard.append(msgspec.json.decode(output, type=Heard))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _fates(heard: list[Heard]) -> dict[str, int]:
    """Return what became of the tries of all rounds, by what the stranger saw."""
    found: Counter[str] = Counter()
    for one in heard:
        found.update({f"http_{status}": count for status, count in one.answers.items()})
        found.update(closed=one.closed, given_up=one.dropped)
    return dict(found)


def _p99(figures: Figures) -> float:
    return float(figures["request_latency_ms"]["p99"])


def _worker_share(figures: Figures) -> float:
    """Return what part of a core the worker used."""
    return float(figures["worker_cpu_us_per_request"] * figures["rps"] / 1e6)
