"""Figure 4: purification trajectories, laid out by t-SNE among test images of the classes in question.

A point of a trajectory is the image that a network call takes x(t) for: the x(0) that x(t) and the predicted noise
imply. The noisy x(t) itself is far from all images in a classifier's feature space.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from torch import Tensor, nn
from tqdm import tqdm

from hetpure.data.items import item
from hetpure.defense.hooks import after_calls
from hetpure.errors import ConfigError, require
from hetpure.models.classifiers import Classifier
from hetpure.models.denoisers import Denoiser
from hetpure.purification.base import to_unit
from hetpure.purification.registry import needs_denoiser
from hetpure.reports.plots import style
from hetpure.studies.features import blocks_of, compute_features
from hetpure.studies.figure import Measured, RunFigure, plural
from hetpure.studies.finished import FinishedRun, RowImages, attacks_of

PERPLEXITY = 30
"""Of t-SNE, where there are enough points."""

LOOKS = {"natural": ("clean", style.BLUE, "o"), "adversarial": ("adversarial", style.VERMILLION, "s")}
BACKGROUND_LOOKS = ((style.SKY, "o"), (style.ORANGE, "^"), (style.GREY, "v"), (style.PURPLE, "P"))


@torch.no_grad()
def trajectory(row: RowImages, x: Tensor, position: int, count: int) -> tuple[list[int], Tensor]:
    """The way of one of a row's images x (n, C, H, W) in [0, 1] through its purifier, which has a denoiser.

    Returns:
        The timestep of each network call; and (count, calls + 2, C, H, W) in [0, 1]: the image, what each call takes it
        for, the purified image.
    """
    denoiser = row.model.purifier.denoiser
    assert isinstance(denoiser, Denoiser)
    timesteps: list[int] = []
    points = [x[position].expand(count, *x.shape[1:]).contiguous()]

    def record(_: nn.Module, arguments: tuple[Tensor, int], noise: Tensor) -> None:
        x_t, t = arguments
        timesteps.append(t)
        points.append(to_unit(denoiser.schedule.predict_x0(x_t, t, noise)))

    with after_calls([denoiser], record):
        draws = row.draws(count).rows(slice(position * count, (position + 1) * count))
        purified = row.model.purifier(points[0], draws)
    return timesteps, torch.stack([*points, purified], dim=1)


@torch.no_grad()
def predict(classifier: Classifier, x: Tensor) -> Tensor:
    """The classes of images (N, C, H, W) in [0, 1], (N,) on the CPU."""
    return classifier(x).argmax(1).cpu()


@dataclass
class Trajectories(RunFigure):
    """t-SNE of purification trajectories, in rows whose purifiers have a denoiser.

    Images are the first of the subset that the bare classifier classifies right when they are clean and wrong when
    attacked; those that get the same wrong class in every row come before others.
    """

    images: int = 2  # how many, each with a layout of its own
    draws: int = 3  # purifications of each
    background: int = 120  # how many test images of each class in question the layout also has

    def measure(self, run: FinishedRun, rows: Sequence[str]) -> Measured:
        require(self.images >= 1, "images", self.images, "1 or more")
        require(self.background >= 10, "background", self.background, "10 or more")
        compared = run.images(run.select(rows, needs_denoiser, "a row whose purifier has a denoiser"))
        positions = _broken(compared)[: self.images]
        if not positions:
            problem = "has no image that the bare classifier gets right when clean and wrong when attacked"
            raise ConfigError(str(run.saved.path), problem)
        layouts = [self._layout(run, compared, position) for position in tqdm(positions, "images", leave=False)]
        few = {name: map(str, t) for name, t in layouts[0]["timesteps"].items() if len(t) <= 8}
        steps = "; ".join(f"{name}: t = {', '.join(t)}" for name, t in few.items())
        caption = (
            f"Purification trajectories of n = {plural(len(positions), 'image')} ({plural(self.draws, 'draw')} each), "
            f"clean and adversarial (each row's own, {attacks_of(compared)}): from the given image through what each "
            f"network call takes it for{f' ({steps})' if steps else ''} to the purified image. t-SNE of the last "
            f"block's mean activations, one layout a line of panels, among {self.background} test images of the true "
            "class and of each class that the attacked image is taken for. Images: the first that the bare classifier "
            "gets right when clean and wrong when attacked, in the same wrong class in every row where there are such. "
            "t-SNE keeps neighbours, not distances: lengths and directions have no meaning."
        )
        names = [row.name for row in compared]
        return Measured({"n": len(positions), "draws": self.draws, "rows": names, "layouts": layouts}, caption)

    def draw(self, measured: Measured) -> Figure:
        names, layouts = measured.numbers["rows"], measured.numbers["layouts"]
        side = (7.2 - 0.6) / max(len(names), 2)
        figure, drawing = style.sheet(7.2, len(layouts) * (side * 0.85 + 0.45) + 0.4, measured.caption)
        grid = drawing.subplots(len(layouts), len(names), squeeze=False)
        for line, layout in zip(grid, layouts, strict=True):
            for axes, name in zip(line, names, strict=True):
                _draw_layout(axes, layout, name)
            line[0].set_ylabel(f"{layout['label']}, test image {layout['index']}")
            legend = {"markerscale": 2, "handletextpad": 0.1, "borderpad": 0.1, "title_fontsize": 8}
            line[0].legend(loc="best", title="test images of", **legend)
        look, first = {"mfc": "white", "mew": 1.6}, grid[0, 0]
        handles = [
            first.plot([], [], color=colour, marker=marker, label=f"{words}: given", **look)[0]
            for words, colour, marker in LOOKS.values()
        ]
        handles += first.plot([], [], color=style.BLACK, marker="*", ls="", ms=9, label="purified")
        drawing.legend(handles=handles, loc="outside lower center", ncols=3)
        return figure

    def _layout(self, run: FinishedRun, compared: Sequence[RowImages], position: int) -> dict[str, Any]:
        """One image's trajectories in every row, and images of its classes, in one t-SNE."""
        names, model = run.class_names, compared[0].model
        label = int(compared[0].label[position])
        paths, timesteps, ends, wrong = {}, {}, {row.name: {} for row in compared}, []
        for row in compared:
            for side, x in row.sides().items():
                timesteps[row.name], path = trajectory(row, x, position, self.draws)
                paths[row.name, side] = path
                ends[row.name][side] = [names[int(k)] for k in predict(model.classifier, path[:, -1])]
            wrong += predict(model.classifier, row.sides()["adversarial"][[position]]).tolist()
        background = {names[k]: _images_of(run, k, self.background) for k in dict.fromkeys([label, *wrong])}
        parts = [*background.values(), *(path.flatten(0, 1).cpu() for path in paths.values())]
        x, last = torch.cat(parts).to(run.device), blocks_of(compared)[-1]
        points = compute_features(model.classifier, x, [last], model.chunk_size)[0].mean(dim=(2, 3)).cpu().numpy()
        tsne = TSNE(perplexity=min(PERPLEXITY, (len(points) - 1) / 3), init="pca", random_state=0)
        split = iter(np.split(tsne.fit_transform(points).round(3), np.cumsum([len(part) for part in parts])[:-1]))
        layout = {"index": int(compared[0].index[position]), "label": names[label]}
        layout |= {"seen_as": [names[k] for k in wrong], "timesteps": timesteps}
        layout["background"] = {name: next(split).tolist() for name in background}
        trajectories = {row.name: {} for row in compared}
        for (name, side), path in paths.items():
            trajectories[name][side] = next(split).reshape(*path.shape[:2], 2).tolist()
        return {**layout, "trajectories": trajectories, "ends": ends}


def _draw_layout(axes: Any, layout: Mapping[str, Any], name: str) -> None:
    """One row's trajectories of one image."""
    for (label, points), (colour, marker) in zip(layout["background"].items(), BACKGROUND_LOOKS, strict=False):
        axes.scatter(*np.array(points).T, s=9, color=colour, marker=marker, lw=0, alpha=0.5, label=label)
    right = []
    for side, (words, colour, marker) in LOOKS.items():
        paths, ends = np.array(layout["trajectories"][name][side]), layout["ends"][name][side]
        for path in paths:
            axes.plot(*path.T, color=colour, lw=1.0, alpha=0.8, zorder=3)
            axes.plot(*path[1:-1].T, color=colour, marker=".", ms=3, ls="", zorder=4)
            axes.plot(*path[-1], color=colour, marker="*", ms=11, mec="white", mew=0.6, zorder=6)
        axes.plot(*paths[0][0], color="white", mec=colour, mew=1.6, marker=marker, ms=7, zorder=5)
        right.append(f"{words} {ends.count(layout['label'])} of {len(ends)}")
    axes.set_title(f"{name}: seen as {layout['label']} at the end\n{', '.join(right)}", fontsize=8)
    axes.set(xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(True)


def _broken(compared: Sequence[RowImages]) -> list[int]:
    """Positions of images that every row's attack turns; first those that all turn into the same class."""
    classifier, label = compared[0].model.classifier, compared[0].label
    attacked = torch.stack([predict(classifier, row.sides()["adversarial"]) for row in compared])
    broken = (predict(classifier, compared[0].clean) == label) & (attacked != label).all(dim=0)
    alike = (attacked == attacked[0]).all(dim=0)
    return [*(broken & alike).nonzero().flatten().tolist(), *(broken & ~alike).nonzero().flatten().tolist()]


def _images_of(run: FinishedRun, label: int, count: int) -> Tensor:
    """Clean test images of a class, outside the evaluated subset where there are any."""
    source, subset = run.data.test_source, set(run.data.indices)
    of_class = [i for i, k in enumerate(source.labels) if int(k) == label]
    outside = [i for i in of_class if i not in subset] or of_class
    return torch.stack([item(source, i)["image"] for i in outside[:count]])
