"""Goal: a journal that fails is told of once, and once more when it is over.

Method: figures as workers publish them, a list in the place of the webhook, the log.
"""

from pathlib import Path

import msgspec
import pytest

from relay.control.watch.journals import JournalWatch
from relay.control.watch.webhook import Notice
from relay.store import metrics as worker_metrics
from relay.store.metrics import Figures, WorkerMetrics

NOW_S = 1_000.0


def test_each_failure_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Notice] = []
    watch = JournalWatch(Figures(tmp_path, 0), sent.append, lambda: NOW_S)

    def publish(slot: int, healthy: float, at_s: float = NOW_S) -> None:
        gauges = {"time_seconds": at_s, "journal_healthy": healthy}
        content = msgspec.msgpack.encode(WorkerMetrics(identity=slot, gauges=gauges))
        worker_metrics.publish(tmp_path, f"worker-{slot}-{slot + 10}", content)

    publish(0, 1.0)
    publish(1, 0.0, at_s=NOW_S - 3600)  # it died so, and says nothing of today
    watch.look()
    assert sent == []
    publish(0, 0.0)
    watch.look()
    watch.look()
    assert [msgspec.to_builtins(notice)["worker"] for notice in sent] == ["worker-0"]
    assert sent[0].event == "journal_unwritable"
    publish(0, 1.0)
    watch.look()
    publish(0, 0.0)
    watch.look()
    assert [notice.event for notice in sent] == [
        "journal_unwritable",
        "journal_unwritable_over",
        "journal_unwritable",
    ]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING", "ERROR"]
    JournalWatch(Figures(tmp_path, 0), None, lambda: NOW_S).look()
