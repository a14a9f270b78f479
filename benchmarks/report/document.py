"""The report of a run: one JSON object, and one self-contained HTML page that holds it."""

import datetime
import json
from pathlib import Path
from typing import Any, Final

from benchmarks.report.machine import describe_command, describe_commit, describe_machine
from benchmarks.report.page import EMBEDDED_BEGIN, EMBEDDED_END, make_page

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results"
KEPT: Final = RESULTS / "report.html"
"""The one report that the repository keeps; its JSON is in it."""
FORMAT: Final = 2


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
    """Return a report that was written, as JSON or as the page that holds it.

    Raises:
        ValueError: It is none.
    """
    text = path.read_text()
    if path.suffix == ".html":
        text = text.partition(EMBEDDED_BEGIN)[2].partition(EMBEDDED_END)[0]
    try:
        report: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not a benchmark report: {error}") from error
    if not isinstance(report, dict) or "scenarios" not in report:
        raise ValueError(f"{path} is not a benchmark report: it has no scenarios")
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
