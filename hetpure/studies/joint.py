"""Figure 6: the joint distribution of original and purified pixel values."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from hetpure.errors import ConfigError
from hetpure.reports.plots import style
from hetpure.reports.plots.intervals import mean_interval
from hetpure.studies.finished import FinishedRun, purifications
from hetpure.studies.numbers import Measured, plural


def joint_histogram(original: Tensor, purified: Tensor, bins: int) -> np.ndarray:
    """Counts (bins, bins) of pairs of values in [0, 1], the original's along the first axis."""
    pair = original.expand_as(purified).cpu().flatten().numpy(), purified.cpu().flatten().numpy()
    return np.histogram2d(*pair, bins=bins, range=[[0, 1], [0, 1]])[0].astype(int)


def measure(
    run: FinishedRun, rows: Sequence[str], images: int | None = None, draws: int = 1, bins: int = 64
) -> Measured:
    """Purifies clean and adversarial images of each row and compares both with the clean ones, value by value.

    Args:
        run: the run.
        rows: the rows to compare; all where none is named.
        images: how many; all finished ones by default.
        draws: purifications of each.
        bins: of the histogram's sides.
    """
    if bins < 2:
        raise ConfigError(f"bins: found {bins}, accepted is 2 or more")
    panels: dict[str, Any] = {}
    compared = run.images(run.compared(rows), images)
    for found in compared:
        sides = {"natural": found.clean, "adversarial": found.attacked()}
        panels[found.name] = {}
        for side, x in sides.items():
            purified = purifications(found, x, draws, label=f"{found.name}, {side}")
            original = found.clean[:, None]
            error = (purified - original).square().mean(dim=(1, 2, 3, 4)).sqrt()
            values = [v.expand_as(purified).cpu().flatten().numpy() for v in (original, purified)]
            panels[found.name][side] = {
                "counts": joint_histogram(original, purified, bins).tolist(),
                "rmse": mean_interval(255 * error.cpu().numpy()),
                "correlation": float(np.corrcoef(values)[0, 1]),
            }
    n = len(compared[0].clean)
    shape = "x".join(map(str, compared[0].clean.shape[1:]))
    caption = (
        "Joint distribution of original and purified pixel values, of natural images (above) and adversarial ones "
        f"(below; each row's own, {compared[0].attack}). n = {n} images of {shape} values, {plural(draws, 'draw')} of "
        "the defender's. On the diagonal nothing has changed. RMSE: root mean square difference from the original "
        "image in grey levels of 255, mean over images with 95 % t-interval; r: correlation over all values."
    )
    return Measured({"n": n, "draws": draws, "panels": panels}, caption)


def draw(measured: Measured) -> Figure:
    """A column for each row of the run, natural above, adversarial below."""
    panels = measured.numbers["panels"]
    across = max(len(panels), 3)
    side = (7.2 - 0.9) / across
    figure, drawing = style.sheet(7.2, 2 * side + 0.9, measured.caption)
    grid = drawing.subplots(2, len(panels), squeeze=False, sharex=True, sharey=True)
    counts = {(name, kind): np.array(p["counts"]) for name, both in panels.items() for kind, p in both.items()}
    norm = LogNorm(1, max(int(c.max()) for c in counts.values()))
    for line, kind in zip(grid, ("natural", "adversarial"), strict=True):
        for axes, name in zip(line, panels, strict=True):
            c = counts[name, kind]
            axes.imshow(np.ma.masked_less(c.T, 1), origin="lower", extent=(0, 1, 0, 1), norm=norm, cmap=style.MAP)
            axes.plot([0, 1], [0, 1], color=style.VERMILLION, lw=0.6, ls="--", alpha=0.8)
            mean, low, high = panels[name][kind]["rmse"]
            axes.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
            title = f"{name}\n" if kind == "natural" else ""
            axes.set_title(
                f"{title}RMSE {mean:.1f} [{low:.1f}, {high:.1f}], r = {panels[name][kind]['correlation']:.3f}",
                fontsize=8,
            )
            if kind == "adversarial":
                axes.set_xlabel("original value")
        line[0].set_ylabel(f"{kind} image,\npurified value")
    drawing.colorbar(style.shades(norm), ax=grid, label="values a bin", shrink=0.7, aspect=30)
    return figure
