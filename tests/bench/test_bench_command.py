"""Goal: the command does what it says, or says why not. Method: the real command on a mock."""

import asyncio
import json
import os
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.command import _SUBCOMMANDS, bench
from benchmarks.micro.pure import pure_works, time_journal, time_work
from benchmarks.peers.table import PEERS
from benchmarks.session import choose_scenarios, choose_targets
from benchmarks.targets.place import Place
from benchmarks.targets.relay_server import make_catalog
from benchmarks.targets.target import absence
from relay.cli.host import bench as thin
from relay.mock.options import MockOptions
from relay.mock.server import start
from relay.store.catalog.declaration import parse_catalog


async def test_any_url_is_measured_and_the_key_stays_out_of_the_report(tmp_path: Path) -> None:
    mock = await start(MockOptions(chunks=5, interval_ms=5, api_key="sk-secret"))
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", "bench", "--url", mock.url, "--key", "env:BENCH_TEST"),
            *("--model", "mock-model", "--rate", "40", "--duration", "1", "--json"),
            *("--out", str(tmp_path)),
            env={**os.environ, "BENCH_TEST": "sk-secret"},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    finally:
        await mock.close()
    assert process.returncode == 0
    (entry,) = json.loads(output)["scenarios"]
    assert entry["errors"] == 0
    assert entry["measured"] > 10
    assert 4.0 < entry["ttft_ms"]["p50"] < 100
    for file in ("report.json", "report.html"):
        assert "sk-secret" not in (tmp_path / file).read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--url", "http://192.0.2.1/v1"], "another machine"),
        (["--url", "ftp://127.0.0.1/v1"], "base URL"),
        (["--url", "http://127.0.0.1:1/v1", "--key", "sk-plain"], "env:NAME"),
        (["--scenarios", "nonsense"], "no scenario"),
        (["--targets", "nonsense"], "no target"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(bench, arguments)
    assert result.exit_code == 2
    assert told in result.output


def test_without_the_repository_the_command_says_where_the_suite_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thin, "CHECKOUT", tmp_path)
    result = CliRunner().invoke(thin.bench, [])
    assert result.exit_code == 1
    assert "in the project's repository" in result.output


def test_the_standard_suite_asks_every_installed_peer_what_a_call_costs() -> None:
    given = {"scenarios": [], "targets": [], "suite": "standard", "all_peers": False}
    names = choose_scenarios(given)
    assert {"json_busy", "sse_paced", "open_streams", "mixed_30m", "failover"} <= set(names)
    asked = choose_targets(given, "sse_paced")
    assert asked[0] == "relay"
    assert "tensorzero" in asked  # for the report to say why it is absent
    assert choose_targets(given, "mixed_30m") == []
    with pytest.raises(click.UsageError):
        choose_scenarios({**given, "scenarios": ["x"]})


def test_a_peer_that_is_not_here_is_absent_with_the_way_to_get_it() -> None:
    assert "unknown target" in absence("nonsense")
    for peer in PEERS.values():
        reason = absence(peer.name)
        assert not reason or "install" in reason or "not to be had" in reason


def test_the_catalog_of_the_benchmark_is_one_the_relay_takes(tmp_path: Path) -> None:
    place = Place(folder=tmp_path, cores=frozenset(), upstreams=(1, 2), line_tpm=5, splice=True)
    text = make_catalog(place)
    assert text.count("[[channel]]") == 2
    declared = parse_catalog(text.encode(), dedicated_tpm=30_000_000, plain_upstreams=True)
    (line,) = declared.line
    assert (line.tpm, line.splice, line.kind) == (5, True, "dedicated")


def test_every_scenario_and_peer_is_listed() -> None:
    listed = CliRunner().invoke(bench, ["list"]).output
    assert "mixed_30m" in listed and "limit_accuracy" in listed
    assert all(name in CliRunner().invoke(bench, ["peers"]).output for name in PEERS)


def test_what_all_limits_add_is_measured_by_the_one_command() -> None:
    result = CliRunner().invoke(bench, ["limits", "--rounds", "1", "--calls", "50", "--permits"])
    found = json.loads(result.output)
    assert (found["buckets"], found["concurrencies"]) == (6, 3)
    assert found["added_cpu_us_per_call"] > 0


@pytest.mark.parametrize("name", sorted(_SUBCOMMANDS))
def test_every_subcommand_says_what_it_is_for(name: str) -> None:
    result = CliRunner().invoke(bench, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: bench {name}")


async def test_the_pure_parts_are_timed(tmp_path: Path) -> None:
    works = pure_works()
    assert {"sse_scan", "usage_find", "limiter_admit", "key_digest", "json_peek_1k"} <= works.keys()
    assert all(time_work(work, rounds=1, round_s=0.001) > 0 for work in works.values())
    assert await time_journal(tmp_path, calls=10, rounds=1) > 0
