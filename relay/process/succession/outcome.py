"""What became of a reload, on disk, for whoever asked for it (`relay upgrade`).

DATA_DIR/run/supervisor.json    replaced as a whole; of the supervisor that runs, or ran last
"""

import contextlib
import enum
import os
from pathlib import Path
from typing import Final

import msgspec

NAME: Final = "supervisor.json"
STARTED_FIELD: Final = 19
"""Of /proc/PID/stat, counted after the program's name. Source: proc(5), starttime."""


class Result(enum.StrEnum):
    """How the last reload ended."""

    STARTED = "started"
    """There was none: it is as it started."""
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    """The next program or configuration did not stand its rehearsal; nothing was changed."""
    GIVEN_UP = "given up"
    """The next program did not serve; the one before serves on."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs, and how its last reload ended. `pid` and `started` name one process for good."""

    pid: int
    started: str
    release: str
    reloads: int
    """Reloads that were asked for, the one that `result` is about included."""
    result: Result
    reason: str = ""

    @property
    def alive(self) -> bool:
        """Whether this very process runs."""
        return _started(self.pid) == self.started


def tell(data_dir: Path, release: str, reloads: int, result: Result, reason: str = "") -> None:
    """Write down how this process stands; a disk that does not take it stops nobody."""
    pid = os.getpid()
    outcome = Outcome(
        pid=pid,
        started=_started(pid),
        release=release,
        reloads=reloads,
        result=result,
        reason=reason,
    )
    path = data_dir / "run" / NAME
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{NAME}.draft")
        draft.write_bytes(msgspec.json.encode(outcome))
        draft.replace(path)


def read(data_dir: Path) -> Outcome | None:
    """Return how the supervisor of a data dir stands; None: there never was one."""
    try:
        return msgspec.json.decode((data_dir / "run" / NAME).read_bytes(), type=Outcome)
    except (OSError, msgspec.MsgspecError):
        return None


def _started(pid: int) -> str:
    """Return when a process started, in ticks since boot: it tells it from others of its pid."""
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[STARTED_FIELD]
