"""The trade-off between standard and robust accuracy, over all rows of a run."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from hetpure.errors import ConfigError, require
from hetpure.reports.plots import style
from hetpure.runs.results import plain_row
from hetpure.studies.ablation import flatten
from hetpure.studies.figure import Measured, RunFigure
from hetpure.studies.finished import FinishedRun

COLUMNS = 5
"""Of the small panels."""

Point = tuple[float, float]
"""Standard and robust accuracy."""


@dataclass
class Tradeoff(RunFigure):
    """Robust against standard accuracy: every row a point, each purifier a line, and the frontier of all."""

    lines: list[str] = field(default_factory=lambda: ["purifier.name"])  # rows with the same values are one line
    protocol: str = "one-shot"

    def measure(self, run: FinishedRun, rows: Sequence[str]) -> Measured:
        methods = {method.name: method for method in run.saved.methods}
        points, norms = [], dict[str, str]()
        by_name = {name: flatten(run.rows[name]) for name in run.select(rows)}
        for key in self.lines:
            known = any(key in settings for settings in by_name.values())
            require(known, "lines", key, "a key of these rows, such as purifier.name")
        for name, settings in by_name.items():
            result = next((row for row in methods[name].rows if row.protocol == self.protocol), None)
            protocols = ", ".join(row.protocol for row in methods[name].rows)
            require(result is not None, "protocol", self.protocol, protocols)
            assert result is not None
            if result.standard.count and result.robust.count:
                # Of named code, FILE.py:NAME, the name.
                values = [str(settings[key]).rpartition(":")[2] for key in self.lines if key in settings]
                shown = {key: plain_row(result)[key] for key in ("standard", "robust")}
                if (norm := result.conditions.norm) is not None:
                    norms.setdefault(norm, name)
                points.append({"row": name, "line": ", ".join(values), **shown, "attack": result.conditions.attack})
        if not points:
            raise ConfigError(str(run.saved.path), "has no row with both accuracies")
        found = ", ".join(f"{norm} ({name})" for norm, name in norms.items())
        if len(norms) > 1:
            raise ConfigError(
                "--row", f"the rows are attacked in {found}", accepted="rows of one norm, named one by one"
            )
        best = frontier([_place(point) for point in points])
        for number, point in enumerate(points):
            point["frontier"] = number in best
        judged = {
            frozenset(r.index for r in methods[p["row"]].records if r.protocol == self.protocol and r.failure is None)
            for p in points
        }
        counts = sorted({len(images) for images in judged})
        n = " to ".join(str(count) for count in dict.fromkeys([counts[0], counts[-1]]))
        same = "the same at all points" if len(judged) == 1 else "not the same at all points"
        attacks = "; ".join(dict.fromkeys(point["attack"] for point in points))
        caption = (
            f"Robust against standard accuracy of {len(points)} rows. n = {n} images, {same}, {self.protocol}; "
            f"{attacks}. Black: the frontier, rows that none exceeds in one accuracy without being below in the other. "
            "The cross in the corner is the median 95 % Wilson interval of a point: points that are nearer cannot be "
            "told apart, and the best of many noisy points looks better than it is."
        )
        return Measured({"n": counts, "protocol": self.protocol, "points": points}, caption)

    def draw(self, measured: Measured) -> Figure:
        points = measured.numbers["points"]
        lines: dict[str, list[dict[str, Any]]] = {}
        for point in points:
            lines.setdefault(point["line"], []).append(point)
        several = len(lines) > 1
        below = math.ceil(len(lines) / COLUMNS) * 1.55 * several
        figure, drawing = style.sheet(7.6, 4.2 + below, measured.caption)
        parts = style.stacked(drawing, [4.2, below]) if several else [drawing]
        axes = parts[0].subplots()
        _draw_all(axes, lines, points)
        if several:
            _draw_each(parts[1], lines, points)
        return figure


def frontier(points: Sequence[Point]) -> list[int]:
    """Positions of the points that none dominates, by rising first value; of equal points, all."""

    def dominated(p: Point) -> bool:
        return any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)

    return sorted((i for i, point in enumerate(points) if not dominated(point)), key=lambda i: points[i])


def _place(point: Mapping[str, Any]) -> Point:
    return 100 * point["standard"]["value"], 100 * point["robust"]["value"]


def _draw_all(axes: Axes, lines: Mapping[str, Sequence[dict[str, Any]]], points: Sequence[dict[str, Any]]) -> None:
    """All points, the frontier with the names of its rows, and the size of an interval."""
    styles = zip(itertools.cycle(style.METHODS), itertools.cycle((*style.MARKERS, "<", ">", "p")), strict=False)
    for (name, own), (colour, marker) in zip(lines.items(), styles, strict=False):
        x, y = zip(*map(_place, own), strict=True)
        axes.plot(x, y, color=colour, marker=marker, ms=4, ls="none", label=name)
    best = sorted((point for point in points if point["frontier"]), key=_place)
    x, y = zip(*map(_place, best), strict=True)
    axes.plot(x, y, color=style.BLACK, lw=1.2, zorder=0)
    middle = sum(axes.get_xlim()) / 2
    for point in best:  # names lie inside, towards the middle
        side, offset = ("right", -4) if _place(point)[0] > middle else ("left", 4)
        axes.annotate(point["row"], _place(point), (offset, 4), textcoords="offset points", fontsize=6, ha=side)
    half = [
        float(np.median([50 * (p[side]["high"] - p[side]["low"]) for p in points])) for side in ("standard", "robust")
    ]
    spans = [(min(values), max(values)) for values in zip(*map(_place, points), strict=True)]
    corner = spans[0][0] + half[0], spans[1][0] + half[1]
    axes.errorbar(*corner, yerr=half[1], xerr=half[0], color=style.GREY, capsize=2, lw=0.8)
    axes.set(xlabel="standard accuracy, %", ylabel="robust accuracy, %")
    if len(lines) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=6.5)


def _draw_each(
    part: SubFigure, lines: Mapping[str, Sequence[dict[str, Any]]], points: Sequence[dict[str, Any]]
) -> None:
    """A small panel for each line, joined in the order of the config, before all points and the frontier."""
    count = math.ceil(len(lines) / COLUMNS)
    grid = part.subplots(count, COLUMNS, squeeze=False, sharex=True, sharey=True)
    everything = list(zip(*map(_place, points), strict=True))
    best = list(zip(*sorted(_place(point) for point in points if point["frontier"]), strict=True))
    for axes in grid.flat[len(lines) :]:
        axes.set_visible(False)
    for axes, (name, own) in zip(grid.flat, lines.items(), strict=False):
        axes.plot(*everything, color="#cccccc", marker=".", ms=2, ls="none")
        axes.plot(*best, color=style.BLACK, lw=0.6)
        axes.plot(*zip(*map(_place, own), strict=True), color=style.BLUE, marker="o", ms=2.5, lw=1)
        for point in (own[0], own[-1]) if len(own) > 1 else ():
            text = point["row"].removeprefix(name).strip()
            axes.annotate(text, _place(point), (2, 2), textcoords="offset points", fontsize=5)
        axes.set_title(name, fontsize=7, pad=2)
        axes.tick_params(labelsize=6)
