"""The figure of a sweep: accuracy over one key as a line, over two as maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure, SubFigure

from hetpure.reports.plots import style
from hetpure.reports.plots.accuracy import accuracy_line, accuracy_map, pair_norm
from hetpure.runs.results import Accuracy

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
        points: value and accuracies.
        others: rows outside the sweep by name.
        title: headline.
        caption: what stands below, such as the number of images.
        file: where to.
    """
    figure, part = _sheet(6.4, 4.0, title, caption)
    values, pairs = [value for value, _ in points], [pair for _, pair in points]
    standard, robust = ([pair[side] for pair in pairs] for side in (0, 1))
    baselines = {name: pair[1] for name, pair in others.items()}
    with mpl.rc_context(style.SETTINGS):
        accuracy_line(part.subplots(), label, values, standard, robust, baselines)
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
    columns, rows = (len({str(values[i]) for values, _ in points}) for i in (0, 1))
    figure, part = _sheet(2 * (columns + 1.6), 0.75 * rows + 1.5, title, caption)
    norm = pair_norm([accuracy for _, pair in points for accuracy in pair])
    with mpl.rc_context(style.SETTINGS):
        grid = part.subplots(1, 2, sharey=True)
        for side, name in enumerate(("standard", "robust")):
            cells = {(_plain(x), _plain(y)): pair[side] for (x, y), pair in points}
            accuracy_map(grid[side], labels, cells, f"{name} accuracy, %", norm)
        grid[1].set_ylabel("")
        part.colorbar(style.shades(norm), ax=list(grid), aspect=25)
        figure.savefig(file)


def _sheet(width: float, height: float, title: str, caption: str) -> tuple[Figure, SubFigure]:
    figure, part = style.sheet(width, height, caption)
    part.suptitle(title, fontsize=9)
    return figure, part


def _plain(value: Any) -> Any:
    """A value as a map's key: lists as text."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value
