"""Servers under measurement: started on cores of their own, and what they use.

Read from /proc: nothing is added to what is measured.
"""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.targets.guard import STOP_S, descendants

ROOT: Final = Path(__file__).parents[2]
READY_S: Final = 60.0
_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_COUNT: Final = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile 1: 1"


class NotStarted(Exception):
    """A server did not come up; the text says what it said."""


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def raise_open_files() -> int:
    """Allow this process and its children as many open files as the system lets us; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextmanager
def running(
    command: list[str], *, cores: set[int], port: int, log: Path, env: dict[str, str] | None = None
) -> Iterator[int]:
    """Run a server on `cores` until the block ends; yield its pid once it listens on `port`.

    It ends with this process, whatever ends that, and so does all it started (`guard`).

    Raises:
        NotStarted: It ended, or did not listen in time.
    """
    read, write = os.pipe()
    with log.open("wb") as output:
        guard = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.targets.guard", str(write), *command],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(write,),
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    os.close(write)
    try:
        with os.fdopen(read, "rb") as told:
            pid = int(told.readline() or 0)
        _await_port(guard, command, port, log)
        yield pid
    finally:
        _stop(guard)


def _await_port(guard: subprocess.Popen[bytes], command: list[str], port: int, log: Path) -> None:
    until_s = time.monotonic() + READY_S
    while True:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        if guard.poll() is not None or time.monotonic() > until_s:
            said = log.read_text("utf-8", "replace")[-500:]
            raise NotStarted(f"{Path(command[0]).name} did not come up: {said}")
        time.sleep(0.05)


def await_answer(url: str, headers: dict[str, str] | None = None) -> None:
    """Wait until a URL on this machine answers with 2xx.

    Raises:
        NotStarted: It did not in time.
    """
    request = urllib.request.Request(url, headers=headers or {})
    until_s = time.monotonic() + READY_S
    while time.monotonic() < until_s:
        try:
            with urllib.request.urlopen(request, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise NotStarted(f"{url} did not become ready")


def _stop(guard: subprocess.Popen[bytes]) -> None:
    """Let go of the guard, which ends the server; kill all of them where it does not."""
    assert guard.stdin is not None
    guard.stdin.close()
    try:
        guard.wait(STOP_S + 5)
    except subprocess.TimeoutExpired:
        for pid in descendants(guard.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        guard.wait()


@contextmanager
def counting() -> Iterator[None]:
    """Keep every core busy with what asks for nothing and takes the processor from nobody.

    Calls beside it are slower, for cores share caches and often are two threads of one: by how much
    is the machine's doing, and no doing of what else might be beside them.
    """
    cores = os.sched_getaffinity(0)
    crowd = [subprocess.Popen([sys.executable, "-c", _COUNT]) for _ in cores]
    try:
        yield
    finally:
        for one in crowd:
            one.kill()
            one.wait()


def command_line(pid: int) -> bytes:
    """Return a process's arguments, each ended by NUL; b"" where it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


class CpuMeter:
    """CPU time, user and system, that processes use from now on."""

    def __init__(self, pids: list[int]) -> None:
        self._begun = {pid: (scheduled_ns(pid), _ticks_ns(pid)) for pid in pids}

    def used_s(self) -> float:
        """Return the seconds used since it was made.

        The scheduler's account is exact but forgets threads that ended; the other one has them
        all, in ticks of 10 ms.
        """
        total_ns = 0
        for pid, (ran_ns, ticks_ns) in self._begun.items():
            exact_ns = scheduled_ns(pid) - ran_ns
            coarse_ns = _ticks_ns(pid) - ticks_ns - _TICK_NS
            total_ns += max(exact_ns, coarse_ns, 0)
        return total_ns / 1e9


def scheduled_ns(pid: int) -> int:
    """Return the nanoseconds that a process's threads of now have run."""
    total = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
    return total


def _ticks_ns(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) * _TICK_NS


def core_busy_share(core: int, window_s: float, before: int) -> float:
    """Return how busy a core was since `core_busy_ticks` gave `before`."""
    return (core_busy_ticks(core) - before) * _TICK_NS / 1e9 / window_s


def core_busy_ticks(core: int) -> int:
    """Return the ticks in which a core was not idle, since the system came up."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            ticks = [int(field) for field in line.split()[1:9]]
            return sum(ticks) - ticks[3] - ticks[4]
    return 0


def rss_bytes(pids: list[int]) -> int:
    """Return the resident memory of processes; what they share is counted for each."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    return total


def open_files(pids: list[int]) -> int:
    """Return how many file descriptors processes hold."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return total


def threads(pids: list[int]) -> int:
    """Return how many threads processes run."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += len(list(Path(f"/proc/{pid}/task").iterdir()))
    return total
