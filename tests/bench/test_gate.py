"""Goal: a real run passes the gate, and one that costs a fifth more does not.

Method: the relay beside nginx, both never idle on one core; the run's own ratios are the baseline.
In its report the relay's CPU is then raised by a fifth.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks.report.compare import EXIT_REGRESSION

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(600)]

SCENARIO: Final = "sse_burst_20"
FIELDS: Final = ("cpu_us_per_event", "worker_cpu_us_per_event")
TRIES: Final = 3


def relay_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relay", "bench", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def measured(folder: Path) -> dict[str, Any]:
    """Return a report in which both are valid."""
    run = ("--scenarios", SCENARIO, "--targets", "relay,nginx", "--repeats", "1")
    for _ in range(TRIES):
        assert relay_bench(*run, "--out", str(folder)).returncode == 0
        report: dict[str, Any] = json.loads((folder / "report.json").read_text())
        doubts = {entry["target"]: entry.get("invalid_reasons") for entry in report["scenarios"]}
        if all(entry["valid"] for entry in report["scenarios"]):
            return report
    raise AssertionError(f"no valid run in {TRIES}: {doubts}")


def test_a_fifth_more_cpu_fails_the_gate_and_the_run_itself_passes_it(tmp_path: Path) -> None:
    installed = relay_bench("peers", "--install", "nginx")
    assert "NOT installed" not in installed.stderr
    report = measured(tmp_path)
    path, baseline = tmp_path / "report.json", tmp_path / "baseline.json"
    assert relay_bench("baseline", str(path), "--out", str(baseline)).returncode == 0
    gate = ("--report", str(path), "--compare", str(baseline))
    passed = relay_bench(*gate)
    assert passed.returncode == 0, passed.stderr
    (relay,) = (entry for entry in report["scenarios"] if entry["target"] == "relay")
    for field in FIELDS:
        relay[field] *= 1.2
    path.write_text(json.dumps(report))
    failed = relay_bench(*gate)
    assert failed.returncode == EXIT_REGRESSION
    for field in FIELDS:
        assert f"REGRESSION: {SCENARIO} {field}" in failed.stderr
