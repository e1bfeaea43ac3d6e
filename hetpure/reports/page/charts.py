"""Curves as inline SVG, coloured by the page's style sheet, told apart by dashes as well as by colour."""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from hetpure.runs.read import Method
from hetpure.runs.records import Record
from hetpure.runs.results import accuracy

STYLES = 6
"""Lines in one chart, at most: more cannot be told apart."""

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 40

POINTS = 300
"""Points of a line, at most."""


@dataclass(frozen=True)
class Line:
    """One line of a chart, perhaps with a band around it.

    Attributes:
        name: for the legend.
        x: positions.
        y: values.
        low: lower edge of the band, or empty.
        high: upper edge of the band, or empty.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Chart:
    """Up to ``STYLES`` lines on common axes.

    Attributes:
        lines: what is drawn.
        x_label: what runs to the right.
        y_label: what runs up.
        top: end of the y axis; None for what the values need.
    """

    lines: Sequence[Line]
    x_label: str
    y_label: str
    top: float | None = None

    @property
    def summary(self) -> str:
        """The chart in words, for those who do not see it."""
        ends = "; ".join(f"{line.name}: from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in self.lines)
        return f"{self.y_label} by {self.x_label}. {ends}"

    @property
    def svg(self) -> Markup:
        """The drawing, without its legend."""
        xs = [x for line in self.lines for x in line.x]
        ys = [y for line in self.lines for y in (*line.y, *line.low, *line.high)]
        x_ticks = MaxNLocator(6, integer=True).tick_values(min(xs), max(xs))
        y_ticks = MaxNLocator(5).tick_values(min(0.0, *ys), self.top if self.top is not None else max(ys))
        x0, x1 = min(xs), max(max(xs), min(xs) + 1)
        y0, y1 = float(y_ticks[0]), self.top if self.top is not None else float(y_ticks[-1])

        def place(x: float, y: float) -> tuple[float, float]:
            right = LEFT + (WIDTH - LEFT - RIGHT) * (x - x0) / (x1 - x0)
            return right, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y0) / (y1 - y0)

        parts = [Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, self.summary)]
        for tick in y_ticks:
            if y0 <= tick <= y1:
                _, height = place(x0, tick)
                parts.append(_drawn('<path class="grid" d="M{:.1f} {:.1f}H{}"/>', LEFT, height, WIDTH - RIGHT))
                parts.append(_drawn('<text class="y" x="{}" y="{:.1f}">{:g}</text>', LEFT - 6, height + 4, tick))
        for tick in x_ticks:
            if x0 <= tick <= x1:
                across, _ = place(tick, y0)
                parts.append(
                    _drawn('<text class="x" x="{:.1f}" y="{}">{:g}</text>', across, HEIGHT - BOTTOM + 16, tick)
                )
        parts.append(_drawn('<path class="axis" d="M{} {}H{}"/>', LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT))
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(_drawn('<text class="x" x="{}" y="{}">{}</text>', middle, HEIGHT - 6, self.x_label))
        for style, line in enumerate(self.lines):
            if line.low:
                edge = [*zip(line.x, line.high, strict=True), *reversed([*zip(line.x, line.low, strict=True)])]
                parts.append(_drawn('<path class="band s{}" d="{}Z"/>', style, _path([place(*p) for p in edge])))
        for style, line in enumerate(self.lines):
            points = [place(*p) for p in zip(line.x, line.y, strict=True)]
            parts.append(
                _drawn('<path class="line s{}" d="{}"><title>{}</title></path>', style, _path(points), line.name)
            )
            if len(points) <= 12:
                dots = [_drawn('<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="2.5"/>', style, *p) for p in points]
                parts.extend(dots)
        return Markup("").join([*parts, Markup("</svg>")])


def loss_charts(methods: Sequence[Method]) -> list[Chart]:
    """The attacker's loss by iteration: the mean over images, and the band that holds the middle 80 % of them."""
    lines = []
    for method in methods:
        columns = _columns([record.attack_loss for record in method.one_shot])
        if len(columns) > 1:
            low, high = ([float(np.quantile(column, q)) for column in columns] for q in (0.1, 0.9))
            lines.append(_thinned(Line(method.name, range(len(columns)), _means(columns), low, high)))
    return [Chart(of, "iteration", "attacker's loss") for of in _split(lines)]


def draws_charts(methods: Sequence[Method]) -> list[Chart]:
    """The share of the attacker's own draws that were still right, by iteration: mean over images, in percent."""
    lines = []
    for method in methods:
        columns = _columns([record.attack_correct for record in method.one_shot])
        if len(columns) > 1:
            means = [100.0 * mean for mean in _means(columns)]
            lines.append(_thinned(Line(method.name, range(len(columns)), means)))
    return [Chart(of, "iteration", "attacker's draws still right, %", 100.0) for of in _split(lines)]


def submissions_charts(methods: Sequence[Method]) -> list[Chart]:
    """Robust accuracy by how often the attacker may submit an image, with Wilson intervals, in percent."""
    lines = []
    for method in methods:
        evaluations = {row.protocol: 0 for row in method.rows}
        for record in method.records:
            evaluations[record.protocol] = max(evaluations[record.protocol], len(record.adversarial))
        name, most = max(evaluations.items(), key=lambda pair: pair[1])
        of = [record for record in method.records if record.protocol == name]
        if most > 1:
            found = [accuracy([_cut(record, n) for record in of], "adversarial") for n in range(1, most + 1)]
            figures = ([100.0 * getattr(a, end) for a in found] for end in ("value", "low", "high"))
            lines.append(Line(method.name, range(1, most + 1), *figures))
    return [Chart(of, "submissions of the same image", "robust accuracy, %", 100.0) for of in _split(lines)]


def _cut(record: Record, submissions: int) -> Record:
    """The record, had there been fewer submissions."""
    return dataclasses.replace(record, adversarial=record.adversarial[:submissions])


def _columns(curves: Sequence[Sequence[float]]) -> list[list[float]]:
    """The values at each iteration; attacks that leave broken samples alone have curves of different lengths."""
    columns = itertools.zip_longest(*(curve for curve in curves if curve))
    return [[value for value in column if value is not None] for column in columns]


def _means(columns: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(column) for column in columns]


def _thinned(line: Line) -> Line:
    if len(line.x) <= POINTS:
        return line
    chosen = np.linspace(0, len(line.x) - 1, POINTS).round().astype(int).tolist()
    return Line(line.name, *([values[k] for k in chosen if values] for values in (line.x, line.y, line.low, line.high)))


def _split(lines: Sequence[Line]) -> list[list[Line]]:
    return [list(lines[k : k + STYLES]) for k in range(0, len(lines), STYLES)]


def _drawn(template: str, *values: object) -> Markup:
    """The template, with values escaped."""
    return Markup(template).format(*values)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
