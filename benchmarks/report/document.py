"""The report of a run: one JSON object, and the same as one self-contained HTML page."""

import datetime
import json
from pathlib import Path
from typing import Any, Final

from benchmarks.report.machine import describe_command, describe_commit, describe_machine
from benchmarks.report.page import make_page

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results"
FORMAT: Final = 1


def begin_report(suite: str) -> dict[str, Any]:
    """Return a report without scenarios: what is measured, where, how."""
    return {
        "format": FORMAT,
        "suite": suite,
        "command": describe_command(),
        "commit": describe_commit(),
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "scenarios": [],
    }


def write_report(report: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write report.json and report.html into `folder`; return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_html = folder / "report.json", folder / "report.html"
    as_json.write_text(json.dumps(rounded(report), indent=1) + "\n")
    as_html.write_text(make_page(rounded(report)))
    return as_json, as_html


def read_report(path: Path) -> dict[str, Any]:
    """Return a report that was written.

    Raises:
        ValueError: It is none.
    """
    report: dict[str, Any] = json.loads(path.read_text())
    if not isinstance(report, dict) or "scenarios" not in report:
        raise ValueError(f"{path} is not a benchmark report")
    return report


def rounded(value: Any) -> Any:
    """Return the same with numbers cut to what they can mean: four significant digits."""
    if isinstance(value, dict):
        return {name: rounded(field) for name, field in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(field) for field in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < 10_000 else round(value)
    return value
