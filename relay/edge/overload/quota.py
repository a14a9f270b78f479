"""How often and for how long this process was kept waiting: its control group's quota was used up.

A worker in a container with half a processor is never seen to use a whole one: it waits, as it does
where others have the processor. What tells them apart: here its own work used up the quota.

Source: Documentation/admin-guide/cgroup-v2.rst of Linux, "CPU Interface Files" (throttled_usec),
and scheduler/sched-bwc.rst for version 1 (throttled_time, in ns). In a namespace of its own a group
sees itself as the root, so the root's file is read as well: a real root has no such line, or zeros.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from relay.clock import clock_s

GROUPS: Final = Path("/sys/fs/cgroup")
OWN_GROUPS: Final = Path("/proc/self/cgroup")
FIND_S: Final = 5.0
"""A process may be put into another group, and a group be given a quota: it is looked up anew."""


class Waits(NamedTuple):
    """How often in all a group was made to wait, and for how long."""

    times: int
    waited_s: float


class Quota:
    """The quotas of processor time of this process, of its own group and those above it."""

    def __init__(self, own_groups: Path = OWN_GROUPS, groups: Path = GROUPS) -> None:
        self._own_groups = own_groups
        self._groups = groups
        self._found: list[tuple[Path, str, float]] = []
        self._find_s = 0.0

    def waits(self) -> Waits:
        """Return what the group waited that waited longest; zeros where there is no quota."""
        now_s = clock_s()
        if now_s >= self._find_s:
            self._find_s = now_s + FIND_S
            places = _places(self._own_groups, self._groups)
            self._found = [place for place in places if place[0].exists()]
        read = (_read(file, name, per_s) for file, name, per_s in self._found)
        return max(read, key=lambda waits: waits.waited_s, default=Waits(0, 0.0))


def _read(file: Path, name: str, per_s: float) -> Waits:
    with contextlib.suppress(OSError, ValueError, IndexError):
        words = file.read_text().split()
        count = int(words[words.index("nr_throttled") + 1])
        return Waits(count, int(words[words.index(name) + 1]) / per_s)
    return Waits(0, 0.0)


def _places(own_groups: Path, groups: Path) -> Iterator[tuple[Path, str, float]]:
    with contextlib.suppress(OSError):
        for line in own_groups.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                place, name, per_s = groups, "throttled_usec", 1e6
            elif "cpu" in controllers.split(","):
                place, name, per_s = groups / "cpu", "throttled_time", 1e9
            else:
                continue
            yield place / "cpu.stat", name, per_s
            for part in Path(path).parts[1:]:
                place /= part
                yield place / "cpu.stat", name, per_s
