"""Runs one server and sees that nothing of it outlives the benchmark, however that ends.

    benchmark --pipe--> guard --> server --> its children

It waits until the server ends or its standard input does: the benchmark lets go of the pipe, or is
killed. Whatever the server started is then ended too. Children whose parent ended become the
guard's own (it is a subreaper), so that what moved to a session of its own is found as well.

Run: python -m benchmarks.targets.guard FD PROGRAM [ARGUMENT...]      FD: told the server's pid
Source: prctl(2), PR_SET_CHILD_SUBREAPER.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

STOP_S: Final = 20.0
"""From SIGTERM until SIGKILL."""
_PR_SET_CHILD_SUBREAPER: Final = 36
_POLL_S: Final = 0.02


def descendants(pid: int) -> list[int]:
    """Return the pids of a process and of all below it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found.extend(int(child) for child in (task / "children").read_text().split())
    return found


def guard(told: int, command: list[str]) -> int:
    """Run a command until it ends or standard input does; return its exit code."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # None but this end may hold what standard input is waited on, nor the pipe of the pid.
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    os.write(told, b"%d\n" % server.pid)
    os.close(told)
    ended = os.pidfd_open(server.pid)
    select.select([sys.stdin, ended], [], [])
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_S)
    _end_all()
    return server.wait()


def _end_all() -> None:
    """Kill whatever is below this process, until there is nothing."""
    while left := descendants(os.getpid())[1:]:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(_POLL_S)


if __name__ == "__main__":
    sys.exit(abs(guard(int(sys.argv[1]), sys.argv[2:])))
