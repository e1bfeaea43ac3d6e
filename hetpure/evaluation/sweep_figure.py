"""Accuracy over one swept key as a line, over two as a heat map."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hetpure.evaluation.table import Accuracy

SIDES = {"standard": ("#0072B2", "o"), "robust": ("#D55E00", "s")}
"""Colour (Okabe and Ito's, told apart by all eyes) and marker."""

Pair = tuple[Accuracy, Accuracy]
"""Standard and robust accuracy."""


def draw_line(
    label: str,
    points: Sequence[tuple[Any, Pair]],
    others: Mapping[str, Pair],
    title: str,
    caption: str,
    file: Path,
) -> None:
    """Standard and robust accuracy with their 95 % intervals over the values of one key.

    Args:
        label: the key's.
        points: value and accuracies; values that are no numbers stand side by side in this order.
        others: rows outside the sweep by name, whose robust accuracy is a dashed line.
        title: headline.
        caption: what stands below, such as the number of images.
        file: where to.
    """
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value, _ in points)
    points = sorted(points, key=lambda point: point[0]) if numbers else points
    places = [float(value) for value, _ in points] if numbers else [float(i) for i in range(len(points))]
    joined = "-" if numbers else "none"  # nothing lies between two sets of blocks
    aside = 0.004 * (max(places) - min(places))  # so that the two bars of a value are both seen
    with mpl.rc_context({"font.size": 10}):
        figure = Figure(figsize=(6.4, 4.4), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for side, (name, (colour, marker)) in enumerate(SIDES.items()):
            accuracies = [pair[side] for _, pair in points]
            if not any(accuracy.count for accuracy in accuracies):
                continue
            values = [100 * accuracy.value for accuracy in accuracies]
            below = [100 * (accuracy.value - accuracy.low) for accuracy in accuracies]
            above = [100 * (accuracy.high - accuracy.value) for accuracy in accuracies]
            moved = [place + (2 * side - 1) * aside for place in places]
            axes.errorbar(
                moved, values, yerr=[below, above], color=colour, marker=marker, capsize=3, label=name, ls=joined
            )
        for name, style in zip(others, ("--", ":", "-.", (0, (1, 4))), strict=False):
            robust = others[name][1]
            if robust.count:
                axes.axhline(100 * robust.value, color="0.35", linestyle=style, label=f"{name}, robust")
        if not numbers:
            names = [_name(value) for value, _ in points]
            long = max(map(len, names)) > 8
            axes.set_xticks(places, names, rotation=30 if long else 0, ha="right" if long else "center")
        elif len(places) <= 12 and _spread(places):
            axes.set_xticks(places, [_name(value) for value, _ in points])
        axes.set(xlabel=label, ylabel="accuracy, %", ylim=(-2, 102))
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
        figure.supxlabel(caption, fontsize=8)
        figure.savefig(file)


def draw_heat_map(
    labels: tuple[str, str],
    points: Sequence[tuple[tuple[Any, Any], Pair]],
    title: str,
    caption: str,
    file: Path,
) -> None:
    """Standard and robust accuracy over the values of two keys; combinations without a result are hatched.

    Args:
        labels: the keys', horizontal and vertical.
        points: values and accuracies.
        title: see ``draw_line``.
        caption: see ``draw_line``.
        file: where to.
    """
    columns, rows = (_ordered([values[i] for values, _ in points]) for i in (0, 1))
    found = {(_name(x), _name(y)): pair for (x, y), pair in points}
    with mpl.rc_context({"font.size": 9}):
        size = (2 * (1.0 * len(columns) + 1.6), 0.75 * len(rows) + 1.9)
        figure = Figure(figsize=size, dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=10)
        for side, (name, axes) in enumerate(zip(SIDES, figure.subplots(1, 2, squeeze=False)[0], strict=True)):
            cells = [[found.get((_name(x), _name(y)), (None, None))[side] for x in columns] for y in rows]
            _heat(axes, cells, name)
            axes.set_xticks(range(len(columns)), [_name(x) for x in columns])
            axes.set_yticks(range(len(rows)), [_name(y) for y in rows])
            axes.set(xlabel=labels[0], ylabel=labels[1])
        figure.supxlabel(caption, fontsize=8)
        figure.savefig(file)


def _heat(axes: Axes, cells: Sequence[Sequence[Accuracy | None]], name: str) -> None:
    values = [[100 * cell.value if cell is not None else math.nan for cell in row] for row in cells]
    seen = [value for row in values for value in row if not math.isnan(value)]
    low, high = (min(seen), max(seen)) if seen else (0.0, 100.0)
    # At least ten points from end to end: less is no difference to see.
    middle, half = (low + high) / 2, max(high - low, 10.0) / 2
    axes.imshow(values, cmap="cividis", vmin=middle - half, vmax=middle + half, aspect="auto", origin="lower")
    for y, row in enumerate(cells):
        for x, cell in enumerate(row):
            if cell is None or not cell.count:
                axes.fill_between([x - 0.5, x + 0.5], y - 0.5, y + 0.5, facecolor="none", edgecolor="0.7", hatch="///")
                continue
            dark = 100 * cell.value <= middle
            text = f"{100 * cell.value:.1f}\n[{100 * cell.low:.0f}, {100 * cell.high:.0f}]"
            axes.text(x, y, text, ha="center", va="center", color="white" if dark else "black", fontsize=8)
    axes.set_title(f"{name} accuracy, %", fontsize=9)


def _spread(places: Sequence[float]) -> bool:
    """Whether ticks at all places leave room for their numbers."""
    gaps = [b - a for a, b in itertools.pairwise(places)]
    return not gaps or min(gaps) > (places[-1] - places[0]) / 14


def _ordered(values: Sequence[Any]) -> list[Any]:
    once = list({_name(value): value for value in values}.values())
    numbers = all(isinstance(value, int | float) for value in once)
    return sorted(once) if numbers else once


def _name(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "default" if value is None else str(value)
