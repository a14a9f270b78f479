"""Goal: a worker's next large body needs no new pages of the kernel, and its heap stays bounded.

Method: processes of their own that take and free blocks as bodies do; the kernel counts their page
faults and pages.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from relay.config import Server
from relay.process.memory import fit_bodies, memory_bytes

CALLS = 200
BLOCK_BYTES = 1_000_000
SCRIPT = f"""
import resource, sys
from relay.process.memory import KEPT_BYTES_MAX, keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
def call():
    pieces = [bytes({BLOCK_BYTES // 2}), bytes({BLOCK_BYTES // 2})]
    body = b"".join(pieces)
    return body + b"."
def pages():
    return int(open("/proc/self/statm").read().split()[1])
for _ in range(10):
    call()
before, faults = pages(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({CALLS}):
    call()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
many = [bytes(1_000_000) for _ in range(200)]
del many
print(faults, (pages() - before) * resource.getpagesize() - KEPT_BYTES_MAX)
"""


def measure(how: str) -> tuple[int, int]:
    """Return page faults of all calls, and by how much too many bytes stay after a flood."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True
    )
    faults, beyond = done.stdout.split()
    return int(faults), int(beyond)


def test_bodies_take_the_same_pages_again_and_again() -> None:
    kept_faults, beyond = measure("kept")
    assert kept_faults < CALLS
    assert beyond < 4_000_000
    assert measure("plain")[0] > 10 * CALLS, "without it there is nothing to gain"


MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("memory_mib", "workers", "allowed_mib"),
    [(64 * 1024, 2, 1024), (8 * 1024, 2, 1024), (4 * 1024, 2, 592), (900, 1, 150), (300, 1, 128)],
)
def test_bodies_may_take_what_the_memory_allows(
    memory_mib: int, workers: int, allowed_mib: int
) -> None:
    server = Server(workers=workers)
    found = fit_bodies(server, memory_mib * MIB)
    assert found.buffered_bytes_max // MIB == allowed_mib
    assert (found is server) is (allowed_mib == 1024)
    assert found.buffered_bytes_max * found.buffered_share_max >= found.body_bytes_max


@pytest.mark.parametrize(
    ("own", "files"),
    [
        ("0::/system.slice/relay.service\n", {"system.slice/relay.service/memory.max": "1000\n"}),
        (
            "0::/a/b\n",
            {"a/b/memory.max": "max\n", "a/memory.max": "1000\n", "memory.max": "2000\n"},
        ),
        ("0::/\n", {"memory.max": "1000\n"}),
        (
            "5:cpu:/c\n4:memory:/a\n0::/\n",
            {"memory/a/memory.limit_in_bytes": "1000", "memory/memory.limit_in_bytes": "9" * 19},
        ),
        ("4:memory:/docker/7\n", {"memory/memory.limit_in_bytes": "1000\n"}),
    ],
)
def test_the_bound_of_the_control_group_is_found(
    tmp_path: Path, own: str, files: dict[str, str]
) -> None:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    assert memory_bytes(tmp_path / "own", tmp_path / "groups") == 1000


def test_without_control_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert memory_bytes(tmp_path / "none", tmp_path) > 100 * MIB
