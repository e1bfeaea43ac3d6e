"""Accuracy over settings: a line over one key, maps over two."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import SubFigure
from matplotlib.patches import Rectangle

from hetpure.reports.plots import style
from hetpure.runs.results import Accuracy

LINES = (("standard", style.NATURAL, "o", "-"), ("robust", style.ADVERSARIAL, "s", "--"))


def accuracy_panel(
    part: SubFigure,
    keys: Sequence[str],
    values: Sequence[Sequence[Any]],
    standard: Sequence[Accuracy],
    robust: Sequence[Accuracy],
    baselines: Mapping[str, Accuracy] | None = None,
) -> None:
    """Standard and robust accuracy over one key (a line), two (a map each), or more (one point a combination).

    Each point has a value for each key. ``baselines`` are robust accuracies of rows outside the sweep, by name, drawn
    as horizontal lines; maps do not show them.
    """
    if len(keys) != 2:
        flat = [point[0] if len(keys) == 1 else ", ".join(map(_text, point)) for point in values]
        accuracy_line(part.subplots(), ", ".join(keys), flat, standard, robust, baselines)
        return
    sides = {"standard": standard, "robust": robust}
    shown = {side: accuracies for side, accuracies in sides.items() if any(a.count for a in accuracies)} or sides
    norm = pair_norm([a for accuracies in shown.values() for a in accuracies])
    pairs: list[Any] = [tuple(_text(v) if isinstance(v, list) else v for v in point) for point in values]
    grid = part.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (side, accuracies) in zip(grid, shown.items(), strict=True):
        cells = dict(zip(pairs, accuracies, strict=True))
        accuracy_map(axes, (keys[0], keys[1]), cells, f"{side} accuracy, %", norm)
    for axes in grid[1:]:
        axes.set_ylabel("")
    part.colorbar(style.shades(norm), ax=list(grid), aspect=25)


def accuracy_line(
    axes: Axes,
    key: str,
    values: Sequence[Any],
    standard: Sequence[Accuracy],
    robust: Sequence[Accuracy],
    baselines: Mapping[str, Accuracy] | None = None,
) -> None:
    """Standard and robust accuracy over the values of one key, with 95 % intervals; see ``accuracy_panel``.

    Values that are not numbers are drawn at equal distances and not joined.
    """
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    order = sorted(range(len(values)), key=lambda i: _order(values[i]))
    at = [values[i] for i in order] if numeric else order
    span = (max(at) - min(at)) or 1
    for (name, colour, marker, ls), side, shift in zip(LINES, (standard, robust), (-0.004, 0.004), strict=True):
        shown = [(x, side[i]) for x, i in zip(at, order, strict=True) if side[i].count]
        if not shown:
            continue
        y = [100 * a.value for _, a in shown]
        ends = [[100 * (a.value - a.low) for _, a in shown], [100 * (a.high - a.value) for _, a in shown]]
        x = [x + shift * span for x, _ in shown]
        joined = ls if numeric else "none"  # there is nothing between two sets of blocks
        axes.errorbar(x, y, np.maximum(ends, 0), color=colour, marker=marker, ls=joined, capsize=3, ms=5, label=name)
    for (name, baseline), ls in zip((baselines or {}).items(), itertools.cycle(("--", ":", "-."))):
        if baseline.count:
            axes.axhline(100 * baseline.value, color=style.GREY, ls=ls, label=f"{name}, robust")
    names = [_text(values[i]) for i in order]
    if not numeric and max(map(len, names)) > 8:
        axes.set_xticks(at, names, rotation=30, ha="right")
    elif not numeric or _roomy(at):
        axes.set_xticks(at, names)
    axes.set(xlabel=key, ylabel="accuracy, %", ylim=(-3, 103))
    axes.legend()


def accuracy_map(
    axes: Axes, keys: tuple[str, str], cells: Mapping[tuple[Any, Any], Accuracy], title: str, norm: Normalize
) -> None:
    """A map of accuracy by pairs of two keys' values (horizontal, vertical), with the 95 % interval in each cell.

    Absent pairs and those of count 0 are hatched. ``norm`` is of the colours, in percent.
    """
    first, second = (sorted({pair[i] for pair in cells}, key=_order) for i in (0, 1))
    grid = np.full((len(second), len(first)), math.nan)
    for (a, b), accuracy in cells.items():
        if accuracy.count:
            grid[second.index(b), first.index(a)] = 100 * accuracy.value
    axes.imshow(grid, cmap=style.MAP, norm=norm, origin="lower", aspect="auto")
    for (i, j), value in np.ndenumerate(grid):
        if math.isnan(value):
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="///", ec="#999999", lw=0))
            continue
        accuracy = cells[first[j], second[i]]
        ink = "black" if norm(value) > 0.55 else "white"
        text = f"{value:.1f}\n[{100 * accuracy.low:.0f}, {100 * accuracy.high:.0f}]"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(first)), list(map(_text, first)))
    axes.set_yticks(range(len(second)), list(map(_text, second)))
    axes.set(xlabel=keys[0], ylabel=keys[1], title=title)


def pair_norm(accuracies: Sequence[Accuracy]) -> Normalize:
    """Colours for all accuracies of the maps, in percent; they span at least 20 points, so noise looks like noise."""
    shown = [100 * a.value for a in accuracies if a.count] or [0.0, 100.0]
    middle, half = (min(shown) + max(shown)) / 2, max(max(shown) - min(shown), 10.0) / 2
    return Normalize(middle - half, middle + half)


def _roomy(ticks: Sequence[float]) -> bool:
    """Whether ticks leave room for their numbers."""
    gaps = [b - a for a, b in itertools.pairwise(ticks)]
    return not gaps or min(gaps) > (ticks[-1] - ticks[0]) / 14


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers first, by size; then anything else, as text."""
    return (False, value) if isinstance(value, int | float) else (True, str(value))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
