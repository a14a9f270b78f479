"""Alarms that last: each is told once when it begins, and once when it is over.

What is wrong is said anew at each look; this knows what was told before. That stands in a file, so
that a new release, or a control process that died, tells nothing twice and forgets no end. While a
release takes over from another, two control processes look: who tells first writes it there.

DATA_DIR/run/troubles.json    [[event, subject, since], ...]
"""

import contextlib
import datetime
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from relay.control.watch.webhook import Notice

OVER_S: Final = 5.0
"""What was not seen for so long is over: what comes and goes is one alarm."""
TOLD_MAX: Final = 1_000
"""Troubles at once; beyond it the log and the metrics of each thing have to do."""

_log = logging.getLogger(__name__)


class TroubleKind(NamedTuple):
    """A kind of trouble.

    `words`, `over`: for the log. `after_s`: how long it has to last to be told.
    """

    words: str
    over: str
    after_s: float = 0.0


KINDS: Final = {
    "worker_died": TroubleKind("a worker died", "a worker serves in its place"),
    "worker_missing": TroubleKind(
        "a worker takes no calls", "a worker takes calls again", after_s=6.0
    ),
    "redis_lost": TroubleKind("Redis does not answer", "Redis answers again", after_s=2.0),
    "postgres_lost": TroubleKind("Postgres does not answer", "Postgres answers again"),
    "shipping_waits": TroubleKind(
        "calls do not reach the request log", "calls reach the log again", after_s=10.0
    ),
    "reload_failed": TroubleKind("a reload failed", "a reload has succeeded"),
    "model_unavailable": TroubleKind(
        "no channel of a model is in service", "a model is served again", after_s=4.0
    ),
    "results_unread": TroubleKind(
        "results of batches cannot be read", "they were read, or given up", after_s=60.0
    ),
    "maintenance_failed": TroubleKind("a work of the night failed", "it went well this time"),
}
"""By the event that the webhook is sent; "_over" is added to it when it is over."""


class Trouble(Notice, frozen=True, kw_only=True):
    """Something is wrong, or over, on `host`. `subject`: with what, "" = with the host itself."""

    host: str
    subject: str
    reason: str
    since: str


class _Known(msgspec.Struct):
    """What is known of one trouble. `told`: its begin was; the clock counts seconds."""

    first_s: float
    last_s: float
    reason: str
    since: str
    told: bool = False


class Troubles(Collector):
    """Tells begins and ends.

    Args:
        file: Where it stands what was told.
        host: Whose troubles these are.
        send: Sends a notice to the operator; None = only log and metrics tell.
        clock_s: A clock that never jumps.
        now: The time, UTC.
    """

    def __init__(
        self,
        file: Path,
        host: str,
        send: Callable[[Notice], None] | None,
        clock_s: Callable[[], float],
        now: Callable[[], datetime.datetime],
    ) -> None:
        self._file = file
        self._host = host
        self._send = send
        self._clock_s = clock_s
        self._now = now
        self._known: dict[tuple[str, str], _Known] = {}
        self._kept = True
        """Whether what was told could be written down."""
        now_s = clock_s()
        for place, since in self._read().items():
            self._known[place] = _Known(now_s, now_s, "", since, told=True)

    def is_told(self, event: str, subject: str) -> bool:
        """Tell whether its begin was told, and its end was not."""
        known = self._known.get((event, subject))
        return known is not None and known.told

    def look(self, found: Mapping[tuple[str, str], str]) -> None:
        """Take up what is wrong now: (event, subject) -> the reason, in words of ours."""
        now_s, changed = self._clock_s(), False
        for (event, subject), reason in found.items():
            known = self._known.get((event, subject))
            if known is None:
                if len(self._known) >= TOLD_MAX:
                    continue
                known = _Known(now_s, now_s, reason, self._stamp())
                self._known[event, subject] = known
            known.last_s, known.reason = now_s, reason
            if not known.told and now_s - known.first_s >= KINDS[event].after_s:
                known.told = True
                if not (self._kept and (event, subject) in self._read()):
                    changed = True
                    self._tell(event, subject, known)
        for (event, subject), known in list(self._known.items()):
            if (event, subject) not in found and now_s - known.last_s >= OVER_S:
                del self._known[event, subject]
                untold = not self._kept or (event, subject) in self._read()
                if known.told and untold and event in KINDS:
                    changed = True
                    self._tell(event, subject, known, over=True)
        if changed:
            self._keep()

    def collect(self) -> Iterator[Metric]:
        """Return how many troubles of each kind there are."""
        metric = GaugeMetricFamily(
            "relay_troubles", "What is wrong now and was told, by kind.", labels=("event",)
        )
        counts = Counter(event for (event, _), known in self._known.items() if known.told)
        for event in KINDS:
            metric.add_metric((event,), counts[event])
        yield metric

    def _tell(self, event: str, subject: str, known: _Known, *, over: bool = False) -> None:
        kind = KINDS[event]
        extra = {"child": subject, "reason": known.reason}
        if over:
            _log.warning(kind.over, extra=extra)
        else:
            _log.error(kind.words, extra=extra)
        if self._send is not None:
            self._send(
                Trouble(
                    event=f"{event}_over" if over else event,
                    time=self._stamp(),
                    host=self._host,
                    subject=subject,
                    reason=known.reason,
                    since=known.since,
                )
            )

    def _read(self) -> dict[tuple[str, str], str]:
        """Return what was told and is not over -> since when."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            told = msgspec.json.decode(self._file.read_bytes(), type=list[tuple[str, str, str]])
            return {(event, subject): since for event, subject, since in told}
        return {}

    def _keep(self) -> None:
        told = [
            (event, subject, known.since)
            for (event, subject), known in self._known.items()
            if known.told
        ]
        draft = self._file.with_name(f".{self._file.name}.draft")
        self._kept = False
        with contextlib.suppress(OSError):  # a full disk must not end us
            draft.write_bytes(msgspec.json.encode(told))
            draft.replace(self._file)
            self._kept = True

    def _stamp(self) -> str:
        return self._now().isoformat(timespec="milliseconds")
