"""Starts the generator processes of one load and joins what they saw.

put_load(target, load) --> n processes, pinned, one shared begin --> Merged
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.load.job import Job, Merged, Outcome, merge

ROOT: Final = Path(__file__).parents[2]
START_S: Final = 0.8
"""From starting the processes to the first call: an interpreter with uvloop takes 0.2 s."""

Mark = Callable[[], None]


class LoadFailed(Exception):
    """A generator process ended without an outcome."""


def put_load(
    job: Job,
    *,
    processes: int,
    cores: set[int],
    on_begin: Mark,
    on_end: Mark,
    stop: threading.Event | None = None,
) -> Merged:
    """Run `job`, its rate and connections divided among processes; block until it is over.

    `on_begin` and `on_end` are called at the edges of the window: that is when a caller reads the
    target's CPU time. Once `stop` is set the window closes early; nothing else is different.

    Raises:
        LoadFailed: A process failed; nothing was measured.
    """
    begin_ns = time.monotonic_ns() + int(START_S * 1e9)
    running = [_start(_part(job, begin_ns, n, processes), cores) for n in range(processes)]
    try:
        window_s = begin_ns / 1e9 + job.warm_s
        _sleep_until(window_s)
        on_begin()
        _sleep_until(window_s + job.window_s, stop)
        on_end()
        if stop is not None and stop.is_set():
            for process in running:
                process.terminate()
        outcomes = [_collect(process, job) for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    return merge(outcomes)


def _part(job: Job, begin_ns: int, number: int, processes: int) -> Job:
    """Return one process's share of a job; seeds differ, so that arrivals do not coincide."""
    share = -(-job.connections // processes)
    return msgspec.structs.replace(
        job,
        begin_ns=begin_ns,
        rate=job.rate / processes,
        connections=share,
        seed=job.seed * 1000 + number,
    )


def _start(job: Job, cores: set[int]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load.generator"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(job))
    process.stdin.close()
    process.stdin = None
    return process


def _collect(process: subprocess.Popen[bytes], job: Job) -> Outcome:
    try:
        output, errors = process.communicate(timeout=job.patience_s + 30)
    except subprocess.TimeoutExpired:
        raise LoadFailed("a generator did not end in time") from None
    if process.returncode != 0:
        raise LoadFailed(errors.decode("utf-8", "replace")[-2000:])
    return msgspec.json.decode(output, type=Outcome)


def _sleep_until(at_s: float, stop: threading.Event | None = None) -> None:
    while (left_s := at_s - time.monotonic()) > 0:
        if stop is None:
            time.sleep(left_s)
        elif stop.wait(left_s):
            return
