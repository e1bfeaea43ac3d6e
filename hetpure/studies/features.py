"""Figure 9: how far purified images lie from the originals in the classifier's feature space."""

from collections.abc import Sequence
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
from hetpure.studies.finished import FinishedRun, Images, purifications
from hetpure.studies.numbers import Measured, plural
from hetpure.studies.panels import legend_colours


def feature_distance(found: Sequence[Tensor], original: Sequence[Tensor]) -> Tensor:
    """Relative distance norm(f' - f) / norm(f) in each feature space, (N, spaces).

    Args:
        found: features (N, ..) of images, a tensor for each space.
        original: the originals' features, likewise.
    """
    columns = []
    for f, f0 in zip(found, original, strict=True):
        f, f0 = f.flatten(1), f0.flatten(1)
        columns.append((f - f0).norm(dim=1) / f0.norm(dim=1).clamp_min(torch.finfo(f0.dtype).tiny))
    return torch.stack(columns, dim=1)


@torch.no_grad()
def features(classifier: Classifier, x: Tensor, blocks: Sequence[Block], chunk: int) -> list[Tensor]:
    """Activations of the blocks and the logits, of images x (N, C, H, W) in [0, 1]."""
    parts = [[*block_activations(classifier, part, blocks), classifier(part)] for part in x.split(chunk)]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def measure(run: FinishedRun, rows: Sequence[str], images: int | None = None, draws: int = 2) -> Measured:
    """Purifies clean and adversarial images of each row and measures both against the clean ones.

    Args:
        run: the run.
        rows: the rows to compare; all where none is named.
        images: how many; all finished ones by default.
        draws: purifications of each image, over which its distance is averaged.
    """
    compared = run.images(run.compared(rows), images)
    blocks = blocks_of(compared)
    distances: dict[str, Any] = {}
    for found in compared:
        classifier, chunk = found.model.classifier, found.model.chunk_size
        original = features(classifier, found.clean, blocks, chunk)
        distances[found.name] = {}
        for side, x in (("natural", found.clean), ("adversarial", found.attacked())):
            purified = purifications(found, x, draws, label=f"{found.name}, {side}")
            each = [
                feature_distance(features(classifier, purified[:, k], blocks, chunk), original)
                for k in range(purified.shape[1])
            ]
            of_images = torch.stack(each).mean(dim=0)
            distances[found.name][side] = [mean_interval(column) for column in of_images.T.cpu().numpy()]
    n = len(compared[0].clean)
    spaces = [*(f"block {i + 1}" if isinstance(b, int) else b for i, b in enumerate(blocks)), "logits"]
    caption = (
        "Distance of purified from original images in the classifier's feature spaces, relative to the original's "
        "length: norm(f(purified) - f(original)) / norm(f(original)). Left: natural images; right: adversarial images, "
        f"each row's own ({compared[0].attack}). Mean over n = {n} images ({plural(draws, 'draw')} of the defender's "
        "each), bars: 95 % t-intervals over images. A row without a purifier shows what the attack alone does."
    )
    return Measured({"n": n, "draws": draws, "spaces": spaces, "distances": distances}, caption)


def draw(measured: Measured) -> Figure:
    """Two panels, the rows side by side in each feature space."""
    spaces, distances = measured.numbers["spaces"], measured.numbers["distances"]
    figure, drawing = style.sheet(7.2, 2.9, measured.caption)
    panels = drawing.subplots(1, 2, sharey=True)
    looks = legend_colours(len(distances))
    for axes, side in zip(panels, ("natural", "adversarial"), strict=True):
        for k, ((name, both), (colour, marker)) in enumerate(zip(distances.items(), looks, strict=True)):
            shift = 0.6 * (k + 0.5) / len(distances) - 0.3
            mean = [e[0] for e in both[side]]
            errors = [[e[0] - e[1] for e in both[side]], [e[2] - e[0] for e in both[side]]]
            at = [i + shift for i in range(len(spaces))]
            axes.errorbar(at, mean, errors, color=colour, marker=marker, ls="", capsize=2.5, ms=5, label=name)
        for i in range(len(spaces) - 1):
            axes.axvline(i + 0.5, color="#dddddd", lw=0.7, zorder=0)
        axes.set(xticks=range(len(spaces)), xticklabels=spaces, title=f"{side} images")
    top = max(e[2] for both in distances.values() for side in both.values() for e in side)
    panels[0].set(ylabel="relative feature distance", ylim=(0, 1.05 * top))
    panels[0].legend(loc="upper left")
    return figure


def blocks_of(compared: Sequence[Images]) -> list[Block]:
    """The blocks that a mask among the rows is made of, else the classifier's default.

    Raises:
        ConfigError: where there is neither.
    """
    for found in compared:
        if isinstance(found.model.purifier, HeterogeneousPurifier):
            return found.model.purifier.mask.blocks
    try:
        return default_blocks(compared[0].model.classifier)
    except ValueError as error:
        raise ConfigError(f"--row {compared[0].name}: {error}; a heterogeneous row among the rows names them") from None
