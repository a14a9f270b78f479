"""/metrics is what Prometheus expects, by its own parser: workers' files in, families out."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from relay.control.api.metrics import COUNTERS, GAUGES, HISTOGRAMS, WorkerCollector, render
from relay.flow.counters import OVERHEAD_BOUNDS_US, TTFT_BOUNDS_US, Counters
from relay.store import metrics as worker_metrics

NOW_S = 1_800_000_000.0


def scrape(folder: Path, **own: float) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = render(WorkerCollector(folder, lambda: own, lambda: NOW_S)).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def worker(requests: int, time_s: float = NOW_S, **gauges: float) -> bytes:
    counters = Counters()
    counters.requests["acme", "chat/completions", "2xx"] += requests
    counters.tokens["output"] += 7
    counters.client_gone += 1
    counters.inflight = 2
    counters.ttft.observe(1_000)
    counters.ttft.observe(900_000_000)
    return counters.snapshot({"time_seconds": time_s, **gauges})


def test_counters_are_summed_and_gauges_carry_their_worker(tmp_path: Path) -> None:
    worker_metrics.publish(tmp_path, "worker-0-11", worker(3, journal_healthy=1.0))
    worker_metrics.publish(tmp_path, "worker-0-12", worker(4, journal_healthy=0.0))
    worker_metrics.publish(tmp_path, "worker-1-13", worker(5, journal_healthy=1.0))
    worker_metrics.retire(tmp_path, "worker-1", 13)
    found = scrape(tmp_path, relay_log_lag_bytes=9.0)
    labels = (("code", "2xx"), ("endpoint", "chat/completions"), ("line", "acme"))
    assert found["relay_requests_total", labels] == 12
    assert found["relay_tokens_total", (("type", "output"),)] == 21
    assert found["relay_client_gone_total", ()] == 3
    assert found["relay_inflight", (("worker", "0"),)] == 4
    assert ("relay_inflight", (("worker", "1"),)) not in found
    assert found["relay_journal_healthy", (("worker", "0"),)] == 0
    assert found["relay_log_lag_bytes", ()] == 9


def test_histograms_are_cumulative_and_in_seconds(tmp_path: Path) -> None:
    worker_metrics.publish(tmp_path, "worker-0-11", worker(1))
    worker_metrics.publish(tmp_path, "worker-1-12", worker(1))
    found = scrape(tmp_path)
    assert found["relay_ttfb_seconds_bucket", (("le", "0.001"),)] == 2
    assert found["relay_ttfb_seconds_bucket", (("le", "60"),)] == 2
    assert found["relay_ttfb_seconds_bucket", (("le", "+Inf"),)] == 4
    assert found["relay_ttfb_seconds_count", ()] == 4
    assert found["relay_ttfb_seconds_sum", ()] == 1800.002


def test_a_silent_worker_s_gauges_are_not_shown_but_its_counts_are(tmp_path: Path) -> None:
    worker_metrics.publish(tmp_path, "worker-0-11", worker(3, NOW_S - 60))
    found = scrape(tmp_path)
    assert found["relay_attempts_total", ()] == 0
    assert found["relay_client_gone_total", ()] == 1
    assert ("relay_inflight", (("worker", "0"),)) not in found


def test_a_relay_without_workers_can_be_scraped(tmp_path: Path) -> None:
    assert [name for name, _ in scrape(tmp_path)] == ["relay_build_info"]


def test_every_count_a_worker_publishes_is_shown() -> None:
    shown = worker_metrics._DECODER.decode(Counters().snapshot())
    assert shown.counters.keys() == COUNTERS.keys()
    assert shown.histograms.keys() == HISTOGRAMS.keys()
    assert shown.gauges.keys() <= GAUGES.keys()


def test_no_label_can_tell_one_customer_s_calls_from_another_s() -> None:
    labels = {label for family in COUNTERS.values() for label in family.labels}
    own = {"line", "endpoint", "code", "type", "channel", "reason", "scope", "exhausted"}
    assert labels == own | {"way", "rule", "model"}


def test_bounds_ascend() -> None:
    for bounds in (TTFT_BOUNDS_US, OVERHEAD_BOUNDS_US):
        assert list(bounds) == sorted(set(bounds))
