"""What a worker publishes of itself once a second, in one small file that is read whole.

A counter costs the hot path one integer increment; everything dear about metrics (labels, text,
HTTP) happens in the control process, which reads these files. A file is named SLOT-PID, so that
two generations of one slot never write the same one. When a worker is gone its totals are folded
into SLOT-retired by the supervisor alone: sums over a slot only ever grow, which is what
Prometheus takes a counter to be.

Replacing a file once a second costs an idle worker more than all else that it does: the filesystem
writes the new one to disk first. So a worker's file has two halves, which it writes in turn: one is
always whole, and its checksum tells which.
"""

import contextlib
import math
import os
import struct
import zlib
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


MOMENT_S: Final = 0.1
"""All that looks at figures does so on one beat of its process."""
HALVES: Final = b"\xc1"
"""How a file of two halves begins: no message of msgpack does."""
_HEAD: Final = struct.Struct("<cQII")
"""Of a half: HALVES, a number that grows, the content's length, a CRC-32 of number and content."""
HALF_BYTES_MIN: Final = 8 * 1024


class Publisher:
    """A worker's file, written in place.

    Args:
        directory: Where it is.
        name: Of the file, SLOT-PID.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._file = -1
        self._half_bytes = 0
        self._number = 0

    def publish(self, content: bytes) -> None:
        """Have readers find `content`, or what was published before it.

        Raises:
            OSError: They find what was published before.
        """
        self._number += 1
        head = _HEAD.pack(HALVES, self._number, len(content), _sum(self._number, content))
        if len(head) + len(content) > self._half_bytes:
            self._begin(head + content)
        else:
            os.pwrite(self._file, head + content, self._number % 2 * self._half_bytes)

    def close(self) -> None:
        """Let go of the file, which stays."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._half_bytes = -1, 0

    def _begin(self, half: bytes) -> None:
        """Replace the file by one with room to spare: both halves say the same at first."""
        self.close()
        size = max(HALF_BYTES_MIN, 2 * len(half))
        partial = self._directory / f".{self._name}.partial"
        partial.write_bytes(2 * half.ljust(size, b"\0"))
        partial.replace(self._directory / self._name)
        self._file = os.open(self._directory / self._name, os.O_WRONLY | os.O_CLOEXEC)
        self._half_bytes = size


def read_published(path: Path) -> WorkerMetrics:
    """Return what a file says.

    Raises:
        OSError: It is not there, or cannot be read.
        msgspec.DecodeError: It is of another kind.
    """
    found = path.read_bytes()
    return _DECODER.decode(_newest_half(found) if found.startswith(HALVES) else found)


def _newest_half(found: bytes) -> bytes:
    """Return the content of the newer half that is whole; b"" where none is."""
    newest, content = 0, b""
    if len(found) < 2 * _HEAD.size:
        return content
    for at in (0, len(found) // 2):
        _, number, length, checksum = _HEAD.unpack_from(found, at)
        half = found[at + _HEAD.size : at + _HEAD.size + length]
        if number > newest and _sum(number, half) == checksum:
            newest, content = number, half
    return content


def _sum(number: int, content: bytes) -> int:
    return zlib.crc32(content, number & 0xFFFF_FFFF)


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
    names = os.listdir(directory) if directory.is_dir() else []  # noqa: PTH208 - names are all we need
    for name in sorted(name for name in names if "-" in name and not name.startswith(".")):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            published = read_published(directory / name)
            slot = name.rpartition("-")[0]
            others = [p for p in found.get(slot, []) if p.identity not in published.folded]
            found[slot] = [*others, published]
    return found


class Figures:
    """What the workers of a host publish, read once for all who look at one moment.

    Args:
        directory: Where they publish it.
        moment_s: What was read is given out again for so long.
    """

    def __init__(self, directory: Path, moment_s: float = MOMENT_S) -> None:
        self._directory = directory
        self._moment_s = moment_s
        self._found: dict[str, list[WorkerMetrics]] = {}
        self._read_s = -math.inf

    def read(self) -> dict[str, list[WorkerMetrics]]:
        """Return slot -> what its workers have published; see `read_all`."""
        now_s = clock_s()
        if now_s - self._read_s >= self._moment_s:
            self._found, self._read_s = read_all(self._directory), now_s
        return self._found


def retire(directory: Path, slot: str, pid: int) -> None:
    """Fold the totals of a worker that is gone into its slot's; without a file, do nothing."""
    last = directory / f"{slot}-{pid}"
    retired = directory / f"{slot}-{RETIRED}"
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
        gone = read_published(last)
        before = WorkerMetrics(identity=0)
        with contextlib.suppress(FileNotFoundError):
            before = read_published(retired)
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
