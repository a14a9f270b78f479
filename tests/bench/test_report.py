"""Goal: what a report says follows from what was counted. Method: runs made up by hand."""

import json
import re
from typing import Any

import pytest

from benchmarks.load.histogram import Histogram
from benchmarks.load.job import Merged
from benchmarks.report import cells
from benchmarks.report.capacity import Costs, Profile, demand, make_text, read_costs
from benchmarks.report.chart import Bar, draw_bars, draw_lines
from benchmarks.report.figures import Usage, add_direct, derive, join_repeats
from benchmarks.report.goals import judge
from benchmarks.report.page import make_page
from benchmarks.soak.samples import Sample, conclude, slope_per_hour
from benchmarks.targets.redis_counters import RedisCounters, parse_counters
from benchmarks.targets.relay_server import RELAY_DOES

COUNTERS = RedisCounters(reads=50, commands=120, scripts=40)


def histogram(*values_ms: float) -> Histogram:
    found = Histogram()
    for value in values_ms:
        found.record(round(value * 1000))
    return found


def seen(**changed: Any) -> Merged:
    plain: dict[str, Any] = {
        "asked": 1500,
        "started": 1000,
        "answered": 1000,
        "done": 1000,
        "events": 100_000,
        "received_bytes": 1,
        "prompt_tokens": 3_000_000,
        "completion_tokens": 300_000,
        "open_streams": 10,
        "cpu_shares": [0.3, 0.4],
        "errors": {},
        "latency": histogram(*[5.0] * 1000),
        "ttft": histogram(*[2.0] * 1000),
        "gap": histogram(10.0),
        "lag": histogram(0.1),
        "loop_lag": histogram(0.1),
    }
    return Merged(**(plain | changed))


def usage(**changed: Any) -> Usage:
    plain: dict[str, Any] = {"window_s": 10.0, "tree_s": 2.5, "carriers_s": 2.0, "redis": COUNTERS}
    return Usage(**(plain | changed))


def figures(**changed: Any) -> dict[str, Any]:
    return derive(seen(**changed), usage(), offered_rps=100.0, streams=True)


def test_figures_are_what_was_used_over_what_was_done() -> None:
    found = figures()
    assert found["cpu_us_per_request"] == 2500
    assert found["cpu_us_per_event"] == 25
    assert found["worker_cpu_us_per_event"] == 20
    assert found["rps"] == 100
    assert found["tokens_per_min"] == 3_300_000 * 6
    assert found["redis_ops_per_request"] == 0.05
    assert found["valid"] is True
    assert found["saturated"] is False


@pytest.mark.parametrize(
    ("of_seen", "of_usage", "word"),
    [
        ({"lag": histogram(1.2)}, {}, "late"),
        ({"loop_lag": histogram(1.2)}, {}, "late"),
        ({"cpu_shares": [0.2, 0.81]}, {}, "generator used"),
        ({}, {"upstream_share": 0.81}, "upstream used"),
        ({}, {"load_cores_share": 0.96}, "busy"),
        ({"errors": {"connections_max": 1}}, {}, "own bound"),
        ({"done": 0, "open_streams": 0}, {}, "no call"),
    ],
)
def test_a_run_that_the_load_limited_is_invalid(
    of_seen: dict[str, Any], of_usage: dict[str, Any], word: str
) -> None:
    found = derive(seen(**of_seen), usage(**of_usage), offered_rps=100.0, streams=True)
    assert found["valid"] is False
    assert word in found["invalid_reasons"][0]


def test_calls_that_a_busy_target_left_unanswered_are_its_saturation() -> None:
    full = seen(errors={"connections_max": 500}, answered=500)
    found = derive(full, usage(target_cores_share=1.0), offered_rps=100.0, streams=False)
    assert found["valid"] is True
    assert found["saturated"] is True


def test_added_latency_is_over_direct_and_doubts_of_direct_are_doubts_of_it() -> None:
    found, direct = figures(), figures(ttft=histogram(0.5))
    add_direct(found, direct, streams=True)
    assert found["added_latency_ms"]["p99"] == pytest.approx(1.5, rel=0.02)
    late = figures(lag=histogram(5.0))
    add_direct(found, late, streams=True)
    assert found["valid"] is False


def test_an_added_latency_below_zero_is_no_figure_but_a_disturbed_run() -> None:
    found, direct = figures(), figures(ttft=histogram(*[1.0] * 950, *[9.0] * 50))
    add_direct(found, direct, streams=True)
    joined = join_repeats([found])
    assert joined["added_latency_ms"]["p50"] == pytest.approx(1.0, rel=0.02)
    assert joined["added_latency_ms"]["p99"] is None
    assert "p99" in joined["added_latency_disturbed"]
    assert cells.added(joined, "p50") == "1.00"
    assert cells.added(joined, "p99") == "disturbed"
    told = report()
    told["scenarios"][0] |= joined
    page = make_page(told).partition("<script")[0]
    assert "<td>disturbed</td>" in page
    assert not re.search(r"<td>-\d", page)


def test_what_is_not_known_is_blank_and_never_nought() -> None:
    far = Usage(window_s=10.0)
    found = derive(
        seen(latency=Histogram(), ttft=Histogram()), far, offered_rps=100.0, streams=True
    )
    for field in ("cpu_us_per_request", "cpu_us_per_event", "target_cpu_share", "rss_mib"):
        assert found[field] is None
    assert found["ttft_ms"]["p99"] is None
    told = report()
    told["scenarios"] = [entry("url") | found]
    page = make_page(told).partition("<script")[0]
    assert "RSS MiB" not in page
    assert "ttft p99" not in page
    assert cells.number(None, 1) == ""
    assert cells.with_workers({"cpu_us_per_event": 4.0, "worker_cpu_us_per_event": None}, "x") == ""


@pytest.mark.parametrize(
    ("tree_s", "valid", "load_limited"), [(9.5, True, False), (7.0, True, True), (4.9, False, True)]
)
def test_a_closed_loop_tells_the_cost_of_a_busy_target_only(
    tree_s: float, valid: bool, load_limited: bool
) -> None:
    used = usage(tree_s=tree_s, load_cores_share=1.0, upstream_share=0.9)
    found = derive(seen(cpu_shares=[0.9]), used, offered_rps=0, streams=False)
    assert found["valid"] is valid
    assert found["load_limited"] is load_limited


@pytest.mark.parametrize(("busy", "valid"), [(0.99, True), (0.9, False)])
def test_where_all_share_one_core_only_that_can_be_idle(busy: float, valid: bool) -> None:
    used = usage(tree_s=2.0, one_core=True, target_cores_share=busy)
    found = derive(seen(), used, offered_rps=0, streams=False)
    assert found["valid"] is valid
    assert found["load_limited"] is True


def test_repeats_give_medians_their_range_and_the_sum_of_errors() -> None:
    runs = [figures(events=events, errors={"reset": 1}) for events in (50_000, 100_000, 200_000)]
    joined = join_repeats(runs)
    assert joined["cpu_us_per_event"] == 25
    assert joined["spread"]["cpu_us_per_event"] == [12.5, 50]
    assert joined["errors"] == 3
    assert joined["errors_by_kind"] == {"reset": 3}
    runs[1]["valid"] = False
    assert join_repeats(runs)["valid"] is False


def entry(name: str, target: str = "relay", **more: Any) -> dict[str, Any]:
    about = {"name": name, "target": target, "about": "<b>", "does": RELAY_DOES}
    return {**about, **figures(), **more}


def report() -> dict[str, Any]:
    names = ("json_short", "json_busy", "json_64k", "sse_paced", "mixed_30m")
    held = entry("open_streams", rss_bytes_per_stream=16_384.0)
    point = {**figures(), "offered_rps": 100.0}
    return {
        "commit": "abc",
        "command": "relay bench </script>",
        "begun": "2026",
        "machine": {"cores": 2, "libraries": {"uvloop": "1"}},
        "scenarios": [
            *(entry(name) for name in names),
            held,
            entry("json_sweep", "nginx", points=[point, point]),
            {"name": "sse_paced", "target": "envoy", "absent": "no <wheel>", "valid": False},
        ],
    }


def test_a_page_holds_its_report_and_escapes_what_it_shows() -> None:
    page = make_page(report())
    embedded = page.partition('id="report">')[2].partition("</script>")[0]
    assert json.loads(embedded) == report()
    assert "no &lt;wheel&gt;" in page
    assert "relay bench </script>" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_report_with_what_the_load_limited_says_so_first() -> None:
    told = report()
    told["scenarios"][0] |= {"valid": False, "invalid_reasons": ["too late"]}
    assert "INVALID" in make_page(told).partition("<h2")[0]


def test_goals_are_judged_by_valid_entries_only() -> None:
    told = report()
    told["scenarios"].append(entry("sse_paced", "nginx", cpu_us_per_event=24.0))
    found = {goal.about: goal for goal in judge(told)}
    paced = found["sse_paced: CPU of an event over nginx's"]
    assert paced.reached is True
    assert "reached" in str(paced)
    assert found["open_streams: memory of a stream, KiB"].reached is True
    assert found["failover: failed calls"].reached is None
    told["scenarios"][-1]["valid"] = False
    assert judge(told)[0].reached is None


def test_charts_of_nothing_and_of_equal_values_are_drawn() -> None:
    assert "Nothing" in draw_bars([], "us")
    assert "Nothing" in draw_lines({}, "x", "y")
    assert draw_bars([Bar("a", 0.0, 0.0, 0.0)], "us").endswith("</svg>")
    lines = {"a": [(0.0, 1.0), (5.0, 1.0)], "b": [(5.0, 1.0)], "c": []}
    assert draw_lines(lines, "x", "y", log_y=True).count("<polyline") == 2
    assert draw_lines(lines, "x", "y").count("<polyline") == 2


def test_capacity_is_the_arithmetic_it_shows() -> None:
    costs = Costs(
        call_us=100,
        event_us=20,
        prompt_kib_us=2,
        beside_call_us=30,
        stream_bytes=16_384,
        redis_per_s=7,
    )
    found = demand(costs, Profile(tokens_per_min=30e6))
    assert found.calls_per_s == pytest.approx(142.05, abs=0.01)
    assert found.events_per_s == pytest.approx(80 * found.calls_per_s)
    assert found.worker_cores == pytest.approx(found.calls_per_s * (100 + 25 + 1600) / 1e6)
    assert found.workers == 1
    assert found.open_files == 2 * found.streams
    assert demand(costs, Profile(tokens_per_min=3e9)).workers > 40


def test_capacity_md_is_made_of_a_report_and_refuses_half_of_one() -> None:
    text = make_text(report())
    assert "| a forwarded event, worker | 20.0 us | sse_paced |" in text
    half = report()
    half["scenarios"] = half["scenarios"][:2]
    with pytest.raises(ValueError, match="json_64k"):
        read_costs(half)


def test_redis_counters_are_read_off_info_without_the_question_itself() -> None:
    text = (
        "# Stats\r\ntotal_commands_processed:110\r\ntotal_reads_processed:31\r\n# Commandstats\r\n"
        "cmdstat_evalsha:calls=20,usec=1,usec_per_call=0\r\ncmdstat_get:calls=70,usec=9\r\n"
    )
    after = parse_counters(text)
    assert after == RedisCounters(reads=31, commands=110, scripts=20)
    assert after.since(RedisCounters(10, 50, 5)) == RedisCounters(20, 59, 15)


def test_a_soak_tells_growth_from_noise() -> None:
    assert slope_per_hour([(0.0, 10.0), (3600.0, 12.0), (7200.0, 14.0)]) == pytest.approx(2)
    assert slope_per_hour([(1.0, 2.0)]) == 0
    flat = [Sample(60.0 * n, 100.0 + n % 2, 50, 4) for n in range(100)]
    leak = [Sample(60.0 * n, 100.0 + n, 50, 4) for n in range(100)]
    assert conclude(flat)["rss_grows"] is False
    assert conclude(leak)["rss_grows"] is True
