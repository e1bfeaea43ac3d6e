"""Parts of figures: grids of small images, a mask's outline, means with intervals."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import SubFigure
from torch import Tensor

from hetpure.reports.plots import style


def to_bytes(x: Tensor) -> np.ndarray:
    """Images (.., C, H, W) in [0, 1] as 8-bit values, for display."""
    return (x.detach().cpu() * 255).round().byte().numpy()


def image_grid(
    drawing: SubFigure, columns: Mapping[str, np.ndarray], labels: Sequence[str], maps: Sequence[str] = ()
) -> np.ndarray:
    """Draws 8-bit images (n, C, H, W) by heading, one image of each a line, with the n labels; one channel is grey.

    ``maps`` names columns that are drawn in the colours of maps instead. Returns the axes, (n, columns).
    """
    grid = drawing.subplots(len(labels), len(columns), squeeze=False)
    for (heading, images), line in zip(columns.items(), grid.T, strict=True):
        line[0].set_title("\n".join(textwrap.wrap(heading, 11, break_long_words=False)))
        for axes, image in zip(line, images, strict=True):
            axes.set(xticks=[], yticks=[])
            axes.spines[["top", "right"]].set_visible(True)
            pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
            axes.imshow(pixels, style.MAP if heading in maps else "gray", vmin=0, vmax=255, interpolation="nearest")
    for axes, label in zip(grid[:, 0], labels, strict=True):
        axes.set_ylabel(label)
    return grid


def outline(axes: Any, mask: np.ndarray) -> None:
    """Draws the border of a mask (1, H, W) along pixel edges, white on black so that it shows on any image."""
    inside = np.pad(mask[0] > 0, 1)
    upright = np.argwhere(inside[:, 1:] != inside[:, :-1])
    level = np.argwhere(inside[1:] != inside[:-1])
    edges = [[(j - 0.5, i - 1.5), (j - 0.5, i - 0.5)] for i, j in upright]
    edges += [[(j - 1.5, i - 0.5), (j - 0.5, i - 0.5)] for i, j in level]
    for colour, width in (("black", 2.2), ("white", 1.0)):
        axes.add_collection(LineCollection(edges, colors=colour, linewidths=width, capstyle="round"))


def plot_intervals(axes: Any, x: Sequence[float], intervals: Sequence[Sequence[float]], **look: Any) -> None:
    """Plots means with error bars, from (mean, low, high) at each x."""
    mean, low, high = np.array(intervals).T
    axes.errorbar(x, mean, [mean - low, high - mean], **look)
