"""Processes that get less of the machine for a while: a share of a core, so much memory.

Both versions of cgroups; only root can, and where nobody can a test is skipped with the reason.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path("/sys/fs/cgroup")
PERIOD_US: Final = 10_000
"""Short, so that a share is a slower core, not one that stands still for tenths of a second."""


@contextlib.contextmanager
def slowed(pids: Sequence[int], share: float) -> Iterator[None]:
    """Give processes this share of a core together, until the block ends."""
    quota = str(int(PERIOD_US * share))
    v1 = {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": quota}
    with _limited("cpu", pids, v1, {"cpu.max": f"{quota} {PERIOD_US}"}):
        yield


@contextlib.contextmanager
def crammed(pids: Sequence[int], memory_bytes: int) -> Iterator[None]:
    """Give processes so much memory together, until the block ends."""
    limit = str(memory_bytes)
    with _limited("memory", pids, {"memory.limit_in_bytes": limit}, {"memory.max": limit}):
        yield


@contextlib.contextmanager
def _limited(
    controller: str, pids: Sequence[int], v1: dict[str, str], v2: dict[str, str]
) -> Iterator[None]:
    unified = (ROOT / "cgroup.controllers").exists()
    parent = ROOT if unified else ROOT / controller
    group = parent / f"relay-test-{os.getpid()}"
    try:
        if unified:
            (parent / "cgroup.subtree_control").write_text(f"+{controller}")
        group.mkdir()
        for name, value in (v2 if unified else v1).items():
            (group / name).write_text(value)
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group of {controller} can be made here: {error.strerror}")
    try:
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (parent / "cgroup.procs").write_text(left)
        group.rmdir()
