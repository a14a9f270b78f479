"""Goal: README's tables come from one report and say nothing it does not hold.

Method: a report made by hand, a README with markers.
"""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.command import bench
from benchmarks.report.page import make_page
from benchmarks.report.readme import BEGIN, END, put_between
from tests.bench.test_report import entry


def report() -> dict[str, Any]:
    """Return a report in which some figures are missing, doubtful or impossible."""
    added = {"p50": 0.1, "p90": 0.2, "p99": -0.4, "p99_9": 1.0, "p99_99": 1.0}
    return {
        "commit": "0123456789abcdef",
        "command": "relay bench --suite full",
        "begun": "2026-11-25T04:08:10+00:00",
        "machine": {"cores": 2, "cpu_model": "A Processor", "relay": "compiled"},
        "scenarios": [
            entry("json_busy", cpu_us_per_request=81.0, worker_cpu_us_per_request=61.0),
            entry("json_busy", "nginx", cpu_us_per_request=37.0, worker_cpu_us_per_request=37.0),
            entry("json_busy", "smg", cpu_us_per_request=1210.0, worker_cpu_us_per_request=1210.0),
            entry("json_busy", "envoy", valid=False, invalid_reasons=["late"]),
            entry("sse_paced", cpu_us_per_event=19.0, worker_cpu_us_per_event=17.5),
            entry("sse_paced", "nginx", cpu_us_per_event=11.6, worker_cpu_us_per_event=11.6),
            entry("sse_paced", "litellm", cpu_us_per_event=600.0, load_share=0.02),
            entry("sse_paced", "haproxy", cpu_us_per_event=None, valid=False),
            {"name": "json_busy", "target": "portkey", "absent": "not here", "valid": False},
            entry("mixed_30m", added_latency_ms=added),
            entry("json_prompt_64k", cpu_us_per_request=525.0, worker_cpu_us_per_request=413.0),
            entry("limit_accuracy", tokens_per_min=29.93e6, log_rows_missing=0),
            entry("failover", measured=771, errors=0, log_rows_missing=0),
        ],
    }


def written(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """Write the tables into a README; return exit code and text."""
    readme, page = tmp_path / "README.md", tmp_path / "report.html"
    if not readme.exists():
        readme.write_text(f"# Title\n\n{BEGIN}\nold | 1\n{END}\n\n## Rest\n")
    page.write_text(make_page(report()))
    chart = tmp_path / "chart.svg"
    given = ["readme", str(page), "--out", str(readme), "--chart", str(chart), *arguments]
    return CliRunner().invoke(bench, given).exit_code, readme.read_text()


def test_the_tables_stand_between_the_markers_and_nothing_else_changes(tmp_path: Path) -> None:
    code, text = written(tmp_path)
    assert code == 0
    before, _, rest = text.partition(f"{BEGIN}\n")
    tables, _, after = rest.partition(f"\n{END}")
    assert (before, after) == ("# Title\n\n", "\n\n## Rest\n")
    assert "old" not in tables
    assert "`relay bench --suite full` at commit 0123456789ab, 2026-11-25, on 2 cores" in tables
    assert "| CPU of a JSON call at 5,000/s, us | 81 (61) | 37 |" in tables
    assert "| CPU of a paced SSE event, us | 19.0 (17.5) | 11.6 |" in tables
    assert "| JSON call, prompt of 64 KB | 525 (413) |" in tables
    assert "admitted 29.93M" in tables
    assert "none failed" in tables.replace("\n", " ")


def test_what_is_unknown_invalid_or_below_zero_is_no_figure(tmp_path: Path) -> None:
    _, text = written(tmp_path)
    assert "| added TTFT p99 at 30M tokens a minute, ms | disturbed |" in text
    assert "Envoy" not in text
    assert "HAProxy" not in text
    assert "Portkey" not in text
    assert "TLS" not in text
    assert "| CPU of a JSON call, us | 81 (61) | 1,210 |  |" in text
    assert " 0 |" not in text


def test_the_chart_comes_from_the_same_report(tmp_path: Path) -> None:
    written(tmp_path)
    svg = (tmp_path / "chart.svg").read_text()
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "nginx" in svg
    assert "litellm" not in svg


def test_writing_again_changes_nothing_and_check_says_so(tmp_path: Path) -> None:
    assert written(tmp_path, "--check")[0] == 1
    _, once = written(tmp_path)
    assert written(tmp_path) == (0, once)
    assert written(tmp_path, "--check")[0] == 0


@pytest.mark.parametrize(
    "text", ["no marker", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}{END}" * 2]
)
def test_a_file_without_the_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    assert written(tmp_path) == (1, text)
    with pytest.raises(ValueError, match="needs one line"):
        put_between(text, "")
