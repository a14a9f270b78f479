"""Scenarios that are more than one load on one target; each returns entries for the report."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

import msgspec

from benchmarks.load.drive import START_S
from benchmarks.load.job import Call, Job
from benchmarks.report.figures import add_direct, join_repeats, note_disturbed
from benchmarks.report.goals import ACCURACY
from benchmarks.scenarios.idle import run_idle
from benchmarks.scenarios.isolation import run_isolation
from benchmarks.scenarios.measure import Bench, measure
from benchmarks.scenarios.staging import entry_of, staged
from benchmarks.scenarios.suite import Options, Say, brief
from benchmarks.scenarios.wrong_keys import run_wrong_keys
from benchmarks.targets import target
from benchmarks.targets.books import Books
from benchmarks.targets.place import KEY
from benchmarks.targets.processes import NotStarted
from benchmarks.targets.upstream import Script

Run = Callable[[Options, Say], list[dict[str, Any]]]

LIMIT_TPM: Final = 30_000_000
OFFERED_TPM: Final = 45_000_000
_KILL_AFTER_S: Final = 3.0


def run_failover(options: Options, say: Say) -> list[dict[str, Any]]:
    """Kill one of two channels under load: failed calls, and what latency it adds."""
    script = Script(chunks=100, interval_ms=20)
    calls = (Call(stream=True), Call(stream=False))
    job = Job(
        host="127.0.0.1",
        port=0,
        key=KEY,
        calls=calls,
        rate=100,
        connections=2000,
        warm_s=3,
        window_s=8,
    )
    runs = []
    for killing in (False, True):
        with staged(options, script, upstreams=2, splice=True) as (server, upstreams):
            job = msgspec.structs.replace(job, port=server.port)
            books = Books(server)
            timer = threading.Timer(
                START_S + job.warm_s + _KILL_AFTER_S, _kill, args=(upstreams[0].pid,)
            )
            if killing:
                timer.start()
            figures, _ = measure(options.bench, job, server, upstreams[1:])
            timer.cancel()
            books.asked += figures["asked"]
            figures |= books.check()
            runs.append(figures)
    calm, broken = runs
    add_direct(broken, calm, streams=True)
    note_disturbed(broken)
    say(f"failover: {brief(broken)}")
    about = "one of two channels is killed (SIGKILL) in the middle of 100 calls/s, half streams"
    notes = [
        "added latency is over the same load without the kill",
        f"{broken['errors']} of {broken['measured']} calls failed {broken['errors_by_kind'] or ''}",
        f"without the kill: {calm['errors']}",
    ]
    return [entry_of("failover", about, broken, notes)]


def run_limit_accuracy(options: Options, say: Say) -> list[dict[str, Any]]:
    """Offer 45M tokens a minute to a line of 30M: what is admitted, once the burst is spent."""
    prompt_bytes, completion = 15_600, 400
    tokens = prompt_bytes // 4 + completion
    job = Job(
        host="127.0.0.1",
        port=0,
        key=KEY,
        calls=(Call(stream=False, prompt_bytes=prompt_bytes, tokens_max=completion),),
        rate=OFFERED_TPM / 60 / tokens,
        connections=2000,
        warm_s=16,
        window_s=20,
    )
    script = Script(chunks=completion)
    with staged(options, script, line_tpm=LIMIT_TPM) as (server, upstreams):
        job = msgspec.structs.replace(job, port=server.port)
        books = Books(server)
        figures, _ = measure(options.bench, job, server, upstreams)
        books.asked += figures["asked"]
        figures |= books.check()
    refused = figures["errors_by_kind"].pop("http_429", 0)
    figures["errors"] -= refused
    ratio = figures["tokens_per_min"] / LIMIT_TPM
    figures |= {"admitted_ratio": ratio, "refused": refused, "saturated": False}
    held = "within" if abs(ratio - 1) <= ACCURACY else "NOT within"
    notes = [
        f"admitted {figures['tokens_per_min'] / 1e6:.2f}M tokens/min of {OFFERED_TPM / 1e6:.0f}M "
        f"offered, limit {LIMIT_TPM / 1e6:.0f}M: {ratio - 1:+.2%}, {held} {ACCURACY:.0%}",
        f"{refused} calls refused with 429",
    ]
    say(f"limit_accuracy: {notes[0]}")
    about = "a dedicated line of 30M tokens a minute is offered 45M"
    return [entry_of("limit_accuracy", about, figures, notes)]


def run_scaling(options: Options, say: Say) -> list[dict[str, Any]]:
    """Most JSON calls a second with 1 to N workers, a core each; the rest put the load on."""
    cores = sorted(options.bench.target_cores | options.bench.load_cores)
    entries = []
    for workers in range(1, len(cores) + 1):
        rest = frozenset(cores[workers:] or cores)
        bench = Bench(
            target_cores=frozenset(cores[:workers]), load_cores=rest, generators=len(rest)
        )
        runs = []
        scaled = msgspec.structs.replace(options, bench=bench)
        with staged(scaled, Script(chunks=40), workers=workers) as (server, upstreams):
            job = Job(
                host="127.0.0.1",
                port=server.port,
                key=KEY,
                connections=64 * workers,
                window_s=4,
            )
            for _ in range(options.repeats):
                figures, _ = measure(bench, job, server, upstreams)
                runs.append(figures)
        joined = join_repeats(runs)
        if workers == len(cores) > 1:
            joined["valid"] = False
            joined["invalid_reasons"].append("no core is left for load and upstream")
        say(f"scaling {workers}: {brief(joined)}")
        about = f"JSON calls in a closed loop, {workers} workers on {workers} cores"
        entries.append(entry_of(f"scaling_{workers}", about, joined, []))
    return entries


SPECIAL: Final[dict[str, Run]] = {
    "failover": run_failover,
    "idle": run_idle,
    "isolation": run_isolation,
    "limit_accuracy": run_limit_accuracy,
    "scaling": run_scaling,
    "wrong_keys": run_wrong_keys,
}
STANDARD_SPECIAL: Final = ("failover", "limit_accuracy")


def run_special(name: str, options: Options, say: Say) -> list[dict[str, Any]]:
    """Run one of them; where the relay does not come up, the entry says so."""
    try:
        return SPECIAL[name](options, say)
    except NotStarted as error:
        return [{"name": name, "target": target.RELAY, "absent": str(error), "valid": False}]


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
