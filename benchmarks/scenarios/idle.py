"""What the relay uses of a core while nobody asks it anything: all of its processes, console too.

Read from the scheduler's own account, since ticks of 10 ms tell nothing of what wakes up briefly.
"""

import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.load.job import merge
from benchmarks.report.figures import Usage, derive
from benchmarks.scenarios.staging import entry_of
from benchmarks.scenarios.suite import Options, Say
from benchmarks.targets import target
from benchmarks.targets.place import Place, Server
from benchmarks.targets.processes import command_line, free_port, rss_bytes, scheduled_ns

SETTLE_S: Final = 30.0
"""Looks become seldom, and plans of statements are kept, after some time without a call."""
WINDOW_S: Final = 30.0
SHARE_MAX: Final = 0.005
_CHILDREN: Final = ("worker", "control", "console")
_EMBEDDED: Final = ("postgres", "valkey")


def run_idle(options: Options, say: Say) -> list[dict[str, Any]]:
    """Leave the relay alone, with a worker for each core: what all of it uses of one core."""
    cores = options.bench.target_cores | options.bench.load_cores
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        place = Place(
            folder=folder / target.RELAY,
            cores=cores,
            upstreams=(free_port(),),
            workers=len(cores),
            console=True,
        )
        with target.start(target.RELAY, place) as server:
            time.sleep(SETTLE_S)
            windows = [_watch(server) for _ in range(options.repeats)]
            resident = rss_bytes(server.pids())
    windows.sort(key=lambda used: sum(used.values()))
    used = windows[len(windows) // 2]
    total_s = sum(used.values()) * WINDOW_S
    usage = Usage(window_s=WINDOW_S, tree_s=total_s, rss_bytes=resident)
    figures = derive(merge([]), usage, offered_rps=0, streams=False)
    shares = [sum(window.values()) for window in windows]
    held = "within" if sum(used.values()) <= SHARE_MAX else "NOT within"
    notes = [
        f"{sum(used.values()):.2%} of a core ({shares[0]:.2%} to {shares[-1]:.2%}), {held} "
        f"{SHARE_MAX:.1%}",
        ", ".join(f"{kind} {share * 1_000:.2f} ms/s" for kind, share in used.items()),
    ]
    figures |= {"idle_share": sum(used.values()), "valid": True, "invalid_reasons": []}
    say(f"idle: {'; '.join(notes)}")
    about = f"nobody asks anything; {len(cores)} workers, console, embedded Postgres and Valkey"
    return [entry_of("idle", about, figures, notes)]


def _watch(server: Server) -> dict[str, float]:
    """Return what each kind of process uses of a core, over a window."""
    before = {pid: scheduled_ns(pid) for pid in server.pids()}
    begun_s = time.monotonic()
    time.sleep(WINDOW_S)
    passed_ns = (time.monotonic() - begun_s) * 1e9
    used = dict.fromkeys((*_CHILDREN, *_EMBEDDED, "supervisor"), 0.0)
    for pid, since_ns in before.items():
        used[_kind(pid)] += max(0, scheduled_ns(pid) - since_ns) / passed_ns
    return used


def _kind(pid: int) -> str:
    line = command_line(pid)
    ours = (kind for kind in _CHILDREN if b"\0" + kind.encode() + b"\0" in line)
    embedded = (kind for kind in _EMBEDDED if kind.encode() in line and b"\0serve\0" not in line)
    return next(ours, next(embedded, "supervisor"))
