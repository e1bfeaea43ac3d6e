"""Pictures of single images on their way through attack and defense."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from hetpure.noise import defense_draws
from hetpure.purification.classifier import PurifiedClassifier

SCALAR = ("attention map", "mask")
"""Panels that are maps over the image, not images."""


@dataclass(frozen=True)
class PictureRow:
    """One image's panels in the order of events, (C, H, W) or (1, H, W) in [0, 1], and what to say of it."""

    panels: dict[str, Tensor]
    caption: str


@torch.no_grad()
def picture_rows(
    model: PurifiedClassifier, clean: Tensor, adversarial: Tensor, sample: Tensor, captions: Sequence[str]
) -> tuple[list[PictureRow], float]:
    """Panels of some images, and by how much their perturbations are amplified.

    The purification shown is the first of the defender's draws, of the adversarial image.

    Args:
        model: the defense.
        clean: (B, C, H, W) in [0, 1].
        adversarial: like clean; clean itself where there was no attack.
        sample: (B,) dataset indices.
        captions: what to say of each image.
    """
    draws = defense_draws(model.seed, sample, 1)
    # One image at a time: a picture may show more images than fit through the networks together.
    views = [model.purifier.views(adversarial[i : i + 1], draws.rows(slice(i, i + 1))) for i in range(len(clean))]
    change = adversarial - clean
    amplification = 0.5 / max(float(change.abs().amax()), 1e-6)
    columns = {"clean": clean, "adversarial": adversarial, "perturbation": 0.5 + amplification * change}
    rows = []
    for i, caption in enumerate(captions):
        panels = {**{name: column[i] for name, column in columns.items()}, **{k: v[0] for k, v in views[i].items()}}
        rows.append(PictureRow({name: panel.cpu() for name, panel in panels.items()}, caption))
    return rows, amplification


def draw_pictures(rows: list[PictureRow], amplification: float, title: str, file: Path) -> None:
    """Writes the rows as one PNG, one image a line.

    Args:
        rows: what to draw, panels alike.
        amplification: by how much the perturbation panel exaggerates, for its heading.
        title: headline.
        file: where to.
    """
    names = list(rows[0].panels)
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(1.35 * len(names) + 1.5, 1.35 * len(rows) + 0.8), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=10)
        grid = figure.subplots(len(rows), len(names), squeeze=False)
        for number, (line, row) in enumerate(zip(grid, rows, strict=True)):
            for axes, name in zip(line, names, strict=True):
                panel = row.panels[name]
                scalar = name in SCALAR or name.startswith("block ")
                image = panel[0] if len(panel) == 1 else panel.movedim(0, -1)
                axes.imshow(image, cmap="viridis" if scalar else "gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                if number == 0:
                    heading = f"perturbation x{amplification:.3g}" if name == "perturbation" else name
                    axes.set_title(heading.replace(" ", "\n", 1), fontsize=9)
            line[0].set_ylabel(row.caption, rotation=0, ha="right", va="center", fontsize=8)
        figure.savefig(file)
