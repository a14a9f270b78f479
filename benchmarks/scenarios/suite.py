"""Runs scenarios: starts upstream and targets, lets them take turns, joins the repeats.

    for each scenario:   upstream, then every target, all fresh
      for each repeat:     direct, target, target ...     the same schedule for each of them

Targets take turns within one run, so that a machine that drifts moves all of them.
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.load.job import Job
from benchmarks.peers.table import PEERS
from benchmarks.report.cells import added
from benchmarks.report.figures import add_direct, join_repeats
from benchmarks.scenarios.measure import Bench, measure
from benchmarks.scenarios.table import Scenario
from benchmarks.targets import target
from benchmarks.targets.books import Books
from benchmarks.targets.place import KEY, Place, Server
from benchmarks.targets.processes import NotStarted, raise_open_files, rss_bytes
from benchmarks.targets.upstream import Upstream, make_authority, start_upstream

Say = Callable[[str], None]

_FILES_SPARE: Final = 600
"""Open files of a target besides those of streams, of which each takes two."""
_SWEEP_LATENCY_MS_MAX: Final = 200.0
"""At p99: a sweep ends there too; what queues that long is saturated."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How scenarios are run. `scale`: of every rate and number of streams."""

    bench: Bench = Bench()
    repeats: int = 3
    workers: int = 1
    scale: float = 1.0


class Stage(msgspec.Struct, kw_only=True):
    """What runs during a scenario. `trust`: PEM of the upstream's authority, "" = plain."""

    upstream: Upstream
    servers: dict[str, Server]
    trust: str = ""


def run_scenario(
    scenario: Scenario, targets: list[str], options: Options, say: Say
) -> list[dict[str, Any]]:
    """Measure targets, none = those of the scenario, under it; return an entry for each.

    A target that is not here or does not come up has an entry with `absent`, the reason.
    """
    wanted = list(targets or scenario.among)
    if scenario.one_core:
        bench = msgspec.structs.replace(options.bench, load_cores=options.bench.target_cores)
        options = msgspec.structs.replace(options, bench=bench)
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder, ExitStack() as stack:
        try:
            stage = _set_up(stack, scenario, Path(folder), options)
        except NotStarted as error:
            return [_absent(scenario, name, str(error)) for name in wanted]
        absent = {}
        for name in wanted:
            say(f"{scenario.name}: starting {name}")
            reason = _unfit(scenario, name) or _start(
                stack, stage, name, scenario, options, Path(folder)
            )
            if reason:
                absent[name] = reason
                say(f"{scenario.name}: {name} is absent: {reason}")
        if scenario.hold:
            found = _hold(scenario, stage, options, say)
        elif scenario.sweep:
            found = _sweep(scenario, stage, options, say)
        else:
            found = _take_turns(scenario, stage, options, say)
    return found + [_absent(scenario, name, reason) for name, reason in absent.items()]


def _set_up(stack: ExitStack, scenario: Scenario, folder: Path, options: Options) -> Stage:
    folder.chmod(0o755)
    raise_open_files()
    authority = make_authority(folder) if scenario.tls else None
    upstream = stack.enter_context(
        start_upstream(
            scenario.script,
            cores=set(options.bench.load_cores),
            folder=folder,
            authority=authority,
        )
    )
    trust = str(authority.certificate) if authority else ""
    return Stage(upstream=upstream, servers={}, trust=trust)


def _unfit(scenario: Scenario, name: str) -> str:
    """Say why a target cannot take part in a scenario; "" where it can."""
    peer = PEERS.get(name)
    if peer is not None and scenario.tls and not peer.tls:
        return "not set up for an https upstream with an authority of its own"
    return ""


def _start(
    stack: ExitStack,
    stage: Stage,
    name: str,
    scenario: Scenario,
    options: Options,
    folder: Path,
) -> str:
    """Start one target; return why it cannot be measured, "" where it can."""
    reason = target.absence(name)
    if reason or name == target.DIRECT:
        return reason
    place = Place(
        folder=folder / name,
        cores=options.bench.target_cores,
        upstreams=(stage.upstream.port,),
        trust=stage.trust,
        workers=options.workers,
        line_tpm=scenario.line_tpm,
        messages=scenario.messages,
    )
    try:
        stage.servers[name] = stack.enter_context(target.start(name, place))
    except NotStarted as error:
        return str(error)
    return ""


def make_job(scenario: Scenario, stage: Stage, name: str, options: Options) -> Job:
    """Return the load of a scenario for one target; DIRECT asks the upstream itself."""
    server = stage.servers.get(name)
    share = PEERS[name].load_share if name in PEERS else 1.0
    direct = server is None
    return Job(
        host="127.0.0.1",
        port=stage.upstream.port if server is None else server.port,
        tls=direct and stage.upstream.secure,
        trust=stage.trust if direct else "",
        key=KEY,
        headers=server.headers if server else {},
        calls=scenario.calls,
        rate=scenario.rate * share * options.scale,
        connections=scenario.connections,
        warm_s=scenario.warm_s,
        window_s=scenario.window_s,
    )


def _take_turns(
    scenario: Scenario, stage: Stage, options: Options, say: Say
) -> list[dict[str, Any]]:
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in stage.servers}
    books = {name: Books(server) for name, server in stage.servers.items()}
    for repeat in range(1 if scenario.once else options.repeats):
        direct: dict[str, Any] | None = None
        # A closed loop tells no latency, so none that a target could add to.
        first = (target.DIRECT,) if scenario.rate else ()
        for name in (*first, *stage.servers):
            job = make_job(scenario, stage, name, options)
            job = msgspec.structs.replace(job, seed=repeat + 1)
            figures = _measured(options.bench, job, stage, name)
            if name == target.DIRECT:
                direct = figures
                continue
            if direct is not None:
                add_direct(figures, direct, streams=scenario.streams)
            runs[name].append(figures)
            say(f"{scenario.name} {repeat + 1}: {name}: {brief(figures)}")
            books[name].asked += figures["asked"]
    return [
        _entry(scenario, name, join_repeats(found) | books[name].check())
        for name, found in runs.items()
    ]


def _measured(bench: Bench, job: Job, stage: Stage, name: str) -> dict[str, Any]:
    figures, _ = measure(bench, job, stage.servers.get(name), [stage.upstream])
    return figures


def _sweep(scenario: Scenario, stage: Stage, options: Options, say: Say) -> list[dict[str, Any]]:
    """Measure each target at rising rates until it is saturated, or the load is."""
    found = []
    for name in stage.servers:
        points: list[dict[str, Any]] = []
        for factor in scenario.sweep:
            job = make_job(scenario, stage, name, options)
            job = msgspec.structs.replace(job, rate=job.rate * factor)
            figures = _measured(options.bench, job, stage, name)
            points.append(figures)
            say(f"{scenario.name} {job.rate:.0f}/s: {name}: {brief(figures)}")
            if _is_saturated(figures):
                break
        good = [p for p in points if p["valid"] and not _is_saturated(p)]
        best = dict(max(good or points[:1], key=lambda point: point["rps"]))
        best["points"] = points
        best["saturation_found"] = bool(points and _is_saturated(points[-1]))
        found.append(_entry(scenario, name, best))
    return found


def _is_saturated(figures: dict[str, Any]) -> bool:
    slow, first_slow = (
        (figures[field]["p99"] or 0.0) > _SWEEP_LATENCY_MS_MAX
        for field in ("request_latency_ms", "ttft_ms")
    )
    return bool(figures["saturated"] or first_slow or (slow and not figures["events_per_s"]))


def _hold(scenario: Scenario, stage: Stage, options: Options, say: Say) -> list[dict[str, Any]]:
    """Open many streams on each target, keep them, and see what they cost in memory."""
    streams = min(int(scenario.hold * options.scale), (raise_open_files() - _FILES_SPARE) // 2)
    found = []
    for name, server in stage.servers.items():
        job = make_job(scenario, stage, name, options)
        share = PEERS[name].load_share if name in PEERS else 1.0
        count = max(1, int(streams * share))
        job = msgspec.structs.replace(
            job, rate=count / job.warm_s, poisson=False, connections=count, hold=True
        )
        _warm_up(options.bench, job, stage, name)
        before = rss_bytes(server.carriers())
        rss: list[int] = []
        figures = _measured_holding(options.bench, job, stage, name, rss)
        opened = figures["open_streams"]
        figures["rss_bytes_per_stream"] = (rss[0] - before) / opened if opened else None
        figures["streams_wanted"] = count
        figures["saturated"] = False  # nothing was to end
        say(f"{scenario.name}: {name}: {brief(figures)}")
        found.append(_entry(scenario, name, figures))
    return found


def _warm_up(bench: Bench, job: Job, stage: Stage, name: str) -> None:
    """Hold a few streams first, so that what a target loads once is not counted for streams."""
    few = msgspec.structs.replace(job, rate=100.0, warm_s=1.0, window_s=1.0, connections=200)
    _measured(bench, few, stage, name)


def _measured_holding(
    bench: Bench, job: Job, stage: Stage, name: str, rss: list[int]
) -> dict[str, Any]:
    """Measure; `rss` gets the memory of the carriers while all streams are open."""
    server = stage.servers[name]
    figures, _ = measure(
        bench,
        job,
        server,
        [stage.upstream],
        on_end=lambda: rss.append(rss_bytes(server.carriers())),
    )
    return figures


def _entry(scenario: Scenario, name: str, figures: dict[str, Any]) -> dict[str, Any]:
    share = PEERS[name].load_share if name in PEERS else 1.0
    return {
        "name": scenario.name,
        "target": name,
        "about": scenario.about,
        "does": target.does(name),
        "load_share": share,
        **figures,
    }


def _absent(scenario: Scenario, name: str, reason: str) -> dict[str, Any]:
    return {"name": scenario.name, "target": name, "absent": reason, "valid": False}


def brief(figures: dict[str, Any]) -> str:
    """Return one line of what matters."""
    parts = [f"{figures['rps']:.0f} calls/s"]
    if figures["cpu_us_per_event"]:
        parts.append(f"{figures['cpu_us_per_event']:.1f} us/event")
    elif figures["cpu_us_per_request"]:
        parts.append(f"{figures['cpu_us_per_request']:.0f} us/call")
    if added(figures, "p50"):
        parts.append(f"added ms: p50 {added(figures, 'p50')} p99 {added(figures, 'p99')}")
    if figures.get("rss_bytes_per_stream"):
        parts.append(f"{figures['rss_bytes_per_stream'] / 1024:.1f} KiB/stream")
    if figures["errors"]:
        parts.append(f"errors {figures['errors_by_kind']}")
    if figures["invalid_reasons"]:
        parts.append("INVALID: " + "; ".join(figures["invalid_reasons"]))
    return ", ".join(parts)
