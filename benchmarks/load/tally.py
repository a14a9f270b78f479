"""What the connections of one generator process count."""

from collections.abc import Callable
from time import monotonic_ns
from typing import Final

from benchmarks.load.histogram import Histogram

COUNTS: Final = ("done", "events", "received_bytes", "prompt_tokens", "completion_tokens")


class Tally:
    """Counts since the process began, and histograms of the calls that are measured.

    `asked`: calls sent. `open_streams`: streams that have begun and not ended. `answered`: measured
    calls that got a whole good answer. `unanswered`, `wordless`: when those that never got one, or
    never a first token, were intended. `on_fail`: told of each failed call: how, when it was due,
    when it was known.
    """

    __slots__ = (
        *COUNTS,
        "answered",
        "asked",
        "errors",
        "gap",
        "lag",
        "latency",
        "loop_lag",
        "measured",
        "on_fail",
        "open_streams",
        "pending",
        "ttft",
        "unanswered",
        "wordless",
    )

    def __init__(self) -> None:
        self.asked = 0
        self.done = 0
        self.events = 0
        self.received_bytes = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.open_streams = 0
        self.measured = 0
        self.pending = 0
        self.answered = 0
        self.unanswered: list[int] = []
        self.wordless: list[int] = []
        self.errors: dict[str, int] = {}
        self.on_fail: Callable[[str, int, int], None] | None = None
        self.latency = Histogram()
        self.ttft = Histogram()
        self.gap = Histogram()
        self.lag = Histogram()
        self.loop_lag = Histogram()

    def counts(self) -> dict[str, int]:
        """Return the counts as they stand."""
        return {name: getattr(self, name) for name in COUNTS}

    def fail(self, kind: str, intended_ns: int) -> None:
        """Count a measured call that did not get a whole good answer."""
        self.errors[kind] = self.errors.get(kind, 0) + 1
        if self.on_fail is not None:
            self.on_fail(kind, intended_ns, monotonic_ns())

    def leave(self, kind: str, intended_ns: int, *, wordless: bool = True) -> None:
        """Count a measured call that failed without an answer; its caller waits for ever."""
        self.fail(kind, intended_ns)
        self.unanswered.append(intended_ns)
        if wordless:
            self.wordless.append(intended_ns)

    def age(self, now_ns: int) -> None:
        """Record what never came as at least as late as it is by now."""
        for histogram, waiting in ((self.latency, self.unanswered), (self.ttft, self.wordless)):
            for intended_ns in waiting:
                histogram.record((now_ns - intended_ns) // 1000)
            waiting.clear()
