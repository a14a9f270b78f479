"""`relay bench soak`: hours of mixed load, to see whether anything grows.

How the relay stands is sampled all along (`samples`); with --faults something goes wrong behind it
each minute (`faults`), with --night the night's work is done in the middle (`night`), and there are
moments without any channel. In the end the books are checked and audited, what an idle relay still
holds is compared with what it held before, and failed calls are told apart (`witness`).

Whatever is found is also added to progress.jsonl beside the report as it is found. SIGTERM or
SIGINT ends the load at once, and the report is of what was until then.
"""

import datetime
import json
import signal
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from benchmarks.load.diary import Diary, read_failures
from benchmarks.load.job import Job
from benchmarks.report.document import RESULTS, begin_report, write_report
from benchmarks.report.terminal import print_report, say
from benchmarks.scenarios.measure import bench_here, measure
from benchmarks.scenarios.staging import staged
from benchmarks.scenarios.suite import Options, Stage, make_job
from benchmarks.scenarios.table import SCENARIOS, Scenario
from benchmarks.soak.faults import Mischief, Stand
from benchmarks.soak.night import ENVIRON, Night, archived_days, plant
from benchmarks.soak.samples import (
    Sample,
    Sampler,
    await_idle,
    conclude,
    left_over,
    take_sample,
)
from benchmarks.soak.witness import Witness, is_well, tell_apart
from benchmarks.targets import target
from benchmarks.targets.books import Books
from benchmarks.targets.place import Server
from benchmarks.targets.upstream import Script, Upstream

PROGRESS: Final = "progress.jsonl"
_NIGHT_SHARE: Final = 0.5
_TOLD: Final = (
    "asked",
    "errors_by_kind",
    "log_rows_missing",
    "errors_while_a_channel_was_well",
    "errors_while_none_was",
    "left_over",
    "audit",
    "night",
)

_SCENARIO: Final = Scenario(
    name="soak",
    about="the enterprise mix, for hours",
    script=Script(chunks=1000, interval_ms=40, tokens_per_event=4),
    calls=SCENARIOS["mixed_30m"].calls,
    rate=SCENARIOS["mixed_30m"].rate,
    warm_s=10,
)


class Soak(msgspec.Struct, frozen=True, kw_only=True):
    """How long, how often to look, and what is to happen.

    `share`: of 30M tokens a minute. `folder`: where progress is told.
    """

    hours: float
    share: float
    every_s: float
    faults: bool
    night: bool
    seed: int
    folder: Path


@click.command()
@click.option("--hours", type=click.FloatRange(0.01, 24), default=2.0, show_default=True)
@click.option(
    "--share",
    type=click.FloatRange(0.01, 1),
    default=0.25,
    show_default=True,
    help="Of 30M tokens a minute.",
)
@click.option("--every-s", type=click.FloatRange(1, 600), default=30.0, show_default=True)
@click.option("--faults", is_flag=True, help="Each minute something goes wrong behind the relay.")
@click.option(
    "--night",
    is_flag=True,
    help="The night's work in the middle; with --faults also moments without any channel.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the faults' dice.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path))
def command(out: Path | None, **asked: Any) -> None:
    """Run the relay under load for hours; exit 1 where anything grows, fails or drifts."""
    report = begin_report("soak")
    folder = out or RESULTS / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    entry = run_soak(Soak(**asked, folder=folder), stop)
    report["scenarios"].append(entry)
    write_report(report, folder)
    print_report(report)
    for reason in entry["faulty"]:
        click.echo(f"soak: {reason}", err=True)
    click.get_current_context().exit(1 if entry["faulty"] else 0)


def run_soak(soak: Soak, stop: threading.Event) -> dict[str, Any]:
    """Soak the relay; return the entry of the report, `faulty` = what it should not have done."""
    progress = soak.folder / PROGRESS
    progress.unlink(missing_ok=True)
    options = Options(bench=bench_here())
    place = {
        "line_tpm": _SCENARIO.line_tpm,
        "splice": soak.faults,
        "environ": ENVIRON if soak.night else {},
    }
    with ExitStack() as stack:
        server, upstreams = stack.enter_context(
            staged(options, _SCENARIO.script, upstreams=2 if soak.faults else 1, **place)
        )
        if soak.night:
            plant(_database_url(server), datetime.datetime.now(datetime.UTC).date())
        diary = Diary(progress)
        stack.callback(diary.close)
        stage = Stage(upstream=upstreams[0], servers={target.RELAY: server})
        job = make_job(_SCENARIO, stage, target.RELAY, options)
        window_s = soak.hours * 3600
        rate = job.rate * soak.share
        job = msgspec.structs.replace(job, rate=rate, window_s=window_s, diary=str(progress))
        found = _watched(soak, stop, diary, job, server, upstreams)
    return {
        "name": "soak",
        "target": target.RELAY,
        "about": f"{_SCENARIO.about}: {soak.share * 30:g}M tokens a minute, {soak.hours:g} h",
        "does": target.does(target.RELAY),
        **found,
        "faulty": find_faults(found),
    }


def _watched(
    soak: Soak,
    stop: threading.Event,
    diary: Diary,
    job: Job,
    server: Server,
    upstreams: list[Upstream],
) -> dict[str, Any]:
    """Put the load on with everything that happens beside it; return all that was found."""
    options = Options(bench=bench_here())
    books, before = Books(server), take_sample(server, 0.0)

    def tell(sample: Sample) -> None:
        diary.tell(sample=msgspec.to_builtins(sample))
        say(
            f"soak {sample.at_s:.0f} s: RSS {sample.rss_mib:.1f} MiB, {sample.open_files} files, "
            f"{sample.threads} threads, {sample.tasks} tasks, "
            f"others {sample.others_rss_mib:.0f} MiB"
        )

    def hear(text: str) -> None:
        diary.tell(said=text, at_s=time.monotonic())
        say(text)

    mischief = night = None
    with ExitStack() as stack:
        ports = [upstream.port for upstream in upstreams]
        witness = stack.enter_context(Witness(ports, is_well))
        sampler = stack.enter_context(Sampler(server, soak.every_s, tell))
        if soak.faults:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-soak-")))
            stand = Stand(_SCENARIO.script, set(options.bench.load_cores), folder)
            mischief = stack.enter_context(
                Mischief(server, upstreams, stand, seed=soak.seed, say=hear, outages=soak.night)
            )
        if soak.night:
            after_s = job.warm_s + job.window_s * _NIGHT_SHARE
            night = stack.enter_context(Night(server.maintain, after_s, hear))
        figures, _ = measure(options.bench, job, server, upstreams, stop=stop)
    books.asked += figures["asked"]
    figures |= books.check()
    after = await_idle(server, before)
    figures |= conclude(sampler.samples)
    figures |= tell_apart(read_failures(Path(job.diary)), witness.outages)
    figures["idle"] = msgspec.to_builtins({"before": before, "after": after})
    figures["left_over"] = left_over(before, after)
    figures["audit"] = server.audited() if server.audited is not None else None
    if mischief is not None:
        figures["faults"] = mischief.struck
        figures["notes"].append(f"{len(mischief.struck)} faults, dice of seed {soak.seed}")
    if night is not None:
        figures["night"] = night.found
        if server.data_dir is not None:
            figures["night"]["archived_days"] = archived_days(server.data_dir)
    diary.tell(found={name: figures[name] for name in _TOLD if name in figures})
    return figures | {"samples": msgspec.to_builtins(sampler.samples)}


def find_faults(found: dict[str, Any]) -> list[str]:
    """Return what a relay should not have done in a soak, each a sentence; empty where it held."""
    audit, night = found.get("audit"), found.get("night")
    reasons = {
        "its memory grows": found["rss_grows"],
        "calls failed while a channel was well": found["errors_while_a_channel_was_well"],
        f"rows of the log: {found.get('log_rows_missing')} missing": found.get("log_rows_missing"),
        f"once idle it held more than before: {found['left_over']}": found["left_over"],
        "its books drift": bool(audit and audit["drifts"]),
        f"the night was not done: {night}": night is not None
        and (bool(night.get("failed")) or "works" not in night),
    }
    return [reason for reason, true in reasons.items() if true]


def _database_url(server: Server) -> str:
    assert server.data_dir is not None
    record = json.loads((server.data_dir / "run" / "embedded.json").read_bytes())
    url: str = record["postgres"]["url"]
    return url
