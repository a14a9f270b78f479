"""What a load tells while it is still under way: its failed calls, and every minute its counts.

One JSON object a line, each written whole, so that several processes may share a file and whoever
ends early leaves all that came before:

    {"failed": "http_503", "since_s": 12.1, "at_s": 12.4}
    {"asked": 2160, "done": 2100, "errors": {"http_503": 1}, "at_s": 60.0}

Seconds are of time.monotonic(), the same for all processes of a machine.
"""

import os
from pathlib import Path
from typing import Any, Final

import msgspec

FAILURES_MAX: Final = 100_000
"""Told by one process; what fails beyond them is only counted."""
EVERY_S: Final = 60.0


class Failure(msgspec.Struct, frozen=True):
    """A call without a whole good answer: how it failed, when it was due, when that was known."""

    failed: str
    since_s: float
    at_s: float


class Diary:
    """A file that is added to; each line is on its way to the disk at once."""

    def __init__(self, path: Path) -> None:
        self._left = FAILURES_MAX
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def tell(self, **told: Any) -> None:
        """Add a line."""
        os.write(self._fd, msgspec.json.encode(told) + b"\n")

    def failed(self, kind: str, since_ns: int, now_ns: int) -> None:
        """Add a call that failed."""
        if self._left > 0:
            self._left -= 1
            self.tell(failed=kind, since_s=since_ns / 1e9, at_s=now_ns / 1e9)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


def read_failures(path: Path) -> list[Failure]:
    """Return the calls that failed, in the order in which they were told."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=Failure) for line in lines if b'"failed"' in line]
