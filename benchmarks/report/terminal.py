"""What a run says at the terminal: progress on stderr, the table in the end."""

import sys
import time
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.report.cells import added, number, with_spread
from benchmarks.report.goals import judge

_begun_s: Final = time.monotonic()


def say(text: str) -> None:
    """Tell of progress."""
    passed_s = int(time.monotonic() - _begun_s)
    sys.stderr.write(f"[{passed_s // 60:02}:{passed_s % 60:02}] {text}\n")
    sys.stderr.flush()


def print_report(report: dict[str, Any]) -> None:
    """Print a table of each scenario."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    for name in dict.fromkeys(entry["name"] for entry in report["scenarios"]):
        entries = [entry for entry in report["scenarios"] if entry["name"] == name]
        console.print(_table(name, entries))
    for goal in judge(report):
        if goal.reached is not None:
            console.print(str(goal), style="" if goal.reached else "yellow", highlight=False)
    for entry in report["scenarios"]:
        if entry.get("invalid_reasons"):
            reasons = "; ".join(entry["invalid_reasons"])
            console.print(f"INVALID {entry['name']} {entry['target']}: {reasons}", style="red")


def _table(name: str, entries: list[dict[str, Any]]) -> Table:
    about = next((entry["about"] for entry in entries if "about" in entry), "")
    table = Table(title=f"{name}: {about}", title_justify="left", title_style="bold")
    table.add_column("target")
    for heading in ("calls/s", "us/call", "us/event", "events/s", "added p50", "added p99"):
        table.add_column(heading, justify="right")
    table.add_column("errors", justify="right")
    table.add_column("RSS MiB", justify="right")
    table.add_column("")
    for entry in entries:
        table.add_row(*_row(entry))
    return table


def _row(entry: dict[str, Any]) -> list[str]:
    if "absent" in entry:
        return [entry["target"], *[""] * 8, f"absent: {entry['absent'][:60]}"]
    notes = [] if entry["valid"] else ["INVALID"]
    if entry.get("rss_bytes_per_stream"):
        notes.append(f"{entry['rss_bytes_per_stream'] / 1024:.1f} KiB/stream")
    if entry.get("load_share", 1) != 1:
        notes.append(f"at {entry['load_share']:.0%} of the load")
    if entry.get("load_limited"):
        notes.append("calls/s are the load's")
    notes += [str(note) for note in entry.get("notes", [])]
    return [
        entry["target"],
        number(entry["rps"]),
        with_spread(entry, "cpu_us_per_request", 0),
        with_spread(entry, "cpu_us_per_event", 1),
        number(entry["events_per_s"]),
        added(entry, "p50"),
        added(entry, "p99"),
        str(entry["errors"]),
        number(entry["rss_mib"]),
        ", ".join(notes),
    ]
