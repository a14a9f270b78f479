"""One generator process: puts a job's load on and says what it saw.

    open loop     calls start at intended times, answered or not: what users do
    closed loop   each connection asks again when it was answered: shows the most a server can do

An open loop's latencies count from the intended start, so a server that stalls is charged for every
call that should have been made meanwhile (no coordinated omission).

Run: python -m benchmarks.load.generator < job.json > outcome.json
"""

import asyncio
import contextlib
import gc
import os
import random
import resource
import signal
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from time import monotonic_ns
from typing import Final

import msgspec
import uvloop

from benchmarks.load.clock import Alarm
from benchmarks.load.connection import Connection
from benchmarks.load.diary import EVERY_S, Diary
from benchmarks.load.job import Job, Outcome
from benchmarks.load.request import make_request
from benchmarks.load.tally import Tally

_HEARTBEAT_NS: Final = 5_000_000
_REDIAL_S: Final = 0.01
_HISTOGRAMS: Final = ("latency", "ttft", "gap", "lag", "loop_lag")


def intended_times(job: Job) -> Iterator[int]:
    """Yield when each call should start, in ns of time.monotonic_ns(), without end."""
    dice = random.Random(job.seed)  # noqa: S311  a schedule, no secret
    step_s = 1 / job.rate
    offset_s = 0.0 if job.poisson else step_s * dice.random()
    while True:
        if job.poisson:
            offset_s += dice.expovariate(job.rate)
        yield job.begin_ns + int(offset_s * 1e9)
        if not job.poisson:
            offset_s += step_s


class Generator:
    """Runs one job; `run` returns when it is over."""

    def __init__(self, job: Job, tls: ssl.SSLContext | None) -> None:
        self._job = job
        self._tls = tls
        self._tally = Tally()
        usual = job.port == (443 if job.tls else 80)
        host = job.host if usual else f"{job.host}:{job.port}"
        self._requests = [make_request(job, call, host) for call in job.calls]
        self._weights = [call.weight for call in job.calls]
        self._dice = random.Random(job.seed + 1)  # noqa: S311  a mix of calls, no secret
        self._window_ns = job.begin_ns + int(job.warm_s * 1e9)
        self._end_ns = self._window_ns + int(job.window_s * 1e9)
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._dialing: set[asyncio.Task[None]] = set()
        self._closed_loop = job.rate == 0
        self._settled = asyncio.Event()
        self._stopped = asyncio.Event()
        self._over = False

    def stop(self) -> None:
        """Close the window now, and end as at its end."""
        self._stopped.set()

    async def run(self) -> Outcome:
        """Put the load on."""
        tally = self._tally
        closing = self._begin()
        await _until(self._window_ns)
        before, begun_s, begun_ns = tally.counts(), time.process_time(), monotonic_ns()
        await _until(self._end_ns, self._stopped)
        after, used_s = tally.counts(), time.process_time() - begun_s
        window_s = (monotonic_ns() - begun_ns) / 1e9
        open_streams = tally.open_streams
        self._over = True
        for alarm in closing:
            alarm.close()
        await self._drain()
        return Outcome(
            asked=tally.asked,
            started=tally.measured,
            answered=tally.answered,
            **{name: after[name] - before[name] for name in after},
            open_streams=open_streams,
            cpu_share=used_s / window_s,
            errors=tally.errors,
            histograms={name: getattr(tally, name).to_json() for name in _HISTOGRAMS},
        )

    def _begin(self) -> list[Alarm]:
        """Start what makes calls, and the heartbeat; return what is to be closed in the end."""
        alarms = [self._beat()]
        if self._job.diary:
            alarms.append(self._keep_diary(Diary(Path(self._job.diary))))
        if self._closed_loop:
            for _ in range(self._job.connections):
                self._dial(0)
        else:
            alarms.append(self._pace())
        return alarms

    def _pace(self) -> Alarm:
        """Start each call of the open loop when it is due."""
        times = intended_times(self._job)
        end_ns = self._window_ns if self._job.hold else self._end_ns
        due_ns = next(times)

        def start_due() -> None:
            nonlocal due_ns
            now_ns = monotonic_ns()
            while due_ns <= now_ns and due_ns < end_ns:
                self._start(due_ns)
                due_ns = next(times)
            if due_ns < end_ns:
                alarm.set(due_ns)

        alarm = Alarm(start_due)
        alarm.set(due_ns)
        return alarm

    def _keep_diary(self, diary: Diary) -> Alarm:
        """Tell of each failed call, and of the counts every so often, to the end."""
        tally, every_ns = self._tally, int(EVERY_S * 1e9)
        due_ns = self._job.begin_ns + every_ns
        tally.on_fail = diary.failed

        def tell() -> None:
            nonlocal due_ns
            diary.tell(
                asked=tally.asked, done=tally.done, errors=tally.errors, at_s=monotonic_ns() / 1e9
            )
            due_ns += every_ns
            alarm.set(due_ns)

        alarm = Alarm(tell)
        alarm.set(due_ns)
        return alarm

    def _beat(self) -> Alarm:
        """Measure how late the loop comes to what is due, within the window."""
        due_ns = self._window_ns

        def beat() -> None:
            nonlocal due_ns
            now_ns = monotonic_ns()
            self._tally.loop_lag.record((now_ns - due_ns) // 1000)
            due_ns += _HEARTBEAT_NS
            if due_ns < self._end_ns:
                alarm.set(due_ns)

        alarm = Alarm(beat)
        alarm.set(due_ns)
        return alarm

    def _start(self, intended_ns: int) -> None:
        """Start one call of the open loop, on an idle connection or on a new one."""
        tally = self._tally
        measured = self._is_measured(intended_ns)
        if measured:
            tally.measured += 1
            tally.pending += 1
            tally.lag.record((monotonic_ns() - intended_ns) // 1000)
        if self._idle:
            self._idle.pop().ask(self._choose(), intended_ns, measured=measured)
        elif len(self._open) + len(self._dialing) < self._job.connections:
            self._dial(intended_ns)
        else:
            self._miss("connections_max", intended_ns)

    def _is_measured(self, intended_ns: int) -> bool:
        return self._job.hold or self._window_ns <= intended_ns < self._end_ns

    def _choose(self) -> bytes:
        if len(self._requests) == 1:
            return self._requests[0]
        return self._dice.choices(self._requests, self._weights)[0]

    def _dial(self, booked_ns: int) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(booked_ns))
        self._dialing.add(task)
        task.add_done_callback(self._dialing.discard)

    async def _connect(self, booked_ns: int) -> None:
        job = self._job
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: Connection(self._tally, self._on_ready, self._on_closed, booked_ns),
                job.host,
                job.port,
                ssl=self._tls,
                local_addr=(job.source, 0) if job.source else None,
            )
        except OSError:
            if booked_ns:
                self._miss("connect", booked_ns)
                return
            self._tally.fail("connect", monotonic_ns())
            await asyncio.sleep(_REDIAL_S)
            self._redial()
        except asyncio.CancelledError:
            if booked_ns and not self._job.hold:
                self._miss("unfinished", booked_ns)
            raise

    def _miss(self, kind: str, intended_ns: int) -> None:
        """Count a call that was never sent."""
        if self._is_measured(intended_ns):
            self._tally.pending -= 1
            self._tally.leave(kind, intended_ns)

    def _on_ready(self, connection: Connection) -> None:
        """A connection can ask: at once in a closed loop, else what it was made for, or wait."""
        self._open.add(connection)
        if self._closed_loop:
            self._ask_again(connection)
        elif connection.booked_ns:
            intended_ns, connection.booked_ns = connection.booked_ns, 0
            measured = self._is_measured(intended_ns)
            connection.ask(self._choose(), intended_ns, measured=measured)
        else:
            self._idle.append(connection)
            self._notice_end()

    def _ask_again(self, connection: Connection) -> None:
        if self._over:
            self._notice_end()
            return
        now_ns = monotonic_ns()
        measured = self._is_measured(now_ns)
        if measured:
            self._tally.measured += 1
            self._tally.pending += 1
        connection.ask(self._choose(), now_ns, measured=measured)

    def _on_closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._notice_end()
        if self._closed_loop:
            self._redial()

    def _redial(self) -> None:
        if not self._over:
            self._dial(0)

    def _notice_end(self) -> None:
        if self._over and self._tally.pending <= 0:
            self._settled.set()

    async def _drain(self) -> None:
        """Wait for the measured calls, at most as long as the job is patient; drop the rest.

        A call that got no answer counts in latency with the age it has then: what hangs must not
        look healthier than what is slow.
        """
        if not self._job.hold:
            self._notice_end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._job.patience_s):
                    await self._settled.wait()
        for task in tuple(self._dialing):
            task.cancel()
        for connection in tuple(self._open):
            connection.abort(counted=not self._job.hold)
        await asyncio.gather(*self._dialing, return_exceptions=True)
        if not self._job.hold:
            self._tally.age(monotonic_ns())


async def _until(at_ns: int, reached: asyncio.Event | None = None) -> None:
    """Return at a moment of time.monotonic_ns(), precisely, or when it is said to be reached."""
    reached = reached or asyncio.Event()
    alarm = Alarm(reached.set)
    alarm.set(at_ns)
    try:
        await reached.wait()
    finally:
        alarm.close()


def make_tls(job: Job) -> ssl.SSLContext | None:
    """Return how to verify an HTTPS target; None for HTTP."""
    return ssl.create_default_context(cafile=job.trust or None) if job.tls else None


def _take_precedence() -> None:
    """Run before whatever shares the core, where the system allows it.

    The scripted upstream may share it, and other work of the machine; a start that waits for them
    is late. (A closed loop has none to be late for.) Its share is watched, and the kernel keeps 5 %
    of each core from real-time processes.
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def main() -> None:
    """Read the job, run it, write the outcome."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    job.check()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if job.idle:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    elif job.rate:
        _take_precedence()

    async def run() -> Outcome:
        generator = Generator(job, make_tls(job))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, generator.stop)
        # A full collection in the middle of a run would show in its p99.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 50, 50)
        return await generator.run()

    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run())))


if __name__ == "__main__":
    main()
