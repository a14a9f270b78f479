"""Goal: a real run passes the gate that is kept, and one that costs a fifth more does not.

Method: the relay beside nginx on a paced stream; in the report the relay's CPU is then raised to
1.2 times what the baseline allows for nginx's. A machine that is busy otherwise gets three tries.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks.report.compare import BASELINE, EXIT_REGRESSION

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(600)]

SCENARIO: Final = "sse_paced"
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


def test_a_fifth_more_cpu_fails_the_gate_and_what_is_here_passes_it(tmp_path: Path) -> None:
    installed = relay_bench("peers", "--install", "nginx")
    assert "NOT installed" not in installed.stderr
    report = measured(tmp_path)
    path = tmp_path / "report.json"
    # Twice the ratio that is kept: another machine, and what else it does, are not the point here.
    passed = relay_bench("--report", str(path), "--compare", "--margin", "1")
    assert passed.returncode == 0, passed.stderr
    kept = json.loads(BASELINE.read_text())["ratios"][SCENARIO]
    entries = {entry["target"]: entry for entry in report["scenarios"]}
    for field in FIELDS:
        entries["relay"][field] = 1.2 * kept[field] * entries["nginx"][field]
    path.write_text(json.dumps(report))
    failed = relay_bench("--report", str(path), "--compare")
    assert failed.returncode == EXIT_REGRESSION
    assert f"REGRESSION: {SCENARIO} cpu_us_per_event" in failed.stderr
