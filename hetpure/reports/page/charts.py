"""Curves for the page; its template draws them as SVG and its style sheet colours them."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from hetpure.runs.convergence import budgets
from hetpure.runs.read import Method
from hetpure.runs.results import accuracy

STYLES = 6  # lines in one chart, at most: more could not be told apart
POINTS = 300  # points of a line, at most
LEFT, RIGHT, TOP, BOTTOM = 46, 430, 10, 210  # edges of the axes in the template's drawing of 440 x 250


@dataclass(frozen=True)
class Line:
    """One line of a chart, with a band from ``low`` to ``high`` around it unless they are empty."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Chart:
    """Up to ``STYLES`` lines on common axes."""

    title: str
    text: str  # what to know about it
    x_label: str
    y_label: str
    lines: Sequence[Line]
    top: float | None = None  # end of the vertical axis; None to fit the values

    @property
    def summary(self) -> str:
        """The chart in words, for people who do not see it."""
        ends = "; ".join(f"{line.name}: from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in self.lines)
        return f"{self.y_label} by {self.x_label}. {ends}"

    @property
    def drawing(self) -> dict[str, Any]:
        """Positions in the SVG: the ticks of both axes; functions of a line: its path, band and dots."""
        xs = [x for line in self.lines for x in line.x]
        ys = [y for line in self.lines for y in (*line.y, *line.low, *line.high)]
        x_ticks = MaxNLocator(6, integer=True).tick_values(min(xs), max(xs))
        y_ticks = MaxNLocator(5).tick_values(min(0.0, *ys), max(ys) if self.top is None else self.top)
        x0, x1 = min(xs), max(max(xs), min(xs) + 1)
        y0, y1 = y_ticks[0], y_ticks[-1] if self.top is None else self.top

        def at(x: float, y: float) -> tuple[float, float]:
            across, up = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
            return round(LEFT + (RIGHT - LEFT) * across, 1), round(BOTTOM - (BOTTOM - TOP) * up, 1)

        def path(xs: Sequence[float], ys: Sequence[float]) -> str:
            return "M" + "L".join("{} {}".format(*at(x, y)) for x, y in zip(xs, ys, strict=True))

        return {
            "x_ticks": [(at(tick, y0)[0], f"{tick:g}") for tick in x_ticks if x0 <= tick <= x1],
            "y_ticks": [(at(x0, tick)[1], f"{tick:g}") for tick in y_ticks if y0 <= tick <= y1],
            "path": lambda line: path(line.x, line.y),
            "band": lambda line: path([*line.x, *reversed(line.x)], [*line.high, *reversed(line.low)]) + "Z",
            "dots": lambda line: [at(x, y) for x, y in zip(line.x, line.y, strict=True)] if len(line.x) <= 12 else [],
        }


def loss_charts(methods: Sequence[Method]) -> list[Chart]:
    """The attacker's loss by iteration: mean over images, and a band around the middle 80 % of them."""
    lines = []
    for name, columns in _columns(methods, "attack_loss"):
        low, high = ([float(np.quantile(column, q)) for column in columns] for q in (0.1, 0.9))
        lines.append(_line(name, [float(np.mean(column)) for column in columns], low, high))
    text = "mean over the images still attacked; the band holds the middle 80 % of them"
    return _charts("Attacker's loss", text, "iteration", "attacker's loss", lines)


def correct_charts(methods: Sequence[Method]) -> list[Chart]:
    """The share of the attacker's own draws that were still right, by iteration: mean over images, in percent."""
    curves = _columns(methods, "attack_correct")
    lines = [_line(name, [100.0 * float(np.mean(column)) for column in columns]) for name, columns in curves]
    text = "mean share of the attacker's own draws still right, of the images still attacked; the defender's decide"
    return _charts("Right under attack", text, "iteration", "attacker's draws still right, %", lines, 100.0)


def budget_charts(methods: Sequence[Method]) -> list[Chart]:
    """Robust accuracy by how much the attacker computes, with Wilson intervals, in percent; of methods that denoise."""
    lines = []
    for method in methods:
        found = budgets(method.one_shot, method.rows[0].conditions.gradient_calls)
        if not found or not found[-1].calls:
            continue
        values, low, high = ([100.0 * getattr(b.robust, end) for b in found] for end in ("value", "low", "high"))
        lines.append(Line(method.name, [budget.calls or 0 for budget in found], values, low, high))
    text = "robust accuracy after shorter attacks and the whole one, with 95 % intervals; level at its end: converged"
    return _charts("Convergence", text, "denoiser calls of the attack, an image", "robust accuracy, %", lines, 100.0)


def submissions_charts(methods: Sequence[Method]) -> list[Chart]:
    """Robust accuracy by how often the attacker may submit an image, with Wilson intervals, in percent."""
    lines = []
    for method in methods:
        longest = max(method.records, key=lambda record: len(record.adversarial), default=None)
        if longest is None or len(longest.adversarial) < 2:
            continue
        records = [record for record in method.records if record.protocol == longest.protocol]
        numbers = range(1, len(longest.adversarial) + 1)
        cut = ([dataclasses.replace(r, adversarial=r.adversarial[:n]) for r in records] for n in numbers)
        accuracies = [accuracy(fewer, "adversarial") for fewer in cut]
        values, low, high = ([100.0 * getattr(a, end) for a in accuracies] for end in ("value", "low", "high"))
        lines.append(Line(method.name, numbers, values, low, high))
    text = "robust accuracy if the same image may be submitted this many times, with 95 % intervals"
    return _charts("Submissions", text, "submissions of the same image", "robust accuracy, %", lines, 100.0)


def thinned(values: Sequence[float], most: int) -> Sequence[float]:
    """At most so many of the values, evenly spread, with the first and the last."""
    if len(values) <= most:
        return values
    return [values[k] for k in np.linspace(0, len(values) - 1, most).round().astype(int)]


def _columns(methods: Sequence[Method], field: str) -> Iterator[tuple[str, list[list[float]]]]:
    """Each method's values at each iteration; attacks that skip broken samples leave curves of different lengths."""
    for method in methods:
        columns = itertools.zip_longest(*(curve for record in method.one_shot if (curve := getattr(record, field))))
        values = [[value for value in column if value is not None] for column in columns]
        if len(values) > 1:
            yield method.name, values


def _line(name: str, *curves: Sequence[float]) -> Line:
    """A line by iteration."""
    return Line(name, *(thinned(curve, POINTS) for curve in (range(len(curves[0])), *curves)))


def _charts(
    title: str, text: str, x_label: str, y_label: str, lines: list[Line], top: float | None = None
) -> list[Chart]:
    parts = [lines[k : k + STYLES] for k in range(0, len(lines), STYLES)]
    names = [f"{title} ({k} of {len(parts)})" if len(parts) > 1 else title for k in range(1, len(parts) + 1)]
    return [Chart(name, text, x_label, y_label, part, top) for name, part in zip(names, parts, strict=True)]
