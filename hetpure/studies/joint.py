"""Figure 6: the joint distribution of original and purified pixel values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from hetpure.errors import require
from hetpure.reports.plots import style
from hetpure.reports.plots.intervals import mean_interval
from hetpure.studies.figure import Measured, RunFigure, plural
from hetpure.studies.finished import FinishedRun, attacks_of


def compare_values(original: Tensor, purified: Tensor, bins: int) -> dict[str, Any]:
    """How purified images (n, draws, C, H, W) in [0, 1] differ from the originals (n, C, H, W), value by value.

    Returns:
        ``counts`` (bins, bins) of pairs of values, the original's along the first axis; ``rmse`` in grey levels, mean
        over images and 95 % interval; ``correlation`` over all values.
    """
    original = original[:, None]
    error = (purified - original).square().mean(dim=(1, 2, 3, 4)).sqrt()
    x, y = (values.expand_as(purified).cpu().flatten().numpy() for values in (original, purified))
    counts = np.histogram2d(x, y, bins=bins, range=[[0, 1], [0, 1]])[0].astype(int)
    rmse = mean_interval(255 * error.cpu().numpy())
    return {"counts": counts.tolist(), "rmse": rmse, "correlation": float(np.corrcoef(x, y)[0, 1])}


@dataclass
class Joint(RunFigure):
    """Joint distribution of original and purified values."""

    images: int | None = None  # how many; by default all that are finished
    draws: int = 1  # purifications of each
    bins: int = 64  # of the histogram's sides

    def measure(self, run: FinishedRun, rows: Sequence[str]) -> Measured:
        require(self.bins >= 2, "bins", self.bins, "2 or more")
        compared = run.images(run.select(rows), self.images)
        panels = {
            row.name: {
                side: compare_values(row.clean, row.purifications(x, self.draws), self.bins)
                for side, x in row.sides().items()
            }
            for row in compared
        }
        n = len(compared[0].clean)
        shape = "x".join(map(str, compared[0].clean.shape[1:]))
        caption = (
            "Joint distribution of original and purified pixel values, of natural images (above) and adversarial ones "
            f"(below; each row's own, {attacks_of(compared)}). n = {n} images of {shape} values, "
            f"{plural(self.draws, 'draw')} of the defender's. Values on the diagonal are unchanged. RMSE: root mean "
            "square difference from the original image in grey levels of 255, mean over images with 95 % t-interval; "
            "r: correlation over all values."
        )
        return Measured({"n": n, "draws": self.draws, "panels": panels}, caption)

    def draw(self, measured: Measured) -> Figure:
        panels = measured.numbers["panels"]
        side = (7.2 - 0.9) / max(len(panels), 3)
        figure, drawing = style.sheet(7.2, 2 * side + 0.9, measured.caption)
        grid = drawing.subplots(2, len(panels), squeeze=False, sharex=True, sharey=True)
        norm = LogNorm(1, max(np.max(panel["counts"]) for sides in panels.values() for panel in sides.values()))
        for line, kind in zip(grid, ("natural", "adversarial"), strict=True):
            for axes, (name, sides) in zip(line, panels.items(), strict=True):
                counts = np.ma.masked_less(np.transpose(sides[kind]["counts"]), 1)
                axes.imshow(counts, origin="lower", extent=(0, 1, 0, 1), norm=norm, cmap=style.MAP)
                axes.plot([0, 1], [0, 1], color=style.VERMILLION, lw=0.6, ls="--", alpha=0.8)
                axes.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
                (mean, low, high), r = sides[kind]["rmse"], sides[kind]["correlation"]
                numbers = f"RMSE {mean:.1f} [{low:.1f}, {high:.1f}], r = {r:.3f}"
                axes.set_title(f"{name}\n{numbers}" if kind == "natural" else numbers, fontsize=8)
            line[0].set_ylabel(f"{kind} image,\npurified value")
        for axes in grid[1]:
            axes.set_xlabel("original value")
        drawing.colorbar(style.shades(norm), ax=grid, label="values a bin", shrink=0.7, aspect=30)
        return figure
