"""Totals of a slot only ever grow, even while a worker is folded: real files, no worker."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.flow.counters import Counters
from relay.store import metrics as worker_metrics
from relay.store.metrics import WorkerMetrics


def requests_total(folder: Path) -> int:
    return sum(
        count
        for found in worker_metrics.read_all(folder).values()
        for one in found
        for count in one.counters.get("requests", {}).values()
    )


def counted(requests: int, identity: int) -> Counters:
    counters = Counters()
    counters.identity = identity
    counters.requests["line", "chat/completions", "2xx"] += requests
    counters.ttft.observe(1_500)
    return counters


def test_what_is_published_is_read_back(tmp_path: Path) -> None:
    counters = counted(3, 7)
    counters.tokens["input"] += 10
    counters.upstream_errors["a", "upstream_timeout"] += 1
    counters.inflight = 2
    worker_metrics.publish(tmp_path, "worker-0-11", counters.snapshot({"draining": 0.0}))
    (found,) = worker_metrics.read_all(tmp_path)["worker-0"]
    assert found.identity == 7
    assert found.counters["requests"] == {("line", "chat/completions", "2xx"): 3}
    assert found.counters["tokens"] == {("input",): 10}
    assert found.counters["upstream_errors"] == {("a", "upstream_timeout"): 1}
    assert found.gauges["inflight"] == 2
    assert found.gauges["draining"] == 0
    assert sum(found.histograms["ttft"].counts) == 1
    assert found.histograms["ttft"].sum_us == 1_500


def test_a_worker_s_file_is_written_in_place_and_says_the_newest(tmp_path: Path) -> None:
    publisher = worker_metrics.Publisher(tmp_path, "worker-0-11")
    try:
        publisher.publish(counted(1, 7).snapshot())
        before = (tmp_path / "worker-0-11").stat()
        for count in range(2, 9):
            publisher.publish(counted(count, 7).snapshot())
            assert requests_total(tmp_path) == count
        after = (tmp_path / "worker-0-11").stat()
        assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    finally:
        publisher.close()
    worker_metrics.retire(tmp_path, "worker-0", 11)
    assert [path.name for path in tmp_path.iterdir()] == ["worker-0-retired"]
    assert requests_total(tmp_path) == 8


@pytest.mark.parametrize("kept", [0, 1, 9, 17, 21, 30])
def test_of_a_half_that_is_being_written_nothing_is_read(tmp_path: Path, kept: int) -> None:
    publisher = worker_metrics.Publisher(tmp_path, "worker-0-11")
    path = tmp_path / "worker-0-11"
    publisher.publish(counted(1, 7).snapshot())
    publisher.publish(counted(2, 7).snapshot())
    before = path.read_bytes()
    publisher.publish(counted(3, 7).snapshot())
    publisher.close()
    after = path.read_bytes()
    half = len(after) // 2
    path.write_bytes(before[:half] + after[half : half + kept] + before[half + kept :])
    assert requests_total(tmp_path) == 2


def test_a_file_grows_with_what_a_worker_counts(tmp_path: Path) -> None:
    publisher = worker_metrics.Publisher(tmp_path, "worker-0-11")
    counters = counted(0, 7)
    try:
        for count in range(1, 2_000):
            counters.requests[f"line-{count}", "chat/completions", "2xx"] += 1
            if count % 100 == 99:
                publisher.publish(counters.snapshot())
                assert requests_total(tmp_path) == count
    finally:
        publisher.close()


def test_what_a_worker_of_the_release_before_has_written_whole_is_read(tmp_path: Path) -> None:
    (tmp_path / "worker-0-11").write_bytes(counted(5, 7).snapshot())
    (tmp_path / "worker-0-12").write_bytes(worker_metrics.HALVES)
    assert requests_total(tmp_path) == 5


@settings(max_examples=50)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=30))
def test_a_slot_s_totals_survive_its_workers(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    expected = 0
    for at, count in enumerate(counts):
        # One pid for all of them: who was folded is known by identity, not by pid.
        worker_metrics.publish(folder, "worker-0-11", counted(count, at + 1).snapshot())
        expected += count
        assert requests_total(folder) == expected
        worker_metrics.retire(folder, "worker-0", 11)
        assert requests_total(folder) == expected
    (retired,) = worker_metrics.read_all(folder)["worker-0"]
    assert sum(retired.histograms["ttft"].counts) == len(counts)
    assert retired.gauges == {}


def test_a_reader_in_the_middle_of_a_fold_counts_nobody_twice(tmp_path: Path) -> None:
    worker_metrics.publish(tmp_path, "worker-0-11", counted(5, 1).snapshot())
    last = (tmp_path / "worker-0-11").read_bytes()
    worker_metrics.retire(tmp_path, "worker-0", 11)
    (tmp_path / "worker-0-11").write_bytes(last)  # as if not removed yet
    assert requests_total(tmp_path) == 5


def test_two_generations_of_a_slot_and_other_slots_stay_apart(tmp_path: Path) -> None:
    for slot, pid, count in (("worker-0", 11, 1), ("worker-0", 12, 2), ("worker-10", 13, 4)):
        worker_metrics.publish(tmp_path, f"{slot}-{pid}", counted(count, pid).snapshot())
    worker_metrics.retire(tmp_path, "worker-0", 11)
    found = worker_metrics.read_all(tmp_path)
    assert {slot: len(ones) for slot, ones in found.items()} == {"worker-0": 2, "worker-10": 1}
    assert requests_total(tmp_path) == 7


def test_what_does_not_decode_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "worker-0-11").write_bytes(b"\xc1 not msgpack")
    (tmp_path / ".worker-0-12.partial").write_bytes(b"half")
    assert worker_metrics.read_all(tmp_path) == {}
    worker_metrics.retire(tmp_path, "worker-0", 11)
    worker_metrics.retire(tmp_path, "worker-0", 99)
    assert worker_metrics.read_all(tmp_path) == {}


def test_a_start_begins_at_nought(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "metrics"
    worker_metrics.clear(folder)
    worker_metrics.publish(folder, "worker-0-11", Counters().snapshot())
    worker_metrics.clear(folder)
    assert list(folder.iterdir()) == []


def test_other_bounds_start_a_histogram_afresh(tmp_path: Path) -> None:
    old = WorkerMetrics(
        identity=1, histograms={"ttft": worker_metrics.HistogramCounts([10], [3, 4], 50)}
    )
    worker_metrics.publish(tmp_path, "worker-0-11", msgspec.msgpack.encode(old))
    worker_metrics.retire(tmp_path, "worker-0", 11)
    worker_metrics.publish(tmp_path, "worker-0-12", counted(1, 2).snapshot())
    worker_metrics.retire(tmp_path, "worker-0", 12)
    (retired,) = worker_metrics.read_all(tmp_path)["worker-0"]
    assert sum(retired.histograms["ttft"].counts) == 1
