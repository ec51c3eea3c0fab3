"""Charts as inline SVG: curves over the steps of a run, and dots with intervals. Text in, text out.

Colours are CSS variables (`--s0` ... of the page), so a chart follows the page into the dark. Every line also has its
own dash and its own label at its right end, so that colour is never the only sign.
"""

import html
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

COLOURS = 8  # of `--s0` to `--s7`
_DASHES = ("", "7 3", "2 3")
_WIDTH, _DOTS_WIDTH = 380, 290
_RAW, _SMOOTH = 240, 120  # at most so many points and line segments are drawn of one line and phase


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of the horizontal axis: its steps from `first` to `last`, and how long they took."""

    name: str
    title: str
    first: int
    last: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """One metric: by phase, its steps and values, float64 [n] each."""

    label: str
    colour: int
    points: Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One row of a dot chart: a mean with its interval. `kind` is a CSS class: own, best, other or published."""

    label: str
    kind: str
    mean: float
    low: float
    high: float
    colour: int | None = None  # of the mark; None: that of its kind


def number(value: float, percent: bool = False) -> str:
    """A measured value to three digits: `97.3 %`, `65.0 %`, `1,070`, `0.0123`, `1e-6`."""
    share = abs(value) * 100
    if percent:
        digits = f"{value * 100:.0f}" if share >= 99.95 else f"{value * 100:#.{3 if share >= 1 else 2}g}"
        text = ("\u22480" if 0 < share < 0.01 else digits if share else "0") + "\u202f%"
    elif value == 0:
        text = "0"
    elif 1e-3 <= abs(value) < 100:
        text = f"{value:#.3g}".removesuffix(".")
    elif abs(value) >= 1e6 or abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    else:
        text = f"{value:,.0f}"
    return text.replace("-", "\u2212")


def brief(value: float, percent: bool = False) -> str:
    """The same without zeros at its end: for ticks, and for what others have published."""
    digits, space, unit = number(value, percent).partition("\u202f")
    return (digits.rstrip("0").rstrip(".") if "." in digits and "e" not in digits else digits) + space + unit


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 round values within [low, high], at equal distances of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def smooth(values: np.ndarray) -> np.ndarray:
    """A centred moving average, float64 [n] -> float64 [n], over about an eighth of the values."""
    reach = min(len(values) // 16, 50)
    kernel = np.ones(2 * reach + 1)
    return (
        np.convolve(values, kernel, "full")[reach : reach + len(values)]
        / np.convolve(np.ones(len(values)), kernel, "full")[reach : reach + len(values)]
    )


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """The vertical axis: the shown range, and where a value lies on it (0 at the bottom, 1 at the top)."""

    low: float
    high: float
    log: bool

    def place(self, value: float) -> float:
        if self.log:
            value, low, high = math.log(max(value, self.low)), math.log(self.low), math.log(self.high)
        else:
            low, high = self.low, self.high
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def ticks(self) -> list[float]:
        if not self.log:
            return ticks(self.low, self.high, 4)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        fits: list[float] = []
        for parts in ((1,), (1, 3), (1, 2, 5)):  # the finest that does not crowd
            tried = [m * 10.0**d for d in decades for m in parts if self.low <= m * 10.0**d <= self.high]
            fits = tried if len(tried) <= 6 else fits
        return fits


def _axis(lines: Sequence[Line], *, percent: bool, log: bool, full: bool) -> _Axis:
    """The range that shows every smoothed line whole, and all but the wildest 1 % of the points."""
    series = [values for line in lines for _, values in line.points.values()]
    every = np.concatenate([*series, *(smooth(values) for values in series)])
    calm = np.concatenate([np.percentile(np.concatenate(series), [0.5, 99.5]), *(smooth(v) for v in series)])
    low, high = float(calm.min()), float(calm.max())
    if log and every.min() > 0 and high > 4 * low:
        return _Axis(low=low * 0.9, high=high * 1.1, log=True)
    low, high = min(low, 0.0), max(high, 1.0 if percent and full else 0.0)
    if high - low < 1e-30:  # a constant zero, or nothing that can be told from it
        high = low + 1.0
    margin = 0.04 * (high - low)
    return _Axis(
        low=low - margin * (low < 0), high=high + margin * (high > 0 and not (percent and high == 1.0)), log=False
    )


def curves(
    lines: Sequence[Line], phases: Sequence[Phase], *, percent: bool = False, log: bool = False, full: bool = True
) -> str:
    """Lines over steps, phases side by side: a smoothed line over faint raw points, named at its right end.

    Phases are as wide as the time they took (within limits), each with its own steps. `percent` writes 0.5 as 50 %,
    with `full` up to 100 %; `log` takes a logarithmic axis where the values allow it.
    """
    left, right, top, bottom = 42.0, _WIDTH - 92.0, 20.0, 172.0
    shown = [p for p in phases if any(p.name in line.points for line in lines)]
    axis = _axis(lines, percent=percent, log=log, full=full)
    spans = _spans(shown, left, right)

    def y(value: float) -> float:
        return bottom - (bottom - top) * axis.place(value)

    parts = [_bands(shown, spans, top, bottom), _rules(axis, y, left, right, percent), _steps(shown, spans, bottom)]
    ends = []
    for i, line in enumerate(lines):
        dash = _DASHES[i % len(_DASHES)]
        last = (0.0, 0.0, 0.0)
        for phase, span in zip(shown, spans, strict=True):
            if phase.name in line.points:
                text, last = _trace(line, phase, span, y, dash)
                parts.append(text)
        ends.append((line, last, dash))
    parts.append(_labels(ends, right, top, bottom, percent))
    names = html.escape(", ".join(line.label for line in lines))
    return f'<svg viewBox="0 0 {_WIDTH} 204" role="img" aria-label="Curves: {names}">{"".join(parts)}</svg>'


def _spans(phases: Sequence[Phase], left: float, right: float) -> list[tuple[float, float]]:
    """From where to where each phase lies: by its share of the time, at least a fifth."""
    total = sum(phase.seconds for phase in phases) or 1.0
    shares = np.maximum([phase.seconds / total for phase in phases], min(0.22, 1 / max(len(phases), 1)))
    edges = left + (right - left) * np.concatenate([[0.0], np.cumsum(shares / shares.sum())])
    return [(float(a), float(b)) for a, b in itertools.pairwise(edges)]


def _across(phase: Phase, span: tuple[float, float], step: float) -> float:
    inner = (span[0] + 3, span[1] - 3)  # the outermost points stay clear of the borders
    length = phase.last - phase.first
    return (inner[0] + inner[1]) / 2 if not length else inner[0] + (inner[1] - inner[0]) * (step - phase.first) / length


def _bands(phases: Sequence[Phase], spans: Sequence[tuple[float, float]], top: float, bottom: float) -> str:
    """A band a phase, every other one shaded, with its title above and a line where the next begins."""
    parts = []
    for i, (phase, (start, end)) in enumerate(zip(phases, spans, strict=True)):
        band = f'x="{start:.1f}" y="{top:g}" width="{end - start:.1f}" height="{bottom - top:g}"'
        parts.append(f'<rect class="band{i % 2}" {band}/>')
        border = f'<path class="border" d="M{start:.1f} {top - 14:g}V{bottom:g}"/>' if i else ""
        parts.append(f'{border}<text class="phase" x="{start + 4:.1f}" y="{top - 6:g}">')
        parts.append(f"{_short(phase.title, max(int((end - start) / 5.3), 1))}</text>")
    return "".join(parts)


def _rules(axis: _Axis, y: Callable[[float], float], left: float, right: float, percent: bool) -> str:
    parts = []
    for value in axis.ticks():
        at, zero = y(value), " zero" if value == 0 else ""
        parts.append(f'<path class="grid{zero}" d="M{left:g} {at:.1f}H{right:g}"/>')
        parts.append(f'<text class="tick" x="{left - 5:g}" y="{at + 3.5:.1f}" text-anchor="end">')
        parts.append(f"{brief(value, percent)}</text>")
    return "".join(parts)


def _steps(phases: Sequence[Phase], spans: Sequence[tuple[float, float]], bottom: float) -> str:
    """The horizontal axis: each phase counts its own steps."""
    parts = []
    for phase, span in zip(phases, spans, strict=True):
        width, free = span[1] - span[0], span[0]
        for step in ticks(phase.first, phase.last, max(1, int(width // 44))) or [phase.last]:
            at, text = _across(phase, span, step), f"{step:,g}"
            half = 3.0 * len(text)
            if step == int(step) and at - half >= free - 4:
                parts.append(f'<path class="mark" d="M{at:.1f} {bottom:g}v4"/>')
                parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 15:g}" text-anchor="middle">{text}</text>')
                free = at + half + 6
    middle = (spans[0][0] + spans[-1][1]) / 2
    parts.append(f'<text class="tick" x="{middle:.1f}" y="{bottom + 29:g}" text-anchor="middle">')
    return "".join(parts) + "step of the phase</text>"


def _trace(
    line: Line, phase: Phase, span: tuple[float, float], y: Callable[[float], float], dash: str
) -> tuple[str, tuple[float, float, float]]:
    """One line in one phase, and where it ends: (x, y, value)."""
    steps, values = line.points[phase.name]
    line_values = smooth(values)
    raw = _thin(len(values), _RAW)
    points = "".join(f"M{_across(phase, span, steps[i]):.1f} {y(values[i]):.1f}h0" for i in raw)
    kept = _thin(len(values), _SMOOTH)
    path = "L".join(f"{_across(phase, span, steps[i]):.1f} {y(line_values[i]):.1f}" for i in kept)
    style = f'style="stroke:var(--s{line.colour})"'
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    drawn = f'<path class="raw" {style} d="{points}"/><path class="line" {style}{dashed} d="M{path}h0"/>'
    if len(values) == 1:  # of which a line shows nothing
        at = f'cx="{_across(phase, span, steps[0]):.1f}" cy="{y(values[0]):.1f}"'
        drawn += f'<circle style="fill:var(--s{line.colour})" {at} r="2.2"/>'
    end = float(line_values[-1])
    return drawn, (_across(phase, span, steps[-1]), y(end), end)


def _thin(n: int, most: int) -> list[int]:
    """At most `most` indices of n, evenly, the first and the last among them."""
    return sorted({int(i) for i in np.linspace(0, n - 1, min(n, most)).round()})


def _labels(
    ends: Sequence[tuple[Line, tuple[float, float, float], str]], right: float, top: float, bottom: float, percent: bool
) -> str:
    """Each line's name and last value, beside its end, moved apart where they would overlap."""
    order = sorted(range(len(ends)), key=lambda i: ends[i][1][1])
    gap = min(26.0, (bottom - top) / max(len(ends), 1))
    places: list[float] = []
    for i in order:
        places.append(max(ends[i][1][1], places[-1] + gap if places else top + 4))
    floor = bottom - 8
    for rank in reversed(range(len(places))):
        places[rank] = min(places[rank], floor)
        floor = places[rank] - gap
    parts = []
    for i, at in zip(order, places, strict=True):
        line, (x, y, value), dash = ends[i]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        colour = f"var(--s{line.colour})"
        parts.append(f'<path class="leader" d="M{x + 2:.1f} {y:.1f}L{right:g} {y:.1f}L{right + 5:g} {at:.1f}"/>')
        parts.append(f'<path class="key" style="stroke:{colour}"{dashed} d="M{right + 5:g} {at:.1f}h14"/>')
        parts.append(f'<text class="label" style="fill:{colour}" x="{right + 23:g}" y="{at + 3:.1f}">')
        parts.append(_short(line.label))
        parts.append(f'<tspan class="last" x="{right + 23:g}" dy="12">{number(value, percent)}</tspan></text>')
    return "".join(parts)


def dots(rows: Sequence[Dot], unit: str, name: str) -> str:
    """Means with their intervals, one a row, on one axis from zero; a faint line marks the best own row."""
    left, right, top, height = 118.0, _DOTS_WIDTH - 48.0, 6.0, 20.0
    bottom = top + height * len(rows)
    low, high = min([0.0, *(r.low for r in rows)]), max(r.high for r in rows)
    high = high if high > low else low + 1.0

    def x(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    parts = []
    for value in ticks(low, high, 3):
        zero = " zero" if value == 0 else ""
        parts.append(f'<path class="grid{zero}" d="M{x(value):.1f} {top:g}V{bottom + 3:g}"/>')
        parts.append(f'<text class="tick" x="{x(value):.1f}" y="{bottom + 15:g}" text-anchor="middle">')
        parts.append(f"{brief(value)}</text>")
    parts += [f'<path class="best-line" d="M{x(r.mean):.1f} {top:g}V{bottom:g}"/>' for r in rows if r.kind == "best"]
    for i, row in enumerate(rows):
        parts.append(_dot(row, x, top + height * (i + 0.5), left))
        if i and rows[i - 1].kind != "published" and row.kind == "published":
            parts.append(f'<path class="border" d="M0 {top + height * i:g}H{_DOTS_WIDTH}"/>')
    parts.append(f'<text class="tick" x="{(left + right) / 2:g}" y="{bottom + 30:g}" text-anchor="middle">')
    parts.append(f"{html.escape(unit)}</text>")
    label = html.escape(f"{name}: " + ", ".join(f"{r.label} {number(r.mean)}" for r in rows))
    return f'<svg viewBox="0 0 {_DOTS_WIDTH} {bottom + 36:g}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _dot(row: Dot, x: Callable[[float], float], y: float, left: float) -> str:
    at, low, high = x(row.mean), x(row.low), x(row.high)
    if row.kind == "published":
        mark = f'<path class="mean" d="M{at - 5:.1f} {y:.1f}l5 -5l5 5l-5 5z"/>'
    else:
        ends = f"M{low:.1f} {y - 3.5:g}v7M{high:.1f} {y - 3.5:g}v7"
        stroke, fill = (
            ("", "") if row.colour is None else (f' style="{k}:var(--s{row.colour})"' for k in ("stroke", "fill"))
        )
        whisker = f'<path class="whisker"{stroke} d="M{low:.1f} {y:g}H{high:.1f}{ends}"/>'
        mark = f'{whisker}<circle class="mean"{fill} cx="{at:.1f}" cy="{y:g}" r="4.5"/>'
    theirs = row.kind == "published"
    mean, spread = (
        (brief(row.mean), "") if theirs else (number(row.mean), f" ({number(row.low)} to {number(row.high)})")
    )
    note = f"<title>{html.escape(row.label)}: {mean}{spread}</title>"
    return (
        f'<g class="{row.kind}">{note}<text class="row" x="{left - 8:g}" y="{y + 4:g}" text-anchor="end">'
        f"{_short(row.label, 20)}</text>{mark}"
        f'<text class="value" x="{_DOTS_WIDTH}" y="{y + 4:g}" text-anchor="end">{mean}</text></g>'
    )


def _short(text: str, most: int = 13) -> str:
    """Escaped, and cut to fit."""
    return html.escape(text if len(text) <= most else text[: most - 1] + "\u2026")
