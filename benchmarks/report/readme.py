"""`relay bench readme`: the tables of README.md, all from one report, so that they never disagree.

Whatever stands between the markers is made anew; a figure that was not measured, or not validly,
is left blank. The chart beside the page comes from the same report.
"""

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from benchmarks.peers.table import BYTES, PEERS
from benchmarks.report.capacity import CAPACITY
from benchmarks.report.cells import added, number, with_workers
from benchmarks.report.chart import Bar, draw_bars
from benchmarks.report.document import KEPT, RESULTS, ROOT, read_report

README: Final = ROOT / "README.md"
BEGIN: Final = "<!-- bench: begin -->"
END: Final = "<!-- bench: end -->"
CHART: Final = RESULTS / "sse_paced.svg"
_OURS: Final = "relay"
_TITLES: Final = {
    "haproxy": "HAProxy",
    "envoy": "Envoy",
    "caddy": "Caddy",
    "traefik": "Traefik",
    "plain_aiohttp": "aiohttp, the obvious way",
    "smg": "smg (Rust)",
    "sglang-router": "sglang-router (Rust)",
    "vllm-router": "vllm-router (Rust)",
    "litellm": "LiteLLM",
    "portkey": "Portkey",
}
_STYLE: Final = (
    "<style>text{font:13px sans-serif;fill:#1b2230}.strong{fill:#1264d8}.plain{fill:#9fb3cc}"
    ".range{stroke:#1b2230;stroke-width:1;fill:none}</style>"
)

Entry = dict[str, Any]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a table: a figure of one scenario, for each target."""

    label: str
    scenario: str
    cell: Callable[[Entry], str]


def _cpu(label: str, scenario: str, field: str, digits: int = 0) -> Row:
    return Row(label=label, scenario=scenario, cell=lambda e: with_workers(e, field, digits))


def _call(label: str, scenario: str) -> Row:
    return _cpu(label, scenario, "cpu_us_per_request")


def _stream_kib(entry: Entry) -> str:
    found = entry.get("rss_bytes_per_stream")
    return number(None if found is None else found / 1024, 1)


_EVENT: Final = _cpu("CPU of a paced SSE event, us", "sse_paced", "cpu_us_per_event", 1)
_ROWS: Final = (
    _EVENT,
    _cpu("the same, upstream over TLS", "sse_paced_tls", "cpu_us_per_event", 1),
    _cpu("an event of 200 at once", "sse_burst", "cpu_us_per_event", 2),
    _call("CPU of a JSON call at 5,000/s, us", "json_busy"),
    _call("call like Claude Code's (76-800 KB, 300 events), us", "claude_code"),
    _call("call like Codex's (39-400 KB, 300 events), us", "codex"),
    Row(label="memory of an open stream, KiB", scenario="open_streams", cell=_stream_kib),
    Row(
        label="added TTFT p99 at 30M tokens a minute, ms",
        scenario="mixed_30m",
        cell=lambda entry: added(entry, "p99", 1),
    ),
)
_GATEWAY_ROWS: Final = (_EVENT, _call("CPU of a JSON call, us", "json_busy"))
_NEVER_IDLE_ROWS: Final = (
    *(
        _call(f"JSON call, prompt of {size[:-1]} {size[-1].upper()}B", f"json_prompt_{size}")
        for size in ("1k", "4k", "39k", "64k", "76k", "300k", "1m")
    ),
    *(
        _call(f"stream, {n} event{'s' * (n > 1)} in one write", f"sse_burst_{n}")
        for n in (1, 20, 200)
    ),
)


def make_tables(report: dict[str, Any]) -> str:
    """Return what stands between the markers."""
    entries = {
        (entry["name"], entry["target"]): entry
        for entry in report["scenarios"]
        if entry["valid"] and "rps" in entry
    }
    bytes_only = [peer.name for peer in PEERS.values() if peer.does.startswith(BYTES)]
    bytes_only.sort(key="plain_aiohttp".__eq__)
    gateways = [name for name in PEERS if name not in bytes_only]
    parts = [
        _intro(report),
        _table(_ROWS, [_OURS, *bytes_only], entries),
        _titled(
            "These peers pass bytes on. The gateways, which know a model and some a key, and "
            "neither log nor bill:",
            _table(_GATEWAY_ROWS, [_OURS, *gateways], entries, peers_min=1),
        ),
        _titled(
            "CPU of a server that is never idle (closed loop over eight connections), us:",
            _table(_NEVER_IDLE_ROWS, [_OURS, *bytes_only], entries),
        ),
        f"![CPU of a paced event]({CHART.relative_to(ROOT)})",
        _filled(" ".join(_sentences(entries))),
    ]
    return "\n\n".join(part for part in parts if part)


def put_between(text: str, tables: str) -> str:
    """Return a text with the tables between its markers.

    Raises:
        ValueError: It does not have each marker once, in their order.
    """
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended or text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"the file needs one line {BEGIN} and after it one line {END}")
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def draw_chart(report: dict[str, Any]) -> str:
    """Return the chart of a paced event as an SVG that stands alone."""
    field, bars = "cpu_us_per_event", []
    for entry in report["scenarios"]:
        # A peer at a share of the load costs so much more that nobody else would be seen.
        if entry["name"] == "sse_paced" and entry["valid"] and entry.get("load_share", 1) == 1:
            value = entry[field]
            low, high = entry.get("spread", {}).get(field, (value, value))
            bars.append(Bar(entry["target"], value, low, high, strong=entry["target"] == _OURS))
    head, tag, body = draw_bars(bars, "us").partition(">")
    return head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"') + tag + _STYLE + body


def _intro(report: dict[str, Any]) -> str:
    machine = report["machine"]
    return _filled(
        f"One run of `{report['command']}` at commit {report['commit'][:12] or 'unknown'}, "
        f"{report['begun'][:10]}, on {machine.get('cores', 'unknown')} cores of "
        f"{machine.get('cpu_model') or 'unknown'} ({machine.get('relay', 'unknown')}), every "
        "target alone on one core: the relay with keys, limits, credit, journal, Postgres, Valkey "
        "and the request log on that same core. Whole process tree (the relay's workers alone in "
        "brackets); blank: not measured, or not validly. The page with everything is "
        f"[{KEPT.relative_to(ROOT)}]({KEPT.relative_to(ROOT)})."
    )


def _filled(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _titled(title: str, table: str) -> str:
    return f"{title}\n\n{table}" if table else ""


def _table(
    rows: tuple[Row, ...],
    targets: list[str],
    entries: dict[tuple[str, str], Entry],
    *,
    peers_min: int = 0,
) -> str:
    """Return a table without the rows and the peers of which nothing is known; "" if none is."""
    cells = {
        (row.label, target): row.cell(entry)
        for row in rows
        for target in targets
        if (entry := entries.get((row.scenario, target))) is not None
    }
    labels = [row.label for row in rows if any(cells.get((row.label, t)) for t in targets)]
    known = [t for t in targets if t == _OURS or any(cells.get((label, t)) for label in labels)]
    if not labels or len(known) <= peers_min:
        return ""
    heads = " | ".join(_TITLES.get(target, target) for target in known)
    lines = [f"| | {heads} |", "|---" * (len(known) + 1) + "|"]
    for label in labels:
        found = (cells.get((label, target), "") for target in known)
        lines.append(f"| {label} | " + " | ".join(found) + " |")
    return "\n".join(lines)


def _sentences(entries: dict[tuple[str, str], Entry]) -> Iterator[str]:
    """Yield what was found of the relay alone."""
    ours = {name: entry for (name, target), entry in entries.items() if target == _OURS}
    if "limit_accuracy" in ours:
        admitted = ours["limit_accuracy"]["tokens_per_min"] / 1e6
        yield f"A line of 30M tokens a minute that was offered 45M admitted {admitted:.2f}M."
    counted = [e["log_rows_missing"] for e in ours.values() if "log_rows_missing" in e]
    if counted:
        lost = sum(map(abs, counted))
        yield f"Calls missing in the request log, or twice in it: {lost or 'none'}."
    if "failover" in ours:
        found = ours["failover"]
        yield (
            f"Of {number(found['measured'])} calls {found['errors'] or 'none'} failed when one of "
            "two channels was killed."
        )
    if "json_closed" in ours and not ours["json_closed"].get("load_limited"):
        rps = number(ours["json_closed"]["rps"])
        yield f"One worker answers {rps} short JSON calls a second."
    if ours:
        path = CAPACITY.relative_to(ROOT)
        yield f"What N cores carry: [{path}]({path})."


@click.command()
@click.argument(
    "report", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=KEPT
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=README)
@click.option("--chart", type=click.Path(dir_okay=False, path_type=Path), default=CHART)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where the file differs.")
@click.pass_context
def command(ctx: click.Context, report: Path, out: Path, chart: Path, *, check: bool) -> None:
    """Write the measured tables of README.md from a report, by default the one that is kept."""
    try:
        found = read_report(report)
        before = out.read_text()
        text = put_between(before, make_tables(found))
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{out}: {error}") from error
    if check:
        ctx.exit(0 if text == before else 1)
    out.write_text(text)
    chart.write_text(draw_chart(found) + "\n")
    click.echo(f"wrote {out} and {chart}", err=True)
