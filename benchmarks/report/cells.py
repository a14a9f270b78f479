"""Figures as text, the same in every table: what is unknown is blank, and never 0."""

from typing import Any, Final

DISTURBED: Final = "disturbed"
"""In place of an added latency below zero: no target answers before its upstream does."""


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with thousands set apart; "" where it is not known."""
    return "" if value is None else f"{value:,.{digits}f}"


def added(entry: dict[str, Any], percentile: str, digits: int = 2) -> str:
    """Return an added latency in ms, DISTURBED where the direct run was slower, "" = unknown."""
    value = entry.get("added_latency_ms", {}).get(percentile)
    if percentile in entry.get("added_latency_disturbed", ()) or (value is not None and value < 0):
        return DISTURBED
    return number(value, digits)


def with_spread(entry: dict[str, Any], field: str, digits: int) -> str:
    """Return a figure and the range of its repeats."""
    value = entry.get(field)
    text = number(value, digits)
    low, high = entry.get("spread", {}).get(field, (value, value))
    return text if low == high else f"{text} ({low:.{digits}f}-{high:.{digits}f})"


def with_workers(entry: dict[str, Any], field: str, digits: int = 0) -> str:
    """Return CPU of the whole tree, that of the workers alone in brackets where it differs."""
    text = number(entry.get(field), digits)
    alone = number(entry.get(f"worker_{field}"), digits)
    return text if alone in ("", text) else f"{text} ({alone})"
