"""What a worker publishes of itself once a second, as one small file that is replaced whole.

A counter costs the hot path one integer increment; everything dear about metrics (labels, text,
HTTP) happens in the control process, which reads these files. A file is named SLOT-PID, so that
two generations of one slot never write the same one. When a worker is gone its totals are folded
into SLOT-retired by the supervisor alone: sums over a slot only ever grow, which is what
Prometheus takes a counter to be.
"""

import contextlib
import math
from pathlib import Path
from typing import Final

import msgspec

from relay.clock import clock_s

RETIRED: Final = "retired"
FOLDED_MAX: Final = 16


class HistogramCounts(msgspec.Struct, frozen=True):
    """Observations by bucket.

    `bounds_us`: inclusive upper bounds, ascending, microseconds. `counts`: one more than bounds,
    the last for what lies beyond; not cumulative. `sum_us`: of all observations.
    """

    bounds_us: list[int]
    counts: list[int]
    sum_us: int


class WorkerMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's state: totals since it started, and what is true at this moment.

    `counters`: name -> label values -> count. `gauges`: name -> value; never folded. `identity`:
    unlike any other worker's, unlike a pid for ever. `folded`: in a retired file, the identities
    of the latest workers in it, so that a reader does not count the file of one twice that is
    about to be removed. `died`: those of them that ended without having said that they drain.
    `unread`: channel -> batches of it that cannot be charged now, because how they ended, or their
    results, cannot be read.
    """

    identity: int
    folded: tuple[int, ...] = ()
    died: tuple[int, ...] = ()
    counters: dict[str, dict[tuple[str, ...], int]] = {}
    histograms: dict[str, HistogramCounts] = {}
    gauges: dict[str, float] = {}
    unread: dict[str, int] = {}


_DECODER: Final = msgspec.msgpack.Decoder(WorkerMetrics)


FRESH_S: Final = 5.0
"""A worker publishes every second; one silent for so long is stuck or gone."""


def is_fresh(published: WorkerMetrics, now_s: float) -> bool:
    """Return whether this was published just now, by either clock that it is stamped with.

    Where the time of day is set anew, what was published before is as fresh as it was: all on a
    host share its monotonic clock.

    Args:
        published: Its gauges `time_seconds` (since 1970) and `clock_seconds` say when.
        now_s: Seconds since 1970.
    """
    if abs(now_s - published.gauges.get("time_seconds", -math.inf)) < FRESH_S:
        return True
    return 0 <= clock_s() - published.gauges.get("clock_seconds", -math.inf) < FRESH_S


def publish(directory: Path, name: str, content: bytes) -> None:
    """Replace the file `name` by `content`, so that a reader sees the old or the new one whole."""
    partial = directory / f".{name}.partial"
    partial.write_bytes(content)
    partial.replace(directory / name)


def read_all(directory: Path) -> dict[str, list[WorkerMetrics]]:
    """Return slot -> what its workers have published, the retired ones' sum last.

    A file that vanishes or does not decode is left out: the next second brings the next one.
    """
    found: dict[str, list[WorkerMetrics]] = {}
    # In name order the retired file comes after the digits: whoever was folded into it since its
    # own file was read is recognised, and nobody is missed.
    for path in sorted(directory.glob("[!.]*-*")):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            published = _DECODER.decode(path.read_bytes())
            slot = path.name.rpartition("-")[0]
            others = [p for p in found.get(slot, []) if p.identity not in published.folded]
            found[slot] = [*others, published]
    return found


def retire(directory: Path, slot: str, pid: int) -> None:
    """Fold the totals of a worker that is gone into its slot's; without a file, do nothing."""
    last = directory / f"{slot}-{pid}"
    retired = directory / f"{slot}-{RETIRED}"
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
        gone = _DECODER.decode(last.read_bytes())
        before = WorkerMetrics(identity=0)
        with contextlib.suppress(FileNotFoundError):
            before = _DECODER.decode(retired.read_bytes())
        publish(directory, retired.name, msgspec.msgpack.encode(_fold(before, gone)))
    last.unlink(missing_ok=True)


def clear(directory: Path) -> None:
    """Make `directory` stand empty: a new supervisor starts every count at nought."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        path.unlink(missing_ok=True)


def _fold(before: WorkerMetrics, gone: WorkerMetrics) -> WorkerMetrics:
    """Return the sum of two sets of totals, without gauges.

    Histograms of one name have one set of bounds in one release; after a change of bounds the
    newer one starts afresh.
    """
    counters = {name: dict(values) for name, values in before.counters.items()}
    for name, values in gone.counters.items():
        target = counters.setdefault(name, {})
        for labels, count in values.items():
            target[labels] = target.get(labels, 0) + count
    histograms = dict(before.histograms)
    for name, added in gone.histograms.items():
        known = histograms.get(name)
        histograms[name] = _add(known, added) if known is not None else added
    folded = (*before.folded, gone.identity)[-FOLDED_MAX:]
    died = before.died if gone.gauges.get("draining") else (*before.died, gone.identity)
    return WorkerMetrics(
        identity=0,
        folded=folded,
        died=died[-FOLDED_MAX:],
        counters=counters,
        histograms=histograms,
    )


def _add(one: HistogramCounts, other: HistogramCounts) -> HistogramCounts:
    if one.bounds_us != other.bounds_us:
        return other
    counts = [a + b for a, b in zip(one.counts, other.counts, strict=True)]
    return HistogramCounts(one.bounds_us, counts, one.sum_us + other.sum_us)
