"""`relay bench capacity REPORT`: from measured costs to what N cores carry, each assumption named.

cost of a call, an event, a KiB of prompt  --x profile-->  cores  -->  hosts, Redis, Postgres
"""

from pathlib import Path
from typing import Any, Final

import click
import msgspec

from benchmarks.micro.pure import make_records
from benchmarks.report.cells import added
from benchmarks.report.document import KEPT, ROOT, read_report

CAPACITY: Final = ROOT / "benchmarks" / "CAPACITY.md"
FRAME_BYTES: Final = 8
"""Length and checksum of a journal record."""
ROW_BYTES: Final = 260
"""A row of the request log in Postgres with its indexes; measure yours with
pg_total_relation_size."""


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, of one worker. Microseconds of CPU, bytes, counts."""

    call_us: float
    event_us: float
    prompt_kib_us: float
    beside_call_us: float
    """What supervisor, control process, Postgres and Valkey add for a call."""
    stream_bytes: float
    redis_per_s: float
    """Round trips of one worker at the load of mixed_30m: leases go by time, not by call."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A load. Tokens of a call are prompt + completion."""

    tokens_per_min: float
    prompt_tokens: int = 3200
    completion_tokens: int = 320
    bytes_per_token: float = 4.0
    tokens_per_event: float = 4.0
    tokens_per_s: float = 100.0
    """Of one stream."""
    first_token_s: float = 0.5
    core_share: float = 0.6
    """How busy a worker's core may be, so that bursts do not queue."""


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What a profile asks of the relay."""

    calls_per_s: float
    events_per_s: float
    worker_cores: float
    beside_cores: float
    workers: int
    streams: float
    memory_mib: float
    open_files: float
    redis_per_s: float
    rows_per_s: float
    rows_gib_per_day: float
    journal_mib_per_s: float


def demand(costs: Costs, profile: Profile) -> Demand:
    """Return what `profile` asks, by the arithmetic that benchmarks/CAPACITY.md shows."""
    tokens = profile.prompt_tokens + profile.completion_tokens
    calls = profile.tokens_per_min / 60 / tokens
    events_each = profile.completion_tokens / profile.tokens_per_event
    prompt_kib = profile.prompt_tokens * profile.bytes_per_token / 1024
    call_us = costs.call_us + prompt_kib * costs.prompt_kib_us + events_each * costs.event_us
    cores = calls * call_us / 1e6
    workers = max(1, -(-int(cores * 1000) // int(profile.core_share * 1000)))
    seconds = profile.first_token_s + profile.completion_tokens / profile.tokens_per_s
    streams = calls * seconds
    return Demand(
        calls_per_s=calls,
        events_per_s=calls * events_each,
        worker_cores=cores,
        beside_cores=calls * costs.beside_call_us / 1e6,
        workers=workers,
        streams=streams,
        memory_mib=streams * costs.stream_bytes / 2**20,
        open_files=2 * streams,
        redis_per_s=workers * costs.redis_per_s,
        rows_per_s=calls,
        rows_gib_per_day=calls * 86_400 * ROW_BYTES / 2**30,
        journal_mib_per_s=calls * journal_bytes() / 2**20,
    )


def journal_bytes() -> int:
    """Return what START and END of a usual call take in the journal."""
    records = make_records()
    return sum(len(msgspec.msgpack.encode(record)) + FRAME_BYTES for record in records)


def read_costs(report: dict[str, Any]) -> Costs:
    """Return the costs that a report measured of the relay.

    Raises:
        ValueError: A scenario that is needed is not in it, or was not measured.
    """
    found = {e["name"]: e for e in report["scenarios"] if e["target"] == "relay" and "rps" in e}
    missing = {
        "json_short",
        "json_busy",
        "json_64k",
        "sse_paced",
        "open_streams",
        "mixed_30m",
    } - found.keys()
    if missing:
        raise ValueError(f"the report has no {', '.join(sorted(missing))} of the relay")
    short, long, mixed = found["json_short"], found["json_64k"], found["mixed_30m"]
    # Rates below saturation: a busier worker wakes up less often for each call, and costs less.
    busy = found["json_busy"]
    call_us = busy["worker_cpu_us_per_request"]
    more_us = long["worker_cpu_us_per_request"] - short["worker_cpu_us_per_request"]
    return Costs(
        call_us=call_us,
        event_us=found["sse_paced"]["worker_cpu_us_per_event"],
        prompt_kib_us=max(0.0, more_us / 63),
        beside_call_us=max(0.0, busy["cpu_us_per_request"] - call_us),
        stream_bytes=found["open_streams"]["rss_bytes_per_stream"],
        redis_per_s=mixed.get("redis_ops_per_request", 0.0) * mixed["rps"],
    )


def make_text(report: dict[str, Any]) -> str:
    """Return benchmarks/CAPACITY.md: measured costs, assumptions, arithmetic, tables."""
    costs = read_costs(report)
    entries = {e["name"]: e for e in report["scenarios"] if e["target"] == "relay"}
    mixed = entries["mixed_30m"]
    doubtful = [name for name, e in entries.items() if not e["valid"]]
    plain = Profile(tokens_per_min=30e6)
    one = demand(costs, plain)
    checked = mixed["target_cpu_share"]
    lines = [
        _INTRO.format(
            commit=report["commit"][:12] or "unknown",
            cpu=report["machine"].get("cpu_model", "unknown"),
            begun=report["begun"],
            command=report["command"],
        ),
        *(
            [f"**INVALID in that report: {', '.join(doubtful)}.** Measure again.\n"]
            * bool(doubtful)
        ),
        _COSTS.format(**msgspec.to_builtins(costs), journal=journal_bytes(), row=ROW_BYTES),
        _ARITHMETIC.format(
            calls=one.calls_per_s,
            events=one.events_per_s,
            cores=one.worker_cores,
            beside=one.beside_cores,
            total=one.worker_cores + one.beside_cores,
            checked=checked,
            p99=added(mixed, "p99", 1) or "an unknown number of",
        ),
        _table(
            "One dedicated line of 30M tokens a minute",
            "tokens an event",
            [
                (f"{n:g}", demand(costs, msgspec.structs.replace(plain, tokens_per_event=n)))
                for n in (1.0, 2.0, 4.0, 8.0, 16.0)
            ],
        ),
        _table(
            "A fleet (4 tokens an event)",
            "tokens a minute",
            [
                (f"{n / 1e6:,.0f}M", demand(costs, Profile(tokens_per_min=n)))
                for n in (30e6, 100e6, 300e6, 1e9, 3e9)
            ],
        ),
        _LIMITS,
    ]
    return "\n".join(lines)


_INTRO: Final = """# What N cores carry

Made by `relay bench capacity REPORT` from the report of commit {commit}, measured {begun} on
"{cpu}" with `{command}`. Do not edit: measure on your machine and make it anew.
"""
_COSTS: Final = """## Measured

| what | value | from scenario |
|---|---|---|
| a call, worker | {call_us:.0f} us | json_busy |
| a forwarded event, worker | {event_us:.1f} us | sse_paced |
| a KiB of prompt, worker | {prompt_kib_us:.2f} us | (json_64k - json_short) / 63 |
| a call, everything beside the worker | {beside_call_us:.0f} us | json_busy: all less workers |
| an open stream, worker | {stream_bytes:.0f} bytes | open_streams |
| Redis round trips of a worker | {redis_per_s:.1f} /s | mixed_30m |
| journal, START and END of a call | {journal} bytes | the records themselves |
| a row of the request log, assumed | {row} bytes | assumption |
"""
_ARITHMETIC: Final = """## Arithmetic for 30M tokens a minute

Assumed: 3,200 prompt + 320 completion tokens a call (10:1), 4 bytes a token, 4 tokens an event,
100 tokens/s a stream, first token after 0.5 s, a worker's core at most 60 % busy.

    calls   = 30,000,000 / 60 / 3,520                     = {calls:.0f} /s
    events  = calls x 320 / 4                             = {events:,.0f} /s
    workers = calls x (call + 12.5 KiB x prompt + 80 x event) = {cores:.2f} cores
    beside  = calls x what is beside the worker           = {beside:.2f} cores
    all     = {total:.2f} cores

Measured in mixed_30m: {checked:.2f} cores, and {p99} ms more until the first token at p99.
"""
_LIMITS: Final = """## What else binds

- **Open files**: two for each stream (client, upstream), 100 for a worker itself. `LimitNOFILE` of
  the unit allows 1,048,576; `server.connections_max` is 20,000 for each worker.
- **Redis**: leases are renewed by time and demand, so round trips grow with workers and busy lines,
  not with calls. One Redis answers far more than any row above asks.
- **Postgres**: one row a call, written in batches by one transaction each; nothing waits for it. A
  fleet beyond some thousand rows a second wants a disk that takes them, and partitions by day.
- **Ports**: one address pair has 28,232 ephemeral ports (Debian's default range): more streams to
  one upstream address than that need more addresses on either side.
- **Cores of the databases**: "beside" shrinks where Postgres and Redis are elsewhere.
"""


def _warning(doubtful: list[str]) -> list[str]:
    names = ", ".join(doubtful)
    return [f"**INVALID in that report: {names}.** Measure again.\n"] if doubtful else []


def _table(title: str, first: str, rows: list[tuple[str, Demand]]) -> str:
    head = (
        f"## {title}\n\n| {first} | calls/s | events/s | worker cores | workers at 60 % "
        "| streams | memory MiB | files | Redis/s | rows/s | GiB rows/day | journal MiB/s |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|\n"
    )
    body = "".join(
        f"| {name} | {d.calls_per_s:,.0f} | {d.events_per_s:,.0f} | {d.worker_cores:.2f} "
        f"| {d.workers} | {d.streams:,.0f} | {d.memory_mib:,.0f} | {d.open_files:,.0f} "
        f"| {d.redis_per_s:,.0f} | {d.rows_per_s:,.0f} | {d.rows_gib_per_day:.1f} "
        f"| {d.journal_mib_per_s:.2f} |\n"
        for name, d in rows
    )
    return head + body


@click.command()
@click.argument(
    "report", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=KEPT
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=CAPACITY)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where the file differs.")
@click.pass_context
def command(ctx: click.Context, report: Path, out: Path, *, check: bool) -> None:
    """Write benchmarks/CAPACITY.md from a report, by default the one that is kept."""
    try:
        text = make_text(read_report(report))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    if check:
        ctx.exit(0 if out.exists() and out.read_text() == text else 1)
    out.write_text(text)
    click.echo(f"wrote {out}", err=True)
