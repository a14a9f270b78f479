"""Goal: a worker's next large body needs no new pages of the kernel, and its heap stays bounded.

Method: processes of their own that take and free blocks as bodies do; the kernel counts their page
faults and pages.
"""

import subprocess
import sys

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
