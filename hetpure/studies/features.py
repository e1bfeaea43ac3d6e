"""Figure 9: how far purified images are from the originals in the classifier's feature space."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from hetpure.errors import ConfigError
from hetpure.models.activations import Block, block_activations, default_blocks
from hetpure.models.classifiers import Classifier
from hetpure.purification.heterogeneous import HeterogeneousPurifier
from hetpure.reports.plots import style
from hetpure.reports.plots.intervals import mean_interval
from hetpure.studies.figure import Measured, RunFigure, plural
from hetpure.studies.finished import FinishedRun, RowImages, attacks_of
from hetpure.studies.panels import plot_intervals


def feature_distance(features: Sequence[Tensor], original: Sequence[Tensor]) -> Tensor:
    """norm(f - f0) / norm(f0), (N, spaces), of features f and the originals' f0: (N, ..) in each space."""
    pairs = [(f.flatten(1), f0.flatten(1)) for f, f0 in zip(features, original, strict=True)]
    tiny = torch.finfo(original[0].dtype).tiny
    return torch.stack([(f - f0).norm(dim=1) / f0.norm(dim=1).clamp_min(tiny) for f, f0 in pairs], dim=1)


@torch.no_grad()
def compute_features(classifier: Classifier, x: Tensor, blocks: Sequence[Block], chunk: int) -> list[Tensor]:
    """Activations of the blocks and the logits, of images x (N, C, H, W) in [0, 1]."""
    parts = [[*block_activations(classifier, part, blocks), classifier(part)] for part in x.split(chunk)]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def blocks_of(compared: Sequence[RowImages]) -> list[Block]:
    """The blocks of the first attention mask among the rows, else the classifier's default, else ConfigError."""
    for row in compared:
        if isinstance(row.model.purifier, HeterogeneousPurifier):
            return row.model.purifier.mask.blocks
    try:
        return default_blocks(compared[0].model.classifier)
    except ValueError as error:
        raise ConfigError("--row", f"one with a heterogeneous purifier is needed: {error}") from None


@dataclass
class Features(RunFigure):
    """Feature distance, natural and adversarial."""

    images: int | None = None  # how many; by default all that are finished
    draws: int = 2  # purifications of each image, whose distance is their mean

    def measure(self, run: FinishedRun, rows: Sequence[str]) -> Measured:
        compared = run.images(run.select(rows), self.images)
        blocks = blocks_of(compared)
        distances: dict[str, Any] = {}
        for row in compared:
            classifier, chunk = row.model.classifier, row.model.chunk_size
            original = compute_features(classifier, row.clean, blocks, chunk)
            distances[row.name] = {}
            for side, x in row.sides().items():
                draws = row.purifications(x, self.draws).unbind(1)
                each = [feature_distance(compute_features(classifier, y, blocks, chunk), original) for y in draws]
                of_images = torch.stack(each).mean(dim=0)
                distances[row.name][side] = [mean_interval(column) for column in of_images.T.cpu().numpy()]
        n = len(compared[0].clean)
        spaces = [*(f"block {i + 1}" if isinstance(b, int) else b for i, b in enumerate(blocks)), "logits"]
        caption = (
            "Distance of purified from original images in the classifier's feature spaces, relative to the length of "
            "the original's features: norm(f(purified) - f(original)) / norm(f(original)). Left: natural images; "
            f"right: adversarial images, each row's own ({attacks_of(compared)}). Mean over n = {n} images "
            f"({plural(self.draws, 'draw')} of the defender's each), bars: 95 % t-intervals over images. A row without "
            "a purifier shows the effect of the attack alone."
        )
        return Measured({"n": n, "draws": self.draws, "spaces": spaces, "distances": distances}, caption)

    def draw(self, measured: Measured) -> Figure:
        spaces, distances = measured.numbers["spaces"], measured.numbers["distances"]
        figure, drawing = style.sheet(7.2, 2.9, measured.caption)
        panels = drawing.subplots(1, 2, sharey=True)
        looks = list(zip(style.METHODS, style.MARKERS, strict=True))
        for axes, side in zip(panels, ("natural", "adversarial"), strict=True):
            for k, (name, sides) in enumerate(distances.items()):
                colour, marker = looks[k % len(looks)]
                x = [i + 0.6 * (k + 0.5) / len(distances) - 0.3 for i in range(len(spaces))]
                plot_intervals(axes, x, sides[side], color=colour, marker=marker, ls="", capsize=2.5, ms=5, label=name)
            for i in range(len(spaces) - 1):
                axes.axvline(i + 0.5, color="#dddddd", lw=0.7, zorder=0)
            axes.set(xticks=range(len(spaces)), xticklabels=spaces, title=f"{side} images")
        top = max(high for sides in distances.values() for side in sides.values() for _, _, high in side)
        panels[0].set(ylabel="relative feature distance", ylim=(0, 1.05 * top))
        panels[0].legend(loc="upper left")
        return figure
