"""Goal: a slower build fails the gate, a slower machine does not. Method: reports made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.command import bench
from benchmarks.report.compare import EXIT_REGRESSION, compare


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
    (verdict,) = compare(report(40, 36), report(20, 18))
    assert not verdict.failed


@pytest.mark.parametrize(("after_us", "failed"), [(22.9, False), (23.1, True)])
def test_a_ratio_beyond_the_margin_is_one(after_us: float, failed: bool) -> None:
    (verdict,) = compare(report(after_us, 18), report(20, 18), margin=0.15)
    assert verdict.failed is failed
    assert ("REGRESSION" in str(verdict)) is failed


def test_what_is_invalid_is_not_compared() -> None:
    assert compare(report(99, 18, valid=False), report(20, 18)) == []


@pytest.mark.parametrize(("after_us", "code"), [(20.0, 0), (30.0, EXIT_REGRESSION)])
def test_the_command_exits_with_3_on_a_regression(
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
