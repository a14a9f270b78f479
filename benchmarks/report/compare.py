"""The regression gate: a report against a baseline, by ratios that were taken within one run.

An absolute time says as much about the machine and its neighbours as about the code; the ratio to
a peer measured in turn with it says much less about them.
"""

from typing import Any, Final

import msgspec

MARGIN: Final = 0.15
"""A ratio may grow by this share. Repeats of one build on a shared machine spread by up to 10 %."""
EXIT_REGRESSION: Final = 3
REFERENCE: Final = "nginx"
SUBJECT: Final = "relay"
_FIELDS: Final = ("worker_cpu_us_per_request", "worker_cpu_us_per_event", "cpu_us_per_request")
_BY_EVENT: Final = frozenset({"worker_cpu_us_per_event"})


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One ratio now and in the baseline."""

    scenario: str
    field: str
    before: float
    after: float
    margin: float

    @property
    def failed(self) -> bool:
        """Whether it grew beyond the margin."""
        return self.after > self.before * (1 + self.margin)

    def __str__(self) -> str:
        change = self.after / self.before - 1
        word = "REGRESSION" if self.failed else "ok"
        return (
            f"{word}: {self.scenario} {self.field}: {SUBJECT}/{REFERENCE} "
            f"{self.before:.2f} -> {self.after:.2f} ({change:+.0%}, margin {self.margin:.0%})"
        )


def compare(
    report: dict[str, Any], baseline: dict[str, Any], margin: float = MARGIN
) -> list[Verdict]:
    """Return a verdict for each ratio that both reports hold; INVALID entries are left out."""
    before = ratios(baseline)
    return [
        Verdict(scenario=scenario, field=field, before=before[key], after=after, margin=margin)
        for key, after in ratios(report).items()
        if key in before
        for scenario, field in [key]
    ]


def ratios(report: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Return subject over reference by (scenario, field): per event for streams, else per call."""
    entries = {(entry["name"], entry["target"]): entry for entry in report["scenarios"]}
    found = {}
    for (name, target), entry in entries.items():
        reference = entries.get((name, REFERENCE))
        if target != SUBJECT or reference is None or not entry["valid"] or not reference["valid"]:
            continue
        streams = bool(entry.get("cpu_us_per_event"))
        for field in _FIELDS:
            ours, theirs = entry.get(field), reference.get(field)
            if ours and theirs and (field in _BY_EVENT) == streams:
                found[name, field] = ours / theirs
    return found
