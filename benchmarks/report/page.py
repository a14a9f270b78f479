"""The report as one HTML page that needs nothing else: tables, charts, and the JSON itself."""

import json
import string
from html import escape
from pathlib import Path
from typing import Any, Final

from benchmarks.report.cells import added, number
from benchmarks.report.chart import Bar, Series, draw_bars, draw_lines
from benchmarks.report.goals import judge

_TEMPLATE: Final = Path(__file__).with_name("page.html")
EMBEDDED_BEGIN: Final = '<script type="application/json" id="report">'
EMBEDDED_END: Final = "</script>"
"""Between these the page holds the report as JSON."""
_OURS: Final = "relay"
_BY_EVENT_MIN: Final = 10
"""Events a call from which on a scenario is about events."""
_COLUMNS: Final = (
    ("calls/s", "rps", 0),
    ("events/s", "events_per_s", 0),
    ("us/call", "cpu_us_per_request", 0),
    ("us/event", "cpu_us_per_event", 1),
    ("(workers)", "worker_cpu_us_per_request", 0),
    ("(workers)", "worker_cpu_us_per_event", 1),
)
_ADDED: Final = ("p50", "p90", "p99", "p99_9")


def make_page(report: dict[str, Any]) -> str:
    """Return the page of a report."""
    entries = report["scenarios"]
    names = list(dict.fromkeys(entry["name"] for entry in entries))
    sections = [_section(name, [e for e in entries if e["name"] == name]) for name in names]
    # "</" in a script element would end it.
    embedded = json.dumps(report).replace("</", "<\\/")
    return string.Template(_TEMPLATE.read_text()).substitute(
        begun=escape(report["begun"]),
        commit=escape(report["commit"][:12] or "unknown"),
        command=escape(report["command"]),
        banner=_banner(entries),
        facts=_facts(report["machine"]),
        goals=_goals(report),
        sections="".join(sections),
        peers=_peers(entries),
        data=embedded,
    )


def _banner(entries: list[dict[str, Any]]) -> str:
    bad = [e for e in entries if not e["valid"] and "absent" not in e]
    if not bad:
        return '<div class="banner ok">No run was limited by its generator or upstream.</div>'
    lines = "".join(
        f"<div><b>{escape(e['name'])} {escape(e['target'])}</b>: "
        f"{escape('; '.join(e.get('invalid_reasons', [])))}</div>"
        for e in bad
    )
    return f'<div class="banner"><span class="invalid">INVALID</span>{lines}</div>'


def _goals(report: dict[str, Any]) -> str:
    """Return a table of the goals that were measured."""
    lines = [goal for goal in judge(report) if goal.reached is not None]
    rows = "".join(
        f'<tr><td class="text {"ok" if goal.reached else "invalid"}">'
        f"{'reached' if goal.reached else 'missed'}</td>"
        f'<td class="text">{escape(goal.about)}</td>'
        f"<td>{'at least' if goal.least else 'at most'} {goal.bound:g}</td>"
        f'<td><b>{goal.found:.3g}</b></td><td class="text">{escape(goal.beside)}</td></tr>'
        for goal in lines
    )
    return f'<h2>Goals</h2><div class="scroll"><table>{rows}</table></div>' if rows else ""


def _facts(machine: dict[str, Any]) -> str:
    flat = {name: value for name, value in machine.items() if not isinstance(value, dict)}
    flat |= machine.get("libraries", {})
    return "".join(
        f"<div><b>{escape(name.replace('_', ' '))}</b> {escape(str(value))}</div>"
        for name, value in flat.items()
    )


def _peers(entries: list[dict[str, Any]]) -> str:
    does = {entry["target"]: entry["does"] for entry in entries if "does" in entry}
    absent = {e["target"]: f"absent: {e['absent']}" for e in entries if "absent" in e}
    return "".join(
        f'<tr><td>{escape(name)}</td><td class="text">{escape(text)}</td></tr>'
        for name, text in (absent | does).items()
    )


def _section(name: str, entries: list[dict[str, Any]]) -> str:
    about = next((entry["about"] for entry in entries if "about" in entry), "")
    parts = [f'<h2 id="{escape(name)}">{escape(name)}</h2><p class="about">{escape(about)}</p>']
    present = [entry for entry in entries if "rps" in entry]
    if present:
        parts += [_table(present), _bars(present)]
    if any("points" in entry for entry in present):
        parts.append(_sweep(present))
    if any(entry.get("rss_bytes_per_stream") for entry in present):
        held = [e for e in present if e.get("rss_bytes_per_stream") is not None]
        bars = [_bar(e, "rss_bytes_per_stream", 1024) for e in held]
        parts.append(f"<h3>Memory of an open stream</h3>{draw_bars(bars, 'KiB')}")
    parts.append(_details(entries))
    return "".join(parts)


def _bars(entries: list[dict[str, Any]]) -> str:
    by_event = any(e["events_per_s"] > _BY_EVENT_MIN * max(e["rps"], 1) for e in entries)
    field = "cpu_us_per_event" if by_event else "cpu_us_per_request"
    bars = [_bar(entry, field) for entry in entries if entry.get(field)]
    what = "a forwarded event" if by_event else "a call"
    return f"<h3>CPU of {what}, whole process tree</h3>{draw_bars(bars, 'us')}"


def _bar(entry: dict[str, Any], field: str, unit: float = 1) -> Bar:
    value = entry[field] / unit
    low, high = (edge / unit for edge in entry.get("spread", {}).get(field, (value * unit,) * 2))
    ours = entry["target"] == _OURS
    return Bar(entry["target"], value, low, high, strong=ours, doubtful=not entry["valid"])


def _sweep(entries: list[dict[str, Any]]) -> str:
    latency: Series = {}
    cost: Series = {}
    by_event = any(e["events_per_s"] > _BY_EVENT_MIN * max(e["rps"], 1) for e in entries)
    field = "cpu_us_per_event" if by_event else "cpu_us_per_request"
    for entry in entries:
        # Whatever is INVALID says nothing about its target and is not drawn.
        points = [p for p in entry.get("points", []) if p["valid"]]
        latency[entry["target"]] = [
            (p["offered_rps"], p["ttft_ms"]["p99"])
            for p in points
            if p["ttft_ms"]["p99"] is not None
        ]
        cost[entry["target"]] = [(p["offered_rps"], p[field]) for p in points if p[field]]
    first = "first token" if by_event else "answer"
    return (
        f"<h3>p99 until the {first}, from the intended start</h3>"
        f"{draw_lines(latency, 'calls offered a second', 'ms', log_y=True)}"
        f"<h3>CPU at that rate</h3>{draw_lines(cost, 'calls offered a second', 'us')}"
    )


def _table(entries: list[dict[str, Any]]) -> str:
    """Return the figures of all targets; columns in which nobody has any are left out."""
    heads = [head for head, _, _ in _COLUMNS]
    heads += [f"added {name.replace('_', '.')}" for name in _ADDED]
    heads += ["ttft p99", "gap p99", "errors", "RSS MiB", "Redis/call", ""]
    rows = [_row(entry) for entry in entries]
    kept = [n for n, _ in enumerate(heads) if any(row[n] for row in rows)]
    parts = ["<tr><th>target</th>", *(f"<th>{escape(heads[n])}</th>" for n in kept), "</tr>"]
    for entry, row in zip(entries, rows, strict=True):
        kind = ' class="ours"' if entry["target"] == _OURS else ""
        cells = "".join(f"<td>{row[n]}</td>" for n in kept)
        parts.append(f"<tr{kind}><td>{escape(entry['target'])}</td>{cells}</tr>")
    return f'<div class="scroll"><table>{"".join(parts)}</table></div>'


def _row(entry: dict[str, Any]) -> list[str]:
    cells = [_cell(entry, field, digits) for _, field, digits in _COLUMNS]
    cells += [added(entry, name) for name in _ADDED]
    cells.append(number(entry["ttft_ms"]["p99"], 1))
    cells.append(number((entry.get("inter_chunk_latency_ms") or {}).get("p99"), 1))
    cells += [str(entry["errors"]), number(entry["rss_mib"])]
    cells.append(number(entry.get("redis_ops_per_request"), 3))
    cells.append(_remarks(entry))
    return cells


def _cell(entry: dict[str, Any], field: str, digits: int) -> str:
    value = entry.get(field)
    text = number(value, digits)
    low, high = entry.get("spread", {}).get(field, (value, value))
    if value is None or low == high or field.endswith("per_s") or field == "rps":
        return text
    return f'{text} <span class="range">{low:.{digits}f}-{high:.{digits}f}</span>'


def _remarks(entry: dict[str, Any]) -> str:
    remarks = [] if entry["valid"] else ['<span class="invalid">INVALID</span>']
    if entry.get("saturated"):
        remarks.append("saturated")
    if entry.get("load_limited"):
        remarks.append("calls/s are the load's")
    if entry.get("load_share", 1) != 1:
        remarks.append(f"at {entry['load_share']:.0%} of the load")
    return ", ".join(remarks)


def _details(entries: list[dict[str, Any]]) -> str:
    """Return what is not a figure of every target: findings, errors by kind, who is absent."""
    lines = [f"{e['target']}: {note}" for e in entries for note in e.get("notes", [])]
    lines += [
        f"{e['target']}: {e['log_rows_missing']} of {e['asked']} calls missing in the request log"
        for e in entries
        if "log_rows_missing" in e
    ]
    lines += [
        f"{e['target']}: {e['log_rows_bounded']} refused calls are counted and have no row of it"
        for e in entries
        if "log_rows_bounded" in e
    ]
    lines += [
        f"{e['target']}: errors {', '.join(f'{k} {n}' for k, n in e['errors_by_kind'].items())}"
        for e in entries
        if e.get("errors_by_kind")
    ]
    lines += [f"{e['target']}: absent: {e['absent']}" for e in entries if "absent" in e]
    return "".join(f'<p class="soft">{escape(line)}</p>' for line in lines)
