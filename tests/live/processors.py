"""Who had the processors for how long, and who waited for one.

Method: the scheduler's own account, /proc/PID/task/TID/schedstat: nanoseconds run, nanoseconds
ready to run but not running. Source: sched-stats.rst in the kernel's documentation. Threads that
end meanwhile are forgotten.
"""

import contextlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple


class Turns(NamedTuple):
    """Seconds that processes ran, and that they waited for a processor."""

    ran_s: float = 0.0
    waited_s: float = 0.0


class Processors:
    """What named groups of processes have had since it was made."""

    def __init__(self, groups: Mapping[str, Iterable[int]]) -> None:
        self._pids = {name: tuple(pids) for name, pids in groups.items()}
        self._begun = self._now()
        self._begun_s = time.monotonic()

    def _now(self) -> dict[str, Turns]:
        return {name: _turns(pids) for name, pids in self._pids.items()}

    def __str__(self) -> str:
        """Tell each group's share of one processor, and how much of the time it waited for one."""
        passed_s = time.monotonic() - self._begun_s
        told = []
        for name, now in self._now().items():
            ran_s = now.ran_s - self._begun[name].ran_s
            waited_s = now.waited_s - self._begun[name].waited_s
            told.append(f"{name} {ran_s / passed_s:.0%} (waits {waited_s / passed_s:.0%})")
        return ", ".join(told)


def _turns(pids: Iterable[int]) -> Turns:
    ran_ns = waited_ns = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    ran, waited, _ = (task / "schedstat").read_text().split()
                    ran_ns, waited_ns = ran_ns + int(ran), waited_ns + int(waited)
    return Turns(ran_ns / 1e9, waited_ns / 1e9)
