"""Goal: a slower build fails the gate, a slower machine does not. Method: reports made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.command import bench
from benchmarks.report.compare import BASELINE, EXIT_REGRESSION, compare, make_baseline, ratios
from benchmarks.report.page import make_page


def report(relay_us: float, nginx_us: float, *, valid: bool = True) -> dict[str, Any]:
    def entry(target: str, cpu_us: float) -> dict[str, Any]:
        return {
            "name": "sse_paced",
            "target": target,
            "about": "",
            "does": "",
            "valid": valid,
            "rps": 50.0,
            "events_per_s": 15_000.0,
            "errors": 0,
            "rss_mib": 50.0,
            "ttft_ms": {"p99": 1.0},
            "cpu_us_per_request": cpu_us * 300,
            "worker_cpu_us_per_request": cpu_us * 300,
            "cpu_us_per_event": cpu_us,
            "worker_cpu_us_per_event": cpu_us,
        }

    return {
        "commit": "",
        "command": "",
        "begun": "",
        "machine": {},
        "scenarios": [entry("relay", relay_us), entry("nginx", nginx_us)],
    }


def test_a_machine_twice_as_slow_is_no_regression() -> None:
    verdicts = compare(report(40, 36), report(20, 18))
    assert [verdict.failed for verdict in verdicts] == [False, False]


@pytest.mark.parametrize(("after_us", "failed"), [(22.9, False), (23.1, True)])
def test_a_ratio_beyond_the_margin_is_one(after_us: float, failed: bool) -> None:
    tree, workers = compare(report(after_us, 18), report(20, 18), margin=0.15)
    assert (tree.field, workers.field) == ("cpu_us_per_event", "worker_cpu_us_per_event")
    assert tree.failed is workers.failed is failed
    assert ("REGRESSION" in str(workers)) is failed


def test_what_is_invalid_is_not_compared() -> None:
    assert compare(report(99, 18, valid=False), report(20, 18)) == []


@pytest.mark.parametrize(("after_us", "code"), [(20.0, 0), (24.0, EXIT_REGRESSION)])
def test_the_command_exits_with_1_on_a_regression(
    tmp_path: Path, after_us: float, code: int
) -> None:
    base, now = tmp_path / "base.json", tmp_path / "report.json"
    base.write_text(json.dumps(report(20, 18)))
    now.write_text(json.dumps(report(after_us, 18)))
    arguments = ["--report", str(now), "--compare", str(base), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(bench, arguments).exit_code == code
    assert "relay benchmark" in (tmp_path / "out" / "report.html").read_text()


def test_nothing_to_compare_is_no_success(tmp_path: Path) -> None:
    base, now = tmp_path / "base.json", tmp_path / "report.json"
    base.write_text(json.dumps(report(20, 18, valid=False)))
    now.write_text(json.dumps(report(20, 18)))
    arguments = ["--report", str(now), "--compare", str(base), "--out", str(tmp_path)]
    assert CliRunner().invoke(bench, arguments).exit_code == 1


def test_a_baseline_of_a_few_lines_does_as_well_as_the_report_it_was_made_of(
    tmp_path: Path,
) -> None:
    base, page = tmp_path / "baseline.json", tmp_path / "report.html"
    base.write_text(make_baseline(report(20, 18)))
    assert base.read_text().count("\n") == 3
    for after_us, code in ((20.0, 0), (24.0, EXIT_REGRESSION)):
        page.write_text(make_page(report(after_us, 18)))
        result = CliRunner().invoke(bench, ["--report", str(page), "--compare", str(base)])
        assert result.exit_code == code
        assert ("REGRESSION" in result.output) is bool(code)


def test_the_baseline_that_is_kept_is_used_unless_another_is_named(tmp_path: Path) -> None:
    kept = json.loads(BASELINE.read_text())
    assert len(BASELINE.read_text().splitlines()) <= 40
    assert {"json_busy", "sse_paced"} <= kept["ratios"].keys()
    slower = report(kept["ratios"]["sse_paced"]["cpu_us_per_event"] * 1.2 * 10, 10)
    now = tmp_path / "report.json"
    now.write_text(json.dumps(slower))
    result = CliRunner().invoke(bench, ["--report", str(now), "--compare"])
    assert result.exit_code == EXIT_REGRESSION
    assert "REGRESSION: sse_paced" in result.output


def test_the_command_keeps_a_baseline(tmp_path: Path) -> None:
    page, out = tmp_path / "report.html", tmp_path / "baseline.json"
    page.write_text(make_page(report(20, 10)))
    assert CliRunner().invoke(bench, ["baseline", str(page), "--out", str(out)]).exit_code == 0
    assert ratios(json.loads(out.read_text()))["sse_paced", "cpu_us_per_event"] == 2.0
    page.write_text("no page of ours")
    result = CliRunner().invoke(bench, ["baseline", str(page), "--out", str(out)])
    assert result.exit_code == 1
    assert "not a benchmark report" in result.output


def of_url(**changed: Any) -> dict[str, Any]:
    """Return a report of a load on a URL."""
    latency = {"p50": 10.0, "p90": 15.0, "p99": 40.0}
    entry = {
        **report(20, 18)["scenarios"][0],
        "name": "url",
        "target": "http://127.0.0.1:1/v1",
        "rps": 100.0,
        "measured": 1000,
        "request_latency_ms": latency,
        "ttft_ms": latency,
        "cpu_us_per_request": None,
        "cpu_us_per_event": None,
        "rss_mib": None,
    }
    return {**report(20, 18), "scenarios": [entry | changed]}


SLOWER = {"p50": 12.0, "p90": 18.0, "p99": 48.0}


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({}, 0),
        ({"rps": 80.0}, EXIT_REGRESSION),
        ({"rps": 120.0}, 0),
        ({"request_latency_ms": SLOWER}, EXIT_REGRESSION),
        ({"ttft_ms": SLOWER}, EXIT_REGRESSION),
        ({"ttft_ms": {"p50": None, "p90": None, "p99": None}}, 0),
        ({"errors": 20}, EXIT_REGRESSION),
        ({"errors": 5}, 0),
        ({"target": "http://127.0.0.1:2/v1"}, 0),
        ({"valid": False, "invalid_reasons": ["no call was answered"]}, 1),
    ],
)
def test_a_load_on_a_url_is_judged_by_what_its_users_see(
    tmp_path: Path, changed: dict[str, Any], code: int
) -> None:
    base, now = tmp_path / "base.json", tmp_path / "report.json"
    base.write_text(json.dumps(of_url()))
    now.write_text(json.dumps(of_url(**changed)))
    result = CliRunner().invoke(bench, ["--report", str(now), "--compare", str(base)])
    assert result.exit_code == code, result.output
    assert "not the same load" not in result.output


def test_another_load_on_a_url_is_said_to_be_one(tmp_path: Path) -> None:
    base, now = tmp_path / "base.json", tmp_path / "report.json"
    base.write_text(json.dumps(of_url(about="streams, 100 calls/s")))
    now.write_text(json.dumps(of_url(about="streams, 200 calls/s", rps=200.0)))
    result = CliRunner().invoke(bench, ["--report", str(now), "--compare", str(base)])
    assert "not the same load: streams, 200 calls/s" in result.output
