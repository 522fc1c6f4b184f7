"""Numbers as a person reads them; shared by the page, its charts and the terminal."""

import math
from collections.abc import Iterable

import numpy as np

from ridgeline.report.statistics import Floats

MISSING = "–"


def aligned(values: Iterable[float]) -> list[str]:
    """Numbers of one column with the same decimals, four significant digits for the largest; NaN is a dash."""
    values = list(values)
    peak = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    if peak and not 1e-3 <= peak < 1e9:
        style = ".3e"
    else:
        style = f",.{min(max(3 - math.floor(math.log10(peak or 1)), 0), 6)}f"
    return [f"{v:{style}}".replace("-", "−") if math.isfinite(v) else MISSING for v in values]


def plain(value: float | int) -> str:
    """A number somebody chose, as they would write it: 475, −1.5, 10,000."""
    return f"{value:,.10g}".replace("-", "−")


def duration(seconds: float | int) -> str:
    """A time as a person says it: 0.46 s, 12.3 s, 3 min 20 s, 2 h 14 min."""
    if math.isnan(seconds):
        return MISSING
    if seconds < 99.95:
        return f"{seconds:.{2 if seconds < 9.995 else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def rate(per_second: float | int) -> str:
    """A speed to three significant digits: 125,000 steps/s."""
    if math.isnan(per_second):
        return MISSING
    return f"{float(f'{per_second:.3g}'):,.{0 if per_second >= 100 else 1}f} steps/s"


def size(count: int) -> str:
    """Bytes to three significant digits: 512 bytes, 3.4 MiB, 1.25 GiB."""
    if count < 1024:
        return counted(count, "byte")
    power = min(int(math.log2(count) // 10), 4)
    value = float(f"{count / 2 ** (10 * power):.3g}")
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f} {'KMGT'[power - 1]}iB"


def counted(number: int, noun: str) -> str:
    """A number and what it counts: 1 seed, 1,000 seeds."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def interval(count: int, low: str, high: str) -> str:
    """The spread over `count` seeds in words."""
    if count == 1:
        return "one seed, so no interval"
    return "not measured" if MISSING in (low, high) else f"95 % interval {low} to {high}"


def tick_labels(values: Floats) -> list[str]:
    """Labels of evenly spaced ticks: 0.25, 500, 20k, 1M, 3e−5; as many digits as tell neighbours apart."""
    peak = float(np.max(np.abs(values), initial=0))
    step = float(np.min(np.diff(values), initial=np.inf))
    return [_tick_label(float(value), peak, step if math.isfinite(step) else peak) for value in values]


def _tick_label(value: float, peak: float, step: float) -> str:
    if abs(value) < step / 2 or value == 0:
        return "0"
    if peak >= 1e15 or peak < 1e-3:
        digits, power = f"{value:.2e}".split("e")
        text = f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    else:
        units = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
        unit, suffix = next((u for u in units if peak >= 1e4 and abs(value) >= u[0]), (1.0, ""))
        text = f"{value / unit:.{max(0, math.ceil(-math.log10(step / unit) - 1e-9))}f}"
        text = (text.rstrip("0").rstrip(".") if suffix and "." in text else text) + suffix
    return text.replace("-", "−")
