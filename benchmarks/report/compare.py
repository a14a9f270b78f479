"""The gate: a report against a baseline.

    scenarios   ratios of CPU to a peer measured in turn with it: an absolute time says as much of
                the machine and its neighbours as of the code, such a ratio much less
    a URL       what its users see, for its processes are not ours to look into: calls a second
                and latencies, on the same machine under the same load

A baseline is a report (JSON, or the page that holds it), or the few lines of ratios that
`relay bench baseline` made of one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from benchmarks.report.document import KEPT, RESULTS, read_report

MARGIN: Final = 0.15
"""A ratio may grow by this share. Repeats of one build on a shared machine spread by up to 10 %."""
EXIT_REGRESSION: Final = 1
REFERENCE: Final = "nginx"
SUBJECT: Final = "relay"
URL: Final = "url"
BASELINE: Final = RESULTS / "baseline.json"
ERRORS_SHARE: Final = 0.01
"""Of the calls to a URL, that may fail beyond those that failed before."""
_CALL: Final = ("cpu_us_per_request", "worker_cpu_us_per_request")
_EVENT: Final = ("cpu_us_per_event", "worker_cpu_us_per_event")
_LATENCIES: Final = ("request_latency_ms", "ttft_ms")
_WIDER: Final = {"p50": 1.0, "p90": 1.0, "p99": 2.0}
"""By how much a percentile's margin is the wider: few calls decide what a p99 is."""

Key = tuple[str, str]
"""Scenario and field."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One figure now and in the baseline. `bound`: the worst that passes; `least`: not to fall."""

    scenario: str
    field: str
    before: float
    after: float
    bound: float
    least: bool = False
    what: str = f"{SUBJECT}/{REFERENCE}"

    @property
    def failed(self) -> bool:
        """Whether it got worse beyond the margin."""
        return self.after < self.bound if self.least else self.after > self.bound

    def __str__(self) -> str:
        change = f"{self.after / self.before - 1:+.0%}, " if self.before else ""
        word = "REGRESSION" if self.failed else "ok"
        side = "least" if self.least else "most"
        return (
            f"{word}: {self.scenario} {self.field}: {self.what} {self.before:.4g} -> "
            f"{self.after:.4g} ({change}at {side} {self.bound:.4g})"
        )


def compare(
    report: dict[str, Any], baseline: dict[str, Any], margin: float = MARGIN
) -> list[Verdict]:
    """Return a verdict for each figure that both hold; INVALID entries are left out."""
    before = ratios(baseline)
    verdicts = [
        _within(margin, before[key], after, scenario=key[0], field=key[1])
        for key, after in ratios(report).items()
        if key in before
    ]
    return [*verdicts, *_compare_urls(report, baseline, margin)]


def _within(margin: float, before: float, after: float, **what: Any) -> Verdict:
    """Return the verdict on what may grow by a share, or fall by it (`least`)."""
    bound = before / (1 + margin) if what.get("least") else before * (1 + margin)
    return Verdict(before=before, after=after, bound=bound, **what)


def ratios(report: dict[str, Any]) -> dict[Key, float]:
    """Return subject over reference: per event for streams, else per call."""
    if "ratios" in report:
        kept: dict[str, dict[str, float]] = report["ratios"]
        return {(name, field): found for name in kept for field, found in kept[name].items()}
    entries = {(entry["name"], entry["target"]): entry for entry in report["scenarios"]}
    found = {}
    for (name, target), entry in entries.items():
        reference = entries.get((name, REFERENCE))
        if target != SUBJECT or reference is None or not entry["valid"] or not reference["valid"]:
            continue
        streams = bool(entry.get("cpu_us_per_event"))
        for field in _EVENT if streams else _CALL:
            ours, theirs = entry.get(field), reference.get(field)
            if ours and theirs:
                found[name, field] = ours / theirs
    return found


def _compare_urls(report: dict[str, Any], baseline: dict[str, Any], margin: float) -> list[Verdict]:
    """Judge loads on URLs: that of the same URL before, or the only one there is."""
    old, new = _urls(baseline), _urls(report)
    verdicts: list[Verdict] = []
    for entry in new:
        same = [other for other in old if other["target"] == entry["target"]] or old
        if len(same) == 1:
            verdicts += _judge_url(entry, same[0], margin)
    return verdicts


def describe_loads(report: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    """Return a note for each load on a URL that is not the one of the baseline."""
    before = {entry["about"] for entry in _urls(baseline)}
    return [
        f"not the same load: {entry['about']}; in the baseline: {'; '.join(sorted(before))}"
        for entry in _urls(report)
        if before and entry["about"] not in before
    ]


def _urls(report: dict[str, Any]) -> list[dict[str, Any]]:
    entries = report.get("scenarios", ())
    return [entry for entry in entries if entry["name"] == URL and entry["valid"]]


def _judge_url(entry: dict[str, Any], old: dict[str, Any], margin: float) -> Iterator[Verdict]:
    if entry["rps"] and old["rps"]:
        yield _within(
            margin,
            old["rps"],
            entry["rps"],
            scenario=URL,
            field="rps",
            what="calls/s",
            least=True,
        )
    for field in _LATENCIES:
        for percentile, wider in _WIDER.items():
            before = (old.get(field) or {}).get(percentile)
            after = (entry.get(field) or {}).get(percentile)
            if before and after:
                name = f"{field.removesuffix('_ms')} {percentile}"
                yield _within(margin * wider, before, after, scenario=URL, field=name, what="ms")
    before, after = _failed_share(old), _failed_share(entry)
    if before is not None and after is not None:
        yield Verdict(
            scenario=URL,
            field="failed calls",
            before=before,
            after=after,
            bound=before + ERRORS_SHARE,
            what="share",
        )


def _failed_share(entry: dict[str, Any]) -> float | None:
    measured: int | None = entry.get("measured")
    return entry["errors"] / measured if measured else None


def read_baseline(path: Path) -> dict[str, Any]:
    """Return a baseline: a report, or ratios alone.

    Raises:
        ValueError: It is neither.
    """
    if path.suffix == ".json":
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is no baseline: {error}") from error
        if isinstance(found, dict) and "ratios" in found:
            return found
    return read_report(path)


def make_baseline(report: dict[str, Any]) -> str:
    """Return the ratios of a report as JSON, a line for each scenario."""
    kept: dict[str, dict[str, float]] = {}
    for (name, field), found in ratios(report).items():
        kept.setdefault(name, {})[field] = round(found, 3)
    about = {name: report[name] for name in ("commit", "begun", "command")}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(kept[name])}" for name in kept)
    head = json.dumps(about | {"over": REFERENCE})[1:-1]
    return f'{{{head}, "ratios": {{\n{lines}\n}}}}\n'


@click.command()
@click.argument(
    "report", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=KEPT
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=BASELINE)
def command(report: Path, out: Path) -> None:
    """Keep the ratios of a report, by default the one that is kept, for --compare."""
    try:
        text = make_baseline(read_report(report))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    out.write_text(text)
    click.echo(f"wrote {out}", err=True)
