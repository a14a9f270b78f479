"""Goal: a server under measurement is gone with all it started, however the benchmark ends.

Method: a wrapper whose own servers outlive it, one of them in a session of its own.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.targets.processes import ROOT, NotStarted, free_port, running

WRAPPER = """
import socket, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
children = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)]
# A daemon: its parent ends at once, and nobody who started it knows its pid.
daemon = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:]).pid)"
print(*(child.pid for child in children), flush=True)
subprocess.run([sys.executable, "-c", daemon, *sleep], start_new_session=True)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(60)
"""
"""SIGTERM ends it, and its children hear nothing of that."""
BENCHMARK = """
import signal, sys
from pathlib import Path
from benchmarks.targets.processes import running
command, port, log = [sys.executable, "-c", sys.argv[1], sys.argv[2]], int(sys.argv[2]), sys.argv[3]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
with running(command, cores={0}, port=port, log=Path(log)) as pid:
    print(pid, flush=True)
    sys.stdin.read()
"""


def lives(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def assert_gone(pids: list[int]) -> None:
    until_s = time.monotonic() + 10
    while left := [pid for pid in pids if lives(pid)]:
        assert time.monotonic() < until_s, left
        time.sleep(0.01)


def test_what_a_wrapper_leaves_behind_is_ended_too(tmp_path: Path) -> None:
    log, port = tmp_path / "log", free_port()
    command = [sys.executable, "-c", WRAPPER, str(port)]
    with running(command, cores=os.sched_getaffinity(0), port=port, log=log) as pid:
        pids = [pid, *map(int, log.read_text().split())]
        assert len(pids) == 4
        assert all(map(lives, pids))
    assert_gone(pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_benchmark_that_is_killed_leaves_nothing_running(
    tmp_path: Path, number: signal.Signals
) -> None:
    log, port = tmp_path / "log", free_port()
    with subprocess.Popen(
        [sys.executable, "-c", BENCHMARK, WRAPPER, str(port), str(log)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as benchmark:
        assert benchmark.stdout is not None
        pids = [int(benchmark.stdout.readline()), *map(int, log.read_text().split())]
        assert len(pids) == 4
        assert all(map(lives, pids))
        benchmark.send_signal(number)
        assert_gone(pids)


def test_a_server_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    with (
        pytest.raises(NotStarted, match="no such thing"),
        running(command, cores=os.sched_getaffinity(0), port=free_port(), log=tmp_path / "log"),
    ):
        pass
    with (
        pytest.raises(NotStarted, match="did not come up"),
        running(["no-such-program"], cores={0}, port=free_port(), log=tmp_path / "log"),
    ):
        pass
