"""Goal: a server under measurement is gone with all it started.

Method: a wrapper whose own server outlives it.
"""

import os
import sys
import time
from pathlib import Path

from benchmarks.targets.processes import free_port, running

WRAPPER = """
import socket, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(60)
"""
"""SIGTERM ends it, and its child hears nothing of that."""


def lives(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_what_a_wrapper_leaves_behind_is_ended_too(tmp_path: Path) -> None:
    log, port = tmp_path / "log", free_port()
    command = [sys.executable, "-c", WRAPPER, str(port)]
    with running(command, cores=os.sched_getaffinity(0), port=port, log=log) as pid:
        child = int(log.read_text())
        assert lives(pid) and lives(child)
    assert not lives(pid)
    until_s = time.monotonic() + 5
    while lives(child):
        assert time.monotonic() < until_s
        time.sleep(0.01)
