"""Small pictures in a figure."""

from typing import Any

import numpy as np
from torch import Tensor

from hetpure.reports.plots import style


def to_bytes(x: Tensor) -> np.ndarray:
    """Images (.., C, H, W) in [0, 1] as 8-bit values, for display."""
    return (x.detach().cpu() * 255).round().byte().numpy()


def show(axes: Any, image: np.ndarray, title: str = "", cmap: str = "gray") -> Any:
    """Draws an 8-bit image (C, H, W) without ticks; a map (1, H, W) in a colour map's shades of 0..1."""
    axes.set(xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(True)
    if title:
        axes.set_title(title)
    if len(image) == 1:
        return axes.imshow(image[0] / 255, cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
    return axes.imshow(np.moveaxis(image, 0, -1), interpolation="nearest")


def outline(axes: Any, mask: np.ndarray) -> None:
    """Draws a mask's border along the pixels' edges, white on black so that it shows on any image."""
    inside = np.pad(mask[0] > 0, 1)
    height, width = inside.shape
    for colour, width_ in (("black", 2.2), ("white", 1.0)):
        for i, j in zip(*np.nonzero(inside[:, 1:] != inside[:, :-1]), strict=True):
            axes.plot([j - 0.5, j - 0.5], [i - 1.5, i - 0.5], color=colour, lw=width_, solid_capstyle="round")
        for i, j in zip(*np.nonzero(inside[1:] != inside[:-1]), strict=True):
            axes.plot([j - 1.5, j - 0.5], [i - 0.5, i - 0.5], color=colour, lw=width_, solid_capstyle="round")
    axes.set(xlim=(-0.5, width - 2.5), ylim=(height - 2.5, -0.5))


def legend_colours(count: int) -> list[tuple[str, str]]:
    """Colour and marker of each of some methods, alike in every figure."""
    return [(style.METHODS[i % len(style.METHODS)], style.MARKERS[i % len(style.MARKERS)]) for i in range(count)]
