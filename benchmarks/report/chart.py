"""Charts as inline SVG: drawn here, so that a report is one file and needs nothing else."""

import math
from html import escape
from typing import Final, NamedTuple

_WIDTH: Final = 720
_BAR_PX: Final = 20
_GAP_PX: Final = 8
_LABEL_PX: Final = 120
_VALUE_PX: Final = 90
_HEIGHT: Final = 300
_LEFT: Final = 60
_RIGHT: Final = 130
_TOP: Final = 14
_BOTTOM: Final = 42
_CLASSES: Final = ("c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7")
_EMPTY: Final = '<p class="none">Nothing was measured.</p>'


class Bar(NamedTuple):
    """One bar. `low`, `high`: the range of the repeats. `strong`: the one the page is about."""

    label: str
    value: float
    low: float
    high: float
    strong: bool = False
    doubtful: bool = False


def draw_bars(bars: list[Bar], unit: str) -> str:
    """Return horizontal bars from 0, each with its value and the range of its repeats."""
    if not bars:
        return _EMPTY
    top = max(max(bar.high, bar.value) for bar in bars) or 1.0
    room = _WIDTH - _LABEL_PX - _VALUE_PX
    height = len(bars) * (_BAR_PX + _GAP_PX)
    parts = [_open(_WIDTH, height, f"{len(bars)} bars in {unit}")]
    for row, bar in enumerate(bars):
        y = row * (_BAR_PX + _GAP_PX)
        middle = y + _BAR_PX / 2
        width = max(1.0, room * bar.value / top)
        kind = "strong" if bar.strong else "plain"
        low, high = (_LABEL_PX + room * edge / top for edge in (bar.low, bar.high))
        mark = " ?" if bar.doubtful else ""
        parts.append(
            f'<text class="label" x="{_LABEL_PX - 8}" y="{middle + 4:.1f}" '
            f'text-anchor="end">{escape(bar.label)}</text>'
            f'<rect class="{kind}{" doubtful" if bar.doubtful else ""}" x="{_LABEL_PX}" y="{y}" '
            f'width="{width:.1f}" height="{_BAR_PX}" rx="2"/>'
            f'<path class="range" d="M{low:.1f} {middle}H{high:.1f}"/>'
            f'<text x="{max(_LABEL_PX + width, high) + 6:.1f}" y="{middle + 4:.1f}">'
            f"{_number(bar.value)} {escape(unit)}{mark}</text>"
        )
    return "".join(parts) + "</svg>"


Series = dict[str, list[tuple[float, float]]]


def draw_lines(series: Series, x_label: str, y_label: str, *, log_y: bool = False) -> str:
    """Return a line for each name over its points; the names stand at the right."""
    points = [point for line in series.values() for point in line]
    if not points:
        return _EMPTY
    x_top = max(x for x, _ in points) or 1.0
    scale_y, ticks = _scale([y for _, y in points], log=log_y)
    across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + across * x / x_top, _TOP + down * (1 - scale_y(y))

    parts = [_open(_WIDTH, _HEIGHT, f"{y_label} over {x_label}")]
    for tick in ticks:
        _, y_px = place(0, tick)
        parts.append(
            f'<path class="grid" d="M{_LEFT} {y_px:.1f}H{_WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{y_px + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
        )
    for tick in _steps(x_top):
        x_px, _ = place(tick, ticks[0])
        parts.append(
            f'<text x="{x_px:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
            f"{_number(tick)}</text>"
        )
    parts.append(
        f'<text class="axis" x="{_LEFT + across / 2}" y="{_HEIGHT - 6}" text-anchor="middle">'
        f'{escape(x_label)}</text><text class="axis" x="{_LEFT}" y="10">{escape(y_label)}</text>'
    )
    ends: list[float] = []
    for number, (name, line) in enumerate(series.items()):
        if not line:
            continue
        kind = _CLASSES[number % len(_CLASSES)]
        placed = [place(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in placed)
        label_y = _free(ends, placed[-1][1] + 4)
        parts.append(
            f'<g class="{kind}"><polyline points="{path}"/>{dots}'
            f'<text x="{placed[-1][0] + 8:.1f}" y="{label_y:.1f}">{escape(name)}</text></g>'
        )
    return "".join(parts) + "</svg>"


def _open(width: int, height: int, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">'
    )


class _Scale(NamedTuple):
    low: float
    high: float
    log: bool

    def __call__(self, value: float) -> float:
        if not self.log:
            return value / self.high
        share = math.log10(max(value, self.low) / self.low)
        return share / math.log10(self.high / self.low)


def _scale(values: list[float], *, log: bool) -> tuple[_Scale, list[float]]:
    """Return where a value lies between bottom (0) and top (1), and the ticks to draw."""
    if not log:
        steps = _steps(max(values) or 1.0)
        return _Scale(0.0, max(*values, steps[-1]), log=False), steps
    positive = [value for value in values if value > 0] or [1.0]
    low = 10.0 ** math.floor(math.log10(min(positive)))
    high = 10.0 ** math.ceil(math.log10(max(positive)))
    if high <= low:
        high = low * 10
    decades = round(math.log10(high / low))
    return _Scale(low, high, log=True), [low * 10.0**n for n in range(decades + 1)]


def _steps(top: float) -> list[float]:
    """Return round numbers from 0 up to `top`, four to eight of them."""
    power = 10.0 ** math.floor(math.log10(top))
    step = next(
        power * part for part in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if top / (power * part) <= 8
    )
    return [step * n for n in range(int(top / step) + 1)]


def _free(taken: list[float], wanted: float) -> float:
    """Return a height for a label that no other label has, near the wanted one."""
    while any(abs(wanted - other) < 13 for other in taken):
        wanted += 13
    taken.append(wanted)
    return wanted


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
