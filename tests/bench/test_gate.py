"""Goal: the gate passes a build that costs what it did, and fails one that costs a fifth more.

Method: the relay beside nginx, both never idle on one core; the first run says what it should cost.
A fifth more is planted in the workers' processes, by what Python imports first (planted/): nothing
in the relay knows of it. What the kept baseline says of this machine is told, too.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks.report.compare import BASELINE, EXIT_REGRESSION
from relay.compiled import is_compiled

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(900)]

SCENARIO: Final = "sse_burst_20"
KEPT_SCENARIO: Final = "sse_paced"
FIELD: Final = "worker_cpu_us_per_event"
SHARE: Final = 0.2
TRIES: Final = 3
"""A neighbour on the machine may spoil one."""
PLANTED: Final = {
    "PYTHONPATH": str(Path(__file__).parent / "planted"),
    "PLANTED_SHARE": str(SHARE),
}


def relay_bench(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relay", "bench", *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, **env}
    )


def measured(folder: Path, scenario: str = SCENARIO, **env: str) -> Path:
    """Return the report of a run in which both are valid."""
    run = ("--scenarios", scenario, "--targets", "relay,nginx", "--repeats", "3")
    for _ in range(TRIES):
        found = relay_bench(*run, "--out", str(folder), **env)
        assert found.returncode == 0, found.stderr
        report: dict[str, Any] = json.loads((folder / "report.json").read_text())
        doubts = {entry["target"]: entry.get("invalid_reasons") for entry in report["scenarios"]}
        if all(entry["valid"] for entry in report["scenarios"]):
            return folder / "report.json"
    raise AssertionError(f"no valid run in {TRIES}: {doubts}")


def comes_to(code: int, measure: Callable[[int], Path], *against: str) -> str:
    """Return what the gate says of the first run of a few that it judges so."""
    said = []
    for at in range(TRIES):
        judged = relay_bench("--report", str(measure(at)), "--compare", *against)
        said.append(judged.stderr)
        if judged.returncode == code:
            return judged.stderr
    raise AssertionError(f"never {code}: {said}")


@pytest.fixture(autouse=True, scope="module")
def nginx() -> None:
    installed = relay_bench("peers", "--install", "nginx")
    assert "NOT installed" not in installed.stderr


def test_a_planted_fifth_fails_the_gate_and_the_build_itself_passes_it(tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    first = measured(tmp_path / "first")
    assert relay_bench("baseline", str(first), "--out", str(baseline)).returncode == 0
    said = comes_to(0, lambda at: measured(tmp_path / f"again{at}"), str(baseline))
    assert f"ok: {SCENARIO} {FIELD}" in said
    said = comes_to(
        EXIT_REGRESSION,
        lambda at: measured(tmp_path / f"planted{at}", **PLANTED),
        str(baseline),
    )
    assert f"REGRESSION: {SCENARIO} {FIELD}" in said


@pytest.mark.skipif(not is_compiled(), reason="the kept baseline is of compiled workers")
def test_the_build_passes_the_baseline_that_is_kept(tmp_path: Path) -> None:
    assert KEPT_SCENARIO in json.loads(BASELINE.read_text())["ratios"]
    comes_to(0, lambda at: measured(tmp_path / f"run{at}", KEPT_SCENARIO))
