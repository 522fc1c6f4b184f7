"""Line charts as SVG, without a plotting library: quick to write, and light or dark as the reader's system is."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from ridgeline.report.statistics import Floats
from ridgeline.report.text import tick_labels

STYLE = """
:root { --paper: #ffffff; --ink: #1b222c; --quiet: #5c6675; --rule: #e5e8ec;
  --s0: #2560b4; --s1: #b8570f; --s2: #2b7a4b; --s3: #8347a5; --good: #21703f; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181e; --ink: #e4e8ee; --quiet: #98a2b1; --rule: #2a313b;
    --s0: #7fb0f5; --s1: #eba25f; --s2: #74c695; --s3: #c795e3; --good: #74c695; } }
.chart { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: var(--quiet);
  font-variant-numeric: tabular-nums; }
.chart path { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.chart .grid { stroke: var(--rule); } .chart .axis { stroke: var(--quiet); stroke-opacity: .6; }
.chart .name { fill: var(--ink); font-weight: 600; } .chart .middle { text-anchor: middle; }
.chart .end { text-anchor: end; } .chart .centre { stroke-width: 2px; } .chart .dot { stroke-width: 6px; }
.chart .bar { stroke: var(--quiet); stroke-dasharray: 5 4; stroke-linecap: butt; }
.chart .halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
.chart .dashed { stroke-dasharray: 5 11; stroke-linecap: butt; }
.chart .seeds { stroke-width: .8px; stroke-opacity: .28; }
.chart path.band { stroke: none; fill-opacity: .17; }
.chart .s0 { stroke: var(--s0); } .chart .s1 { stroke: var(--s1); }
.chart .s2 { stroke: var(--s2); } .chart .s3 { stroke: var(--s3); }
.chart .f0 { fill: var(--s0); } .chart .f1 { fill: var(--s1); }
.chart .f2 { fill: var(--s2); } .chart .f3 { fill: var(--s3); }
"""
PALETTE = 4
LIMIT = 1e300  # beyond it, the difference of two values may not be a float


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """One quantity over steps: x [K], its centre and interval [K] over seeds, the seeds' own lines [S, K].

    A `dashed` centre lets what it runs over show through.
    """

    name: str
    x: NDArray[np.int64]
    centre: Floats
    low: Floats
    high: Floats
    lines: Floats
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class _Frame:
    """The plot area in pixels (y points down) and the data it shows: x in [0, last], y in [bottom, top]."""

    left: int
    right: int
    ceiling: int
    floor: int
    last: float
    bottom: float
    top: float

    def across(self, x: Floats | NDArray[np.int64]) -> Floats:
        return self.left + (self.right - self.left) / self.last * x.astype(np.float64)

    def down(self, y: Floats) -> Floats:
        share = (y.clip(-LIMIT, LIMIT) - self.bottom) / (self.top - self.bottom)
        return self.floor - (self.floor - self.ceiling) * share


def line_chart(
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    bar: tuple[float, str] | None = None,
    width: int = 880,
    height: int = 360,
    style: str = STYLE,
) -> str:
    """A complete SVG: axes with units, grid, interval bands, faint lines of the seeds, a dashed horizontal bar.

    `bar` is its value and its label. `style=""` leaves the style sheet to the page around the chart. NaN points
    are bridged. All text is escaped.
    """
    known = [y[~np.isnan(y)] for s in series for y in (*s.lines, s.centre, s.low, s.high)]
    heights = np.concatenate([*known, [bar[0]] if bar else []])
    bottom, top = _range(heights.clip(-LIMIT, LIMIT))
    last = max((float(s.x[-1]) for s in series if len(s.x)), default=0.0)
    x_ticks = ticks(0.0, last, (width - 80) // 110) if last else np.zeros(0)
    y_ticks = ticks(bottom, top, height // 60) if len(heights) else np.zeros(0)
    widest = max(map(len, tick_labels(y_ticks)), default=0)
    frame = _Frame(12 + 7 * widest, width - 18, 32, height - 44, last or 1.0, bottom, top)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" viewBox="0 0 {width} {height}">',
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>",
        f"<style>{style}</style>" if style else "",
        *_axes(frame, x_ticks, y_ticks),
        _text(0, 14, y_label, "name"),
        _text((frame.left + frame.right) / 2, height - 6, x_label, "middle"),
        *_marks(frame, series),
    ]
    if bar:
        y = float(frame.down(np.array([bar[0]]))[0])
        parts.append(_path("bar", f"M{frame.left} {y:.1f}H{frame.right}"))
        parts.append(_text(frame.left + 6, y - 6 if y > frame.ceiling + 14 else y + 16, bar[1], "halo"))
    if len(series) > 1:
        marks = ("╌" if s.dashed else "●" for s in series)
        names = (
            f'<tspan class="f{i % PALETTE}">{mark}</tspan> {escape(s.name)}'
            for i, (mark, s) in enumerate(zip(marks, series, strict=True))
        )
        parts.append(f'<text x="{frame.right}" y="14" class="end">{"&#160;&#160; ".join(names)}</text>')
    if not any(map(len, known)):
        parts.append(_text((frame.left + frame.right) / 2, height / 2, "no values yet", "middle"))
    return "\n".join(filter(None, parts)) + "</svg>"


def _axes(frame: _Frame, x_ticks: Floats, y_ticks: Floats) -> Iterator[str]:
    columns, rows = frame.across(x_ticks), frame.down(y_ticks)
    yield _path("grid", "".join(f"M{frame.left} {y:.1f}H{frame.right}" for y in rows))
    yield _path(
        "axis",
        f"M{frame.left} {frame.floor}H{frame.right}" + "".join(f"M{x:.1f} {frame.floor}v4" for x in columns),
    )
    for y, label in zip(rows, tick_labels(y_ticks), strict=True):
        yield _text(frame.left - 8, y + 4, label, "end")
    for x, label in zip(columns, tick_labels(x_ticks), strict=True):
        yield _text(x, frame.floor + 18, label, "middle")


def _marks(frame: _Frame, series: Sequence[Series]) -> Iterator[str]:
    """Bands and the seeds' lines of every series first, the centre lines above them all."""
    for index, s in enumerate(series):
        x = frame.across(s.x)
        if np.any(s.high > s.low):
            yield _path(f"band f{index % PALETTE}", _band(x, frame.down(s.low), frame.down(s.high)))
        if len(s.lines) > 1:
            yield _path(f"seeds s{index % PALETTE}", "".join(_line(x, frame.down(line)) for line in s.lines))
    for index, s in enumerate(series):
        kind = "centre dot" if len(s.x) <= 1 else "centre dashed" if s.dashed else "centre"
        yield _path(f"{kind} s{index % PALETTE}", _line(frame.across(s.x), frame.down(s.centre)))


def ticks(low: float | int, high: float | int, most: int) -> Floats:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], about `most` of them."""
    raw = (high - low) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10, 20) if m * power >= 0.8 * raw)
    slack = 1e-9  # keeps a tick that rounding put just outside
    first, last = math.ceil(low / step - slack), math.floor(high / step + slack)
    return np.arange(first, last + 1, dtype=np.float64) * step


def _range(values: Floats) -> tuple[float, float]:
    """The ends of an axis around the values, with some air; it starts at 0 if they come near it from above."""
    low, high = float(values.min(initial=LIMIT)), float(values.max(initial=-LIMIT))
    if low > high:
        return 0.0, 1.0
    air = 0.05 * (high - low)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        air = 0.1 * abs(high) or 0.5
    return (0.0 if 0 <= low < 0.3 * high else low - air), high + air


def _line(x: Floats, y: Floats) -> str:
    known = ~np.isnan(y)
    points = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x[known], y[known], strict=True))
    return f"M{points}{'' if 'L' in points else 'h0'}" if points else ""  # h0 draws a lone point as a dot


def _band(x: Floats, low: Floats, high: Floats) -> str:
    known = ~np.isnan(low)
    return _line(np.append(x[known], x[known][::-1]), np.append(low[known], high[known][::-1])) + "Z"


def _path(kind: str, data: str) -> str:
    return f'<path class="{kind}" d="{data}"/>' if data else ""


def _text(x: float | int, y: float | int, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'
