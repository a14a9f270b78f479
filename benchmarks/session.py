"""One call of `relay bench`: chooses what to run, runs it, writes the report, compares."""

import json
import os
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from benchmarks.load.drive import LoadFailed
from benchmarks.peers.install import find
from benchmarks.peers.table import PEERS
from benchmarks.report.compare import compare, describe_loads, read_baseline
from benchmarks.report.document import KEPT, RESULTS, begin_report, read_report, write_report
from benchmarks.report.terminal import print_report, say
from benchmarks.scenarios.measure import bench_here
from benchmarks.scenarios.special import SPECIAL, STANDARD_SPECIAL, run_special
from benchmarks.scenarios.suite import Options, run_scenario
from benchmarks.scenarios.table import COST, EVERY_PEER, SCENARIOS, STANDARD, STANDARD_TARGETS
from benchmarks.scenarios.url import UrlLoad, run_url

_REPEATS: Final = {"cost": 3, "standard": 2, "full": 3}
_COST_TARGETS: Final = ("relay", "plain_aiohttp", "nginx")


def run_session(given: dict[str, Any]) -> bool:
    """Do what the command line says; return whether a figure regressed."""
    if given["report"] is not None:
        report = _read(given["report"])
        if given["out"] is not None:
            write_report(report, given["out"])
    else:
        report = _measure(given)
    if given["as_json"]:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        print_report(report)
    return _regressed(report, given) if given["baseline"] is not None else False


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_report(path)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def choose_scenarios(given: dict[str, Any]) -> list[str]:
    """Return the names of the scenarios to run.

    Raises:
        click.UsageError: There is none of that name.
    """
    known = (*SCENARIOS, *SPECIAL)
    if given["scenarios"]:
        wrong = [name for name in given["scenarios"] if name not in known]
        if wrong:
            raise click.UsageError(f"no scenario {wrong[0]!r}; there are {', '.join(known)}")
        return list(given["scenarios"])
    chosen = {"cost": COST, "standard": (*STANDARD, *STANDARD_SPECIAL), "full": known}
    return list(chosen[given["suite"]])


def choose_targets(given: dict[str, Any], name: str) -> list[str]:
    """Return the names of the targets of a scenario; none = those that it is for.

    Raises:
        click.UsageError: There is none of that name.
    """
    if given["targets"]:
        wrong = [one for one in given["targets"] if one != "relay" and one not in PEERS]
        if wrong:
            raise click.UsageError(f"no target {wrong[0]!r}: relay, {', '.join(PEERS)}")
        return list(given["targets"])
    if given["all_peers"]:
        return ["relay", *PEERS]
    if given["suite"] == "cost":
        return list(_COST_TARGETS)
    if name in EVERY_PEER:
        more = [peer for peer in PEERS.values() if peer.name not in STANDARD_TARGETS]
        told = [peer.name for peer in more if peer.not_to_be_had or find(peer)]
        return [*STANDARD_TARGETS, *told]
    return []


def _measure(given: dict[str, Any]) -> dict[str, Any]:
    report = begin_report("url" if given["url"] else given["suite"])
    if given["url"]:
        entries = run_url(_url_load(given), say)
        report["scenarios"] += entries
    else:
        if len(os.sched_getaffinity(0)) == 1:
            say("one core only: target and load share it; figures are for trying out")
        options = Options(
            bench=bench_here(given["generators"]),
            repeats=given["repeats"] or _REPEATS[given["suite"]],
        )
        for name in choose_scenarios(given):
            report["scenarios"] += _run(name, choose_targets(given, name), options)
    folder = given["out"] or RESULTS / "tmp"
    as_json, as_html = write_report(report, folder)
    say(f"wrote {as_json} and {as_html}")
    if given["out"] is None and not _is_partial(given):
        KEPT.write_text(as_html.read_text())
        say(f"kept {KEPT}")
    return report


def _is_partial(given: dict[str, Any]) -> bool:
    """Only a whole suite may replace the report that is kept."""
    chosen = given["scenarios"] or given["targets"] or given["url"]
    return bool(chosen) or given["suite"] == "cost"


def _run(name: str, targets: list[str], options: Options) -> list[dict[str, Any]]:
    """Run one scenario; one that fails as a whole does not take the others with it."""
    try:
        if name in SPECIAL:
            return run_special(name, options, say)
        return run_scenario(SCENARIOS[name], targets, options, say)
    except LoadFailed as error:
        say(f"{name}: FAILED: {error}")
        return [{"name": name, "target": "", "absent": f"failed: {error}", "valid": False}]


def _url_load(given: dict[str, Any]) -> UrlLoad:
    url = urlsplit(given["url"])
    if url.scheme not in ("http", "https") or not url.hostname:
        raise click.UsageError("--url takes a base URL such as http://127.0.0.1:8080/v1")
    if not given["allow_remote"] and url.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise click.UsageError(f"{url.hostname} is another machine: say --allow-remote")
    return UrlLoad(
        url=given["url"],
        key=_secret(given["key"]),
        model=given["model"],
        stream=given["stream"],
        rate=given["rate"] or 0.0,
        connections=20_000 if given["rate"] else given["concurrency"],
        duration_s=given["duration"],
        prompt_bytes=given["prompt_bytes"],
        tokens_max=given["max_tokens"],
        generators=given["generators"],
    )


def _secret(reference: str) -> str:
    """Return the key that env:NAME or file:PATH names; a key itself has no place in a history."""
    kind, _, name = reference.partition(":")
    if not reference:
        return "none"
    if kind == "env" and name in os.environ:
        return os.environ[name]
    if kind == "file":
        try:
            return Path(name).read_text().strip()
        except OSError as error:
            raise click.UsageError(f"--key: {name}: {error.strerror}") from error
    raise click.UsageError("--key takes env:NAME (which must be set) or file:PATH")


def _regressed(report: dict[str, Any], given: dict[str, Any]) -> bool:
    try:
        baseline = read_baseline(given["baseline"])
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    for note in describe_loads(report, baseline):
        sys.stderr.write(f"{note}\n")
    verdicts = compare(report, baseline, given["margin"])
    for verdict in verdicts:
        sys.stderr.write(f"{verdict}\n")
    if not verdicts:
        raise click.ClickException("nothing to compare: no valid figure is in both reports")
    return any(verdict.failed for verdict in verdicts)
