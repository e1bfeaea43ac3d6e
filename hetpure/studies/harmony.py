"""Figure 3: do the pixels inside the mask fit those around it, by resampling and its length U?

The paper judges by eye. Here the seam is measured too: the mean difference of neighbouring pixels across the mask's
border, over that of neighbouring pixels beside the border; and this over the same ratio in the original image, whose
objects have edges of their own. 1 is as harmonious as the original.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from hetpure.errors import ConfigError, require
from hetpure.purification.registry import build_purifier
from hetpure.reports.plots import style
from hetpure.reports.plots.intervals import geometric_interval
from hetpure.studies.figure import Measured, RunFigure, plural
from hetpure.studies.finished import FinishedRun
from hetpure.studies.panels import image_grid, outline, plot_intervals, to_bytes

GREY_LEVEL = 1 / 255
"""Added to both sides of every ratio: flat regions have no differences to divide by."""

KINDS = {
    "repaint": ("multi-step", style.VERMILLION, "s", -0.06),
    "single": ("one step", style.BLUE, "o", 0.06),
}
"""Kinds of resampling: in words, and how they are drawn."""


def seam_ratio(x: Tensor, mask: Tensor) -> Tensor:
    """Mean difference of neighbours in x (N, C, H, W) across the border of a mask (N, 1, H, W) over that beside it.

    (N,), NaN where the mask has no border. Beside the border are pairs on one side of it, both at most one pixel away
    from a pixel that the border touches.
    """

    def pairs(y: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views of all pixels that have a right, or a lower, neighbour, and of those neighbours."""
        return [(y[..., :-1], y[..., 1:]), (y[..., :-1, :], y[..., 1:, :])]

    touched = torch.zeros_like(mask, dtype=torch.bool)
    crossing = [a != b for a, b in pairs(mask)]
    for cross, neighbours in zip(crossing, pairs(touched), strict=True):
        for view in neighbours:
            view.logical_or_(cross)
    near = functional.max_pool2d(touched.to(x.dtype), 3, stride=1, padding=1) > 0
    beside = [a & b & ~cross for (a, b), cross in zip(pairs(near), crossing, strict=True)]
    change = torch.cat([(a - b).abs().mean(dim=1).flatten(1) for a, b in pairs(x)], dim=1)

    def mean(where: Sequence[Tensor]) -> Tensor:
        flat = torch.cat([part.flatten(1) for part in where], dim=1)
        return (change * flat).sum(1) / flat.sum(1)

    return (mean(crossing) + GREY_LEVEL) / (mean(beside) + GREY_LEVEL)


@dataclass
class Harmony(RunFigure):
    """Harmony by U, multi-step and single-step resampling, of clean images."""

    images: int = 16  # how many are measured
    draws: int = 2  # purifications of each
    shown: int = 2  # how many images are shown
    U: tuple[int, ...] = (1, 3, 10, 20)  # resampling lengths

    def measure(self, run: FinishedRun, rows: Sequence[str]) -> Measured:
        require(len(self.U) >= 1, "U", list(self.U), "one length or more")
        require(self.shown >= 1, "shown", self.shown, "1 or more")
        (row,) = run.images([run.heterogeneous(rows)], self.images)
        (mask,) = row.model.prepare(row.clean)
        original = seam_ratio(row.clean, mask)
        bordered = original.isfinite()
        n = int(bordered.sum())
        if n < 2:
            problem = f"but only {n} of its {len(mask)} images have a mask with a border, and two are needed"
            raise ConfigError("--row", problem, found=row.name)
        arrays = {"original": to_bytes(row.clean[: self.shown]), "mask": to_bytes(mask[: self.shown])}
        seams: dict[str, Any] = {}
        for kind, length in [("none", 1), *((kind, length) for kind in ("single", "repaint") for length in self.U)]:
            name = kind if kind == "none" else f"{kind} {length}"
            settings = {**run.rows[row.name]["purifier"], "resampling": kind, "U": length}
            purifier = build_purifier(settings, row.model.classifier, row.model.purifier.denoiser)  # pyright: ignore
            purified = row.purifications(row.clean, self.draws, purifier)
            each = seam_ratio(purified.flatten(0, 1), mask.repeat_interleave(purified.shape[1], 0))
            relative = (each.view(len(mask), -1).log().mean(1).exp() / original)[bordered].tolist()
            seams[name] = {"resampling": kind, "U": length, "seam": geometric_interval(relative), "of_each": relative}
            arrays[name] = to_bytes(purified[: self.shown, 0])
        without = "" if n == len(mask) else f" ({len(mask) - n} more have masks without a border)"
        caption = (
            f"Harmony of masked and other pixels by resampling length U, row {row.name}. Pictures: clean images, the "
            "mask's outline, and their first purification. Seam: difference of neighbouring pixels across the mask's "
            "border over that beside it, relative to the original image (1: as in the original). Geometric mean over "
            f"n = {n} clean images{without}, {plural(self.draws, 'draw')} each; bars: 95 % t-intervals over images; "
            "grey: without resampling. single: one more network call for each step of stage 1, whatever U; repaint "
            "(multi-step): U calls instead of one."
        )
        numbers = {"row": row.name, "n": n, "draws": self.draws, "U": list(self.U), "seams": seams}
        return Measured(numbers, caption, arrays)

    def draw(self, measured: Measured) -> Figure:
        U, seams, arrays = measured.numbers["U"], measured.numbers["seams"], measured.arrays
        shown = len(arrays["original"])
        height = 2 * shown * (7.2 - 0.5) / (len(U) + 2) + 0.35
        figure, drawing = style.sheet(7.2, height + 2.5, measured.caption)
        pictures, plot = style.stacked(drawing, [height, 2.5])
        columns = {"original": ["original"] * 2, "no resampling": ["none"] * 2}
        columns |= {f"U = {length}": [f"{kind} {length}" for kind in KINDS] for length in U}
        # Two lines an image, one for each kind.
        lines = {heading: np.stack([arrays[k] for k in names], 1) for heading, names in columns.items()}
        lines = {heading: images.reshape(-1, *images.shape[2:]) for heading, images in lines.items()}
        labels = [f"{kind}\n({words})" for kind, (words, *_) in KINDS.items()] * shown
        grid = image_grid(pictures, lines, labels)
        for i, axes in enumerate(grid[:, 0]):
            outline(axes, arrays["mask"][i // 2])
        axes = plot.subplots()
        mean, low, high = seams["none"]["seam"]
        axes.axhspan(low, high, color=style.GREY, alpha=0.18, lw=0)
        axes.axhline(mean, color=style.GREY, lw=1.5, label="no resampling")
        axes.axhline(1.0, color=style.BLACK, lw=0.8, ls=":", label="as in the original")
        for kind, (words, colour, marker, shift) in KINDS.items():
            x, intervals = [i + shift for i in range(len(U))], [seams[f"{kind} {length}"]["seam"] for length in U]
            look = {"color": colour, "marker": marker, "capsize": 3, "label": f"{kind} ({words})"}
            plot_intervals(axes, x, intervals, **look)
        axes.set(xticks=range(len(U)), xticklabels=[str(length) for length in U], xlabel="resampling length U")
        axes.set_ylabel("seam, relative to\nthe original image")
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom, top + 0.3 * (top - bottom))  # room for the legend
        axes.legend(ncols=2, loc="upper left")
        return figure
