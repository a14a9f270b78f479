"""A log-linear histogram of whole numbers, after HdrHistogram: bounded error, cheap, mergeable.

Below 256 each value has a slot of its own; above, each power of two is cut into 128 slots:

    slot      0 .. 255 | 256 .. 383 | 384 .. 511 | ...
    values    0 .. 255 | 256 .. 511 | 512 .. 1023| ...     width 1, 2, 4 ...

So a slot is at most 1/128 of its values wide, and its middle is off by 1/256 (0.4 %) at most. The
least and the greatest value are kept exactly.
"""

from typing import Any, Final

_BITS: Final = 7
_LINEAR: Final = 1 << (_BITS + 1)
VALUE_MAX: Final = 1 << 36
"""In microseconds 19 hours; greater ones are counted as this."""
RELATIVE_ERROR_MAX: Final = 1 / (2 << _BITS)

PERCENTILES: Final = {
    "p50": 50.0,
    "p75": 75.0,
    "p90": 90.0,
    "p95": 95.0,
    "p99": 99.0,
    "p99_9": 99.9,
    "p99_99": 99.99,
}


def slot_of(value: int) -> int:
    """Return the slot that counts `value`, which is not negative."""
    if value < _LINEAR:
        return value
    shift = value.bit_length() - _BITS - 1
    return (shift << _BITS) + (value >> shift)


def middle_of(slot: int) -> float:
    """Return the value that stands for a slot: the middle of those it counts."""
    if slot < _LINEAR:
        return float(slot)
    shift = (slot >> _BITS) - 1
    low = (slot - (shift << _BITS)) << shift
    return low + ((1 << shift) - 1) / 2


_SLOTS: Final = slot_of(VALUE_MAX) + 1


class Histogram:
    """Counts of values, by slot; what is negative counts as 0."""

    __slots__ = ("count", "counts", "max", "min", "total")

    def __init__(self) -> None:
        self.counts = [0] * _SLOTS
        self.count = 0
        self.total = 0
        self.min = 0
        self.max = 0

    def record(self, value: int) -> None:
        """Count one value."""
        if value < 0:
            value = 0
        if value > self.max:
            self.max = value
        if self.count == 0 or value < self.min:
            self.min = value
        self.count += 1
        self.total += value
        self.counts[slot_of(value if value < VALUE_MAX else VALUE_MAX)] += 1

    def percentile(self, percent: float) -> float:
        """Return the value that `percent` of all are not above; 0 when there is none."""
        if self.count == 0:
            return 0.0
        rank = max(1, -(-self.count * percent // 100))
        seen = 0
        for slot, count in enumerate(self.counts):
            seen += count
            if seen >= rank:
                return min(max(middle_of(slot), float(self.min)), float(self.max))
        return float(self.max)

    def merge(self, other: "Histogram") -> None:
        """Add another's counts to these."""
        if other.count == 0:
            return
        self.min = other.min if self.count == 0 else min(self.min, other.min)
        self.max = max(self.max, other.max)
        self.count += other.count
        self.total += other.total
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]

    def summarise(self, scale: float = 1.0) -> dict[str, float | None]:
        """Return percentiles, average, least and greatest, each divided by `scale`.

        Where nothing was recorded they are None: unknown is not 0.
        """
        if self.count == 0:
            return dict.fromkeys((*PERCENTILES, "avg", "min", "max")) | {"count": 0}
        found = {name: self.percentile(percent) / scale for name, percent in PERCENTILES.items()}
        return {
            **found,
            "avg": self.total / self.count / scale,
            "min": self.min / scale,
            "max": self.max / scale,
            "count": self.count,
        }

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads: the slots that count something."""
        slots = {str(slot): count for slot, count in enumerate(self.counts) if count}
        return {"min": self.min, "max": self.max, "total": self.total, "slots": slots}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Histogram":
        """Return the histogram that `to_json` wrote."""
        histogram = cls()
        for slot, count in found["slots"].items():
            histogram.counts[int(slot)] = count
            histogram.count += count
        histogram.min = found["min"]
        histogram.max = found["max"]
        histogram.total = found["total"]
        return histogram
