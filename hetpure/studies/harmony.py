"""Figure 3: do the pixels inside the mask fit those around it, by resampling and its length U?

The paper judges by eye. Here a seam is measured too: by how much neighbouring pixels differ where the mask's border
runs between them, over how much neighbours differ that lie beside the border; and that over the same ratio in the
original image, whose objects have edges of their own. 1 is as harmonious as the original.
"""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from hetpure.errors import ConfigError
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.purification.registry import build_purifier
from hetpure.reports.plots import style
from hetpure.reports.plots.intervals import geometric_interval
from hetpure.studies.finished import FinishedRun, Images, purifications
from hetpure.studies.numbers import Measured, plural
from hetpure.studies.panels import outline, show, to_bytes

GREY_LEVEL = 1 / 255
"""Added to both sides of every ratio: flat regions have no differences to divide by."""


def seam_ratio(x: Tensor, mask: Tensor) -> Tensor:
    """Mean difference of neighbours across the mask's border over that of neighbours beside it.

    Args:
        x: (N, C, H, W) in [0, 1].
        mask: (N, 1, H, W) of zeros and ones.

    Returns:
        (N,); NaN where the mask has no border. Beside the border are pairs on one side of it, both at most one pixel
        away from a pixel that the border touches.
    """
    crossing, beside, change = [], [], []
    pairs = [(slice(None, -1), slice(1, None), -1), (slice(None, -1), slice(1, None), -2)]
    touched = torch.zeros_like(mask, dtype=torch.bool)
    for first, second, dim in pairs:
        cross = _cut(mask, first, dim) != _cut(mask, second, dim)
        _cut(touched, first, dim).logical_or_(cross)
        _cut(touched, second, dim).logical_or_(cross)
    near = functional.max_pool2d(touched.to(x.dtype), 3, stride=1, padding=1) > 0
    for first, second, dim in pairs:
        cross = _cut(mask, first, dim) != _cut(mask, second, dim)
        change.append((_cut(x, first, dim) - _cut(x, second, dim)).abs().mean(dim=1).flatten(1))
        crossing.append(cross.flatten(1))
        beside.append((_cut(near, first, dim) & _cut(near, second, dim) & ~cross).flatten(1))
    d, across, along = torch.cat(change, 1), torch.cat(crossing, 1), torch.cat(beside, 1)

    def mean(where: Tensor) -> Tensor:
        return (d * where).sum(1) / where.sum(1)

    return (mean(across) + GREY_LEVEL) / (mean(along) + GREY_LEVEL)


def measure(
    run: FinishedRun,
    rows: Sequence[str],
    images: int = 16,
    draws: int = 2,
    shown: int = 2,
    U: tuple[int, ...] = (1, 3, 10, 20),
) -> Measured:
    """Purifies clean images without resampling, with ``single`` (the paper's) and with ``repaint`` (multi-step).

    Args:
        run: the run.
        rows: one row with a heterogeneous purifier, or none for the first.
        images: how many images are measured.
        draws: purifications of each.
        shown: how many images are pictured.
        U: resampling lengths.
    """
    if not U or shown < 1:
        raise ConfigError("U and shown: found nothing to show, accepted are lengths and a number above 0")
    (found,) = run.images([run.heterogeneous(rows)], images)
    (mask,) = found.model.prepare(found.clean)
    bordered = seam_ratio(found.clean, mask).isfinite()
    if int(bordered.sum()) < 2:
        raise ConfigError(f"--row {found.name}: fewer than two of {len(mask)} images have a mask with a border")
    shown = min(shown, len(mask))
    original = seam_ratio(found.clean, mask)
    seams: dict[str, Any] = {}
    arrays = {"original": to_bytes(found.clean[:shown]), "mask": to_bytes(mask[:shown])}
    for kind, length in [("none", 1), *((kind, length) for kind in ("single", "repaint") for length in U)]:
        name = kind if kind == "none" else f"{kind} {length}"
        purified = purifications(found, found.clean, draws, _with(found, kind, length), f"{name} of {found.name}")
        each = seam_ratio(purified.flatten(0, 1), mask.repeat_interleave(purified.shape[1], 0))
        relative = (each.view(len(mask), -1).log().mean(1).exp() / original)[bordered].tolist()
        seams[name] = {"resampling": kind, "U": length, "seam": geometric_interval(relative), "of_each": relative}
        arrays[name] = to_bytes(purified[:shown, 0])
    n = int(bordered.sum())
    without = "" if n == len(mask) else f" ({len(mask) - n} more have masks without a border)"
    caption = (
        f"Harmony of masked and other pixels by resampling length U, row {found.name}. Pictures: clean images, the "
        "mask's outline, and their first purification. Seam: difference of neighbouring pixels across the mask's "
        "border over that beside it, relative to the original image (1: as in the original). Geometric mean over "
        f"n = {n} clean images{without}, {plural(draws, 'draw')} each; bars: 95 % t-intervals over images; grey: "
        "without resampling. single: one more network call a step of stage 1, whatever U; repaint (multi-step): U "
        "calls in place of one."
    )
    return Measured({"row": found.name, "n": n, "draws": draws, "U": list(U), "seams": seams}, caption, arrays)


def draw(measured: Measured) -> Figure:
    """Pictures above, the seam against U below."""
    U, seams, arrays = measured.numbers["U"], measured.numbers["seams"], measured.arrays
    shown = len(arrays["original"])
    width = 7.2
    side = (width - 0.5) / (len(U) + 2)
    figure, drawing = style.sheet(width, 2 * shown * side + 0.35 + 2.5, measured.caption)
    pictures, plot = style.stacked(drawing, [2 * shown * side + 0.35, 2.5])
    grid = pictures.subplots(2 * shown, len(U) + 2, squeeze=False)
    for i in range(shown):
        for line, kind in enumerate(("repaint", "single")):
            axes = grid[2 * i + line]
            show(axes[0], arrays["original"][i], "original" if not i and not line else "")
            outline(axes[0], arrays["mask"][i])
            show(axes[1], arrays["none"][i], "no resampling" if not i and not line else "")
            for one, length in zip(axes[2:], U, strict=True):
                show(one, arrays[f"{kind} {length}"][i], f"U = {length}" if not i and not line else "")
            axes[0].set_ylabel(f"{kind}" + ("\n(multi-step)" if kind == "repaint" else "\n(one step)"))
    axes = plot.subplots()
    _, low, high = seams["none"]["seam"]
    axes.axhspan(low, high, color=style.GREY, alpha=0.18, lw=0)
    axes.axhline(seams["none"]["seam"][0], color=style.GREY, lw=1.5, label="no resampling")
    axes.axhline(1.0, color=style.BLACK, lw=0.8, ls=":", label="as in the original")
    at = range(len(U))
    for kind, colour, marker, shift in (
        ("repaint", style.VERMILLION, "s", -0.06),
        ("single", style.BLUE, "o", 0.06),
    ):
        ends = [seams[f"{kind} {length}"]["seam"] for length in U]
        mean = [e[0] for e in ends]
        errors = [[e[0] - e[1] for e in ends], [e[2] - e[0] for e in ends]]
        label = "repaint (multi-step)" if kind == "repaint" else "single (one step)"
        axes.errorbar([x + shift for x in at], mean, errors, color=colour, marker=marker, capsize=3, label=label)
    axes.set(xticks=list(at), xticklabels=[str(length) for length in U], xlabel="resampling length U")
    axes.set_ylabel("seam, relative to\nthe original image")
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top + 0.3 * (top - bottom))  # room for the legend
    axes.legend(ncols=2, loc="upper left")
    return figure


def _with(images: Images, resampling: str, U: int) -> HeterogeneousPurifier:
    """The row's purifier with another resampling."""
    model = images.model
    settings = {**images.settings, "resampling": resampling, "U": U}
    purifier = build_purifier(settings, model.classifier, model.purifier.denoiser)  # pyright: ignore
    assert isinstance(purifier, HeterogeneousPurifier)
    return purifier


def _cut(x: Tensor, part: slice, dim: int) -> Tensor:
    return x[..., part] if dim == -1 else x[..., part, :]
