"""Goal: what deploy/ has Prometheus and Grafana ask for exists in the relay, in bounded labels.

Method: every expression of the rules and the dashboard against the families that the control
process exposes; promtool, where it is installed, on the files and on the alerts' own tests.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

import relay
from relay.control.api.metrics import COUNTERS, GAUGES, HISTOGRAMS, WorkerCollector
from relay.control.watch.notices import EVENTS
from tests.deploy.programs import needs

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
BOARD = json.loads((DEPLOY / "grafana" / "relay.json").read_text("utf-8"))
ALLOWED_LABELS = {
    *("line", "channel", "model", "endpoint", "code", "type", "reason", "scope", "exhausted"),
    *("work",),
    *("event", "rule", "worker", "instance", "job", "le", "version", "compiled", "python"),
}
"""Names of the catalog and codes: what a client or a customer can make more of is none of them."""
FOREIGN = {"up"}
OTHERS = {
    "relay_build_info": {"version", "python", "compiled"},
    "relay_channel_state": {"channel", "model"},
    "relay_channel_alarms_total": {"channel", "reason"},
    "relay_money_notices_total": {"event"},
    "relay_maintenance_last_run_seconds": {"work"},
    "relay_maintenance_duration_seconds": {"work"},
    "relay_maintenance_ok": {"work"},
    "relay_troubles": {"event"},
    "relay_log_lag_bytes": set[str](),
    "relay_log_queue_depth": set[str](),
    "relay_log_failures": set[str](),
}
"""What is not in a table of relay/control: looked for in its source, and in a running relay."""
_NAME = re.compile(r"(?<![\w:])((?:relay|up)(?:_\w+)?)(?![\w:(])(?:\{([^}]*)\})?")
_RECORD = re.compile(r"(?<!\w)((?:relay|line|channel):\w+:\w+)")
_GROUPED = re.compile(r"(?:by|without|on|ignoring) \(([^)]*)\)")


def known() -> dict[str, set[str]]:
    """Return sample name -> labels of all that a relay exposes."""
    found: dict[str, set[str]] = {name: set(labels) for name, labels in OTHERS.items()}
    for family in COUNTERS.values():
        found[f"{family.name}_total"] = set(family.labels)
    for family in HISTOGRAMS.values():
        found[f"{family.name}_bucket"] = {"le"}
        found[f"{family.name}_sum"] = found[f"{family.name}_count"] = set()
    for family, _ in GAUGES.values():
        found[family.name] = {"worker"}
    return found


def rules() -> list[tuple[str, str]]:
    """Return (name, expression) of every rule; a little YAML reader for our own two files."""
    found = []
    for file in ("recording.yml", "alerts.yml"):
        name, lines = "", (PROMETHEUS / file).read_text("utf-8").splitlines()
        for at, line in enumerate(lines):
            if declared := re.match(r" +- (?:record|alert): (\S+)", line):
                name = declared[1]
            if expression := re.match(r"( +)expr: (.*)", line):
                text = expression[2]
                if text == ">-":
                    indent = len(expression[1]) + 1
                    rest = lines[at + 1 :]
                    ends = next(
                        (n for n, one in enumerate(rest) if len(one) - len(one.lstrip()) < indent),
                        len(rest),
                    )
                    text = " ".join(one.strip() for one in rest[:ends])
                found.append((name, text))
    return found


def panels() -> list[tuple[str, str]]:
    """Return (title, expression) of every query of the dashboard."""
    return [
        (panel["title"], target["expr"])
        for panel in BOARD["panels"]
        for target in panel.get("targets", [])
    ]


QUERIES = [*rules(), *panels()]


def test_the_reader_reads_all_of_them() -> None:
    texts = [(PROMETHEUS / file).read_text("utf-8") for file in ("recording.yml", "alerts.yml")]
    assert len(rules()) == sum(text.count("expr:") for text in texts) > 25
    assert len(panels()) > 30
    assert all(len(text) > 10 for _, text in QUERIES)


@pytest.mark.parametrize(("where", "query"), QUERIES)
def test_every_metric_exists_with_the_labels_that_are_asked_for(where: str, query: str) -> None:
    samples, records = known(), {name for name, _ in rules()}
    used: set[str] = set()
    for name, matchers in _NAME.findall(query):
        assert name in samples or name in FOREIGN, f"{where}: {name}"
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        used |= labels
        if name in samples:
            assert labels <= samples[name] | {"instance", "job"}, f"{where}: {name}"
    assert set(_RECORD.findall(query)) <= records, where
    for group in _GROUPED.findall(query):
        used |= {label.strip() for label in group.split(",")}
    assert used <= ALLOWED_LABELS, where


def test_the_dashboard_shows_every_metric_there_is() -> None:
    asked = " ".join(query for _, query in panels())
    shown = {name for name, _ in _NAME.findall(asked)}
    unseen = {name for name in known() if not name.endswith(("_sum", "_count"))} - shown
    assert unseen == set()


def test_the_metrics_beside_the_tables_are_in_the_source() -> None:
    source = "".join(file.read_text() for file in Path(relay.__file__).parent.rglob("*.py"))
    for name in OTHERS:
        assert name.removesuffix("_total").removesuffix("_info") in source, name
    assert "payment_refused" in EVENTS


def test_what_the_tables_say_is_what_is_exposed(tmp_path: Path) -> None:
    collector = WorkerCollector(tmp_path, dict, lambda: 0.0)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    families: list[Metric] = list(collector.collect())
    exposed = {family.name for family in families}
    tables = {family.name for family in (*COUNTERS.values(), *HISTOGRAMS.values())}
    assert tables | {family.name for family, _ in GAUGES.values()} <= exposed


def test_panels_do_not_overlap_and_have_titles() -> None:
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    for panel in BOARD["panels"]:
        assert panel["title"]
        cells = set(_cells(panel["gridPos"]))
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells


def _cells(place: dict[str, Any]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


def test_every_alert_says_whom_it_wakes_and_what_to_do() -> None:
    text = (PROMETHEUS / "alerts.yml").read_text("utf-8")
    alerts = text.split("- alert: ")[1:]
    for alert in alerts:
        assert re.search(r"severity: (page|ticket)", alert), alert.split()[0]
        assert "summary:" in alert
        assert "mend:" in alert


@needs("promtool")
@pytest.mark.parametrize(
    "words",
    [
        ["check", "rules", "recording.yml", "alerts.yml"],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_finds_nothing(words: list[str]) -> None:
    done = subprocess.run(
        ["promtool", *words], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
