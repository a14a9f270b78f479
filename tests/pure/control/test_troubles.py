"""Goal: each trouble is told once when it begins and once when it is over, whatever is restarted.

Method: figures as workers publish them, a list in the place of the webhook, a set clock.
"""

import datetime
from pathlib import Path

import msgspec
import pytest

from relay.control.api import metrics
from relay.control.watch.host import HostWatch, Sources
from relay.control.watch.troubles import KINDS, Trouble, Troubles
from relay.control.watch.webhook import Notice
from relay.store import metrics as worker_metrics
from relay.store.maintenance import Outcome, WorkDone
from relay.store.metrics import Figures, WorkerMetrics

START = datetime.datetime(2026, 11, 30, 12, tzinfo=datetime.UTC)
WELL = {"draining": 0.0, "limiter_lost": 0.0, "snapshot_age_seconds": 0.5, "journal_healthy": 1.0}


class Host:
    """A host of two workers, and all that its watch is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_s = 1_000.0
        self.sent: list[tuple[str, str]] = []
        self.notices: list[Trouble] = []
        self.failures = 0
        self.reload: str | None = ""
        self.models: set[str] = set()
        self.works: list[WorkDone] = []
        self.unread: dict[str, int] = {}
        (folder / "metrics").mkdir(exist_ok=True)
        for slot in (0, 1):
            self.publish(slot)
        self.start()

    def start(self) -> None:
        """Start a control process."""
        now = START
        self.troubles = Troubles(
            self.folder / "troubles.json", "a", self.send, lambda: self.now_s, lambda: now
        )
        sources = Sources(
            lambda: self.failures, lambda: self.reload, lambda: self.models, lambda: self.works
        )
        figures = Figures(self.folder / "metrics", 0)
        self.watch = HostWatch(figures, "a", sources, self.troubles, lambda: self.now_s)

    def send(self, notice: Notice) -> None:
        assert isinstance(notice, Trouble)
        self.notices.append(notice)
        self.sent.append((notice.event, notice.subject))

    def publish(self, slot: int, *, identity: float = 0, **gauges: float) -> None:
        identity = int(identity) or slot + 1
        told = {**WELL, "time_seconds": self.now_s, **gauges}
        figures = WorkerMetrics(identity=identity, gauges=told, unread=self.unread)
        content = msgspec.msgpack.encode(figures)
        worker_metrics.publish(self.folder / "metrics", f"worker-{slot}-{identity}", content)

    def pass_time(self, seconds: int, **gauges: float) -> list[tuple[str, str]]:
        """Let time pass, workers well but for `gauges`; return what was told meanwhile."""
        self.sent.clear()
        for _ in range(0, seconds, 2):
            self.now_s += 2
            for slot in (0, 1):
                self.publish(slot, **gauges)
            self.watch.look()
        return self.sent

    def metric(self, event: str) -> str:
        shown = metrics.render(self.troubles).decode()
        (line,) = [line for line in shown.splitlines() if f'"{event}"' in line]
        return line.rpartition(" ")[2]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_host_that_is_well_says_nothing(host: Host) -> None:
    assert host.pass_time(60) == []
    assert all(host.metric(event) == "0.0" for event in KINDS)


@pytest.mark.parametrize(
    ("event", "gauges"),
    [
        ("redis_lost", {"limiter_lost": 1.0}),
        ("postgres_lost", {"snapshot_age_seconds": 11.0}),
    ],
)
def test_what_workers_lost_is_told_once_and_its_end(
    host: Host, event: str, gauges: dict[str, float]
) -> None:
    assert host.pass_time(60, **gauges) == [(event, "")]
    assert host.metric(event) == "1.0"
    assert host.pass_time(60) == [(f"{event}_over", "")]
    assert host.metric(event) == "0.0"
    assert host.pass_time(60, **gauges) == [(event, "")]


def test_batches_that_cannot_be_read_are_told_by_channel_after_a_minute(host: Host) -> None:
    host.unread = {"east": 2}
    assert host.pass_time(50) == []
    assert host.pass_time(30) == [("results_unread", "east")]
    assert "4 ended" in host.notices[-1].reason  # two workers, two each
    host.unread = {}
    assert host.pass_time(30) == [("results_unread_over", "east")]


def test_what_comes_and_goes_is_one_alarm(host: Host) -> None:
    host.pass_time(10, limiter_lost=1.0)
    host.pass_time(4)
    assert host.pass_time(10, limiter_lost=1.0) == []
    assert host.pass_time(10) == [("redis_lost_over", "")]


def test_shipping_reload_models_and_the_night(host: Host) -> None:
    host.failures, host.reload, host.models = 1, "refused: no such line", {"gpt"}
    work = WorkDone(
        work="vacuum", host="", done_by="a", started_at=START, ended_at=START,
        outcome=Outcome.FAILED, detail="it broke",
    )  # fmt: skip
    host.works = [work, msgspec.structs.replace(work, work="reindex", done_by="another host")]
    assert sorted(host.pass_time(8)) == [
        ("maintenance_failed", "vacuum"),
        ("model_unavailable", "gpt"),
        ("reload_failed", ""),
    ]
    assert host.pass_time(8) == [("shipping_waits", "")]
    assert {one.reason for one in host.notices} >= {"refused: no such line", "it broke"}
    host.failures, host.reload, host.models, host.works = 0, "", set(), []
    assert sorted(host.pass_time(60)) == [
        ("maintenance_failed_over", "vacuum"),
        ("model_unavailable_over", "gpt"),
        ("reload_failed_over", ""),
        ("shipping_waits_over", ""),
    ]


def test_a_breaker_that_opens_for_a_moment_is_no_alarm(host: Host) -> None:
    host.models = {"gpt"}
    host.pass_time(2)
    host.models = set()
    assert host.pass_time(60) == []


def kill(host: Host, slot: int) -> None:
    worker_metrics.retire(host.folder / "metrics", f"worker-{slot}", slot + 1)


def test_a_worker_that_dies_is_told_and_that_another_serves(host: Host) -> None:
    host.pass_time(4)
    kill(host, 0)
    host.sent.clear()
    for second in range(10):
        host.now_s += 2
        host.publish(0, identity=7)
        host.publish(1)
        host.watch.look()
        assert host.sent == [("worker_died", "worker-0")] or second >= 3
    assert host.sent == [("worker_died", "worker-0"), ("worker_died_over", "worker-0")]


def test_a_worker_that_stays_away_is_told_of(host: Host) -> None:
    host.pass_time(4)
    kill(host, 0)
    host.sent.clear()
    for _ in range(10):
        host.now_s += 2
        host.publish(1)
        host.watch.look()
    assert host.sent == [("worker_died", "worker-0"), ("worker_missing", "worker-0")]
    host.sent.clear()
    for _ in range(10):
        host.now_s += 2
        host.publish(0, identity=7)
        host.publish(1)
        host.watch.look()
    assert sorted(host.sent) == [
        ("worker_died_over", "worker-0"),
        ("worker_missing_over", "worker-0"),
    ]


def test_a_worker_that_was_told_to_go_has_not_died(host: Host) -> None:
    host.pass_time(4)
    host.sent.clear()
    host.publish(0, draining=1.0)
    host.publish(1, draining=1.0)
    host.watch.look()
    for slot in (0, 1):
        kill(host, slot)
    for _ in range(10):
        host.now_s += 2
        host.watch.look()
    assert host.sent == []


def test_a_restart_tells_nothing_twice_and_forgets_no_end(host: Host) -> None:
    host.pass_time(10, limiter_lost=1.0)
    host.start()
    assert host.pass_time(10, limiter_lost=1.0) == []
    host.start()
    assert host.pass_time(10) == [("redis_lost_over", "")]
    host.start()
    assert host.pass_time(10) == []


def test_while_two_control_processes_look_one_tells(host: Host) -> None:
    old = host.watch
    host.start()
    for gauge in (1.0, 0.0):
        host.sent.clear()
        for _ in range(10):
            host.now_s += 2
            for slot in (0, 1):
                host.publish(slot, limiter_lost=gauge)
            host.watch.look()
            old.look()
        assert host.sent == [("redis_lost" if gauge else "redis_lost_over", "")]


def test_where_nothing_can_be_written_begin_and_end_are_told(host: Host) -> None:
    (host.folder / "troubles.json").mkdir()
    assert host.pass_time(10, limiter_lost=1.0) == [("redis_lost", "")]
    assert host.pass_time(10) == [("redis_lost_over", "")]


def test_a_reload_that_runs_changes_nothing(host: Host) -> None:
    host.reload = "refused: x"
    assert host.pass_time(4) == [("reload_failed", "")]
    host.reload = None
    assert host.pass_time(20) == []
    host.start()
    assert host.pass_time(20) == []
    host.reload = ""
    assert host.pass_time(20) == [("reload_failed_over", "")]


def test_a_file_of_another_kind_is_no_obstacle(host: Host) -> None:
    (host.folder / "troubles.json").write_text("{")
    host.start()
    assert host.pass_time(10, limiter_lost=1.0) == [("redis_lost", "")]
